"""Which anchor learns which object: task-aligned assignment, and ATSS for the first epochs.

Papers: Feng et al., "TOOD: Task-aligned One-stage Object Detection", ICCV 2021 (https://arxiv.org/abs/2108.07755),
section 3.2; Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection" (ATSS), CVPR 2020
(https://arxiv.org/abs/1912.02424). Code: PaddleDetection, ppdet/modeling/assigners/task_aligned_assigner.py and
atss_assigner.py, Apache-2.0. Changed: candidates are scattered instead of one-hot encoded (with 256 objects that saves
most of the memory); a level with fewer cells than k gives all of them; both return the index of the object, which
masks are gathered by.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from rayseg.models.blocks.boxes import pairwise_iou, points_inside


class Assignment(NamedTuple):
    """Targets of every anchor; A anchors, N images.

    Attributes:
        labels: int64 [N, A], `num_classes` for background.
        boxes: float32 [N, A, 4], xyxy in input pixels; meaningless for background.
        scores: float32 [N, A, num_classes], how well the anchor should do at its class; 0 for background.
        objects: int64 [N, A], index of the object in its image's list; 0 for background.
    """

    labels: paddle.Tensor
    boxes: paddle.Tensor
    scores: paddle.Tensor
    objects: paddle.Tensor


@paddle.no_grad()
def assign_task_aligned(
    scores: paddle.Tensor,
    boxes: paddle.Tensor,
    points: paddle.Tensor,
    gt_class: paddle.Tensor,
    gt_bbox: paddle.Tensor,
    pad_gt_mask: paddle.Tensor,
    *,
    candidates: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
    eps: float = 1e-9,
) -> Assignment:
    """Give each object the `candidates` anchors inside it with the highest score^alpha * IoU^beta.

    Args:
        scores: float32 [N, A, num_classes], predicted probabilities.
        boxes: float32 [N, A, 4], predicted, xyxy in input pixels.
        points: float32 [A, 2], anchor centres in input pixels.
        gt_class: int64 [N, G, 1].
        gt_bbox: float32 [N, G, 4], xyxy in input pixels. G must be at least 1.
        pad_gt_mask: float32 [N, G, 1], 1 for an object and 0 for padding.
        candidates: per object.
        alpha: exponent of the score.
        beta: exponent of the overlap.
        eps: keeps the division finite.
    """
    num_classes = scores.shape[-1]
    ious = pairwise_iou(gt_bbox, boxes)
    alignment = _scores_of_classes(scores, gt_class).pow(alpha) * ious.pow(beta)
    inside = points_inside(points, gt_bbox).astype(ious.dtype)
    chosen = _largest(alignment * inside, candidates) * inside * pad_gt_mask
    positive = _one_object_each(chosen, ious)

    alignment = alignment * positive
    strongest = alignment.max(-1, keepdim=True)
    best_iou = (ious * positive).max(-1, keepdim=True)
    target = (alignment / (strongest + eps) * best_iou).max(-2).unsqueeze(-1)
    labels, target_boxes, objects = _gather(positive, gt_class, gt_bbox, num_classes)
    return Assignment(labels, target_boxes, _one_hot(labels, num_classes) * target, objects)


@paddle.no_grad()
def assign_atss(
    boxes: paddle.Tensor,
    points: paddle.Tensor,
    strides: paddle.Tensor,
    level_sizes: list[int],
    gt_class: paddle.Tensor,
    gt_bbox: paddle.Tensor,
    pad_gt_mask: paddle.Tensor,
    *,
    num_classes: int,
    candidates: int = 9,
    cell_scale: float = 5.0,
) -> Assignment:
    """Give each object the nearest anchors whose fixed boxes overlap it more than mean + standard deviation.

    Needs no useful predictions, which is why it serves the first epochs; only the target scores, the overlap of
    object and prediction, come from them. Arguments as in `assign_task_aligned`, and:

    Args:
        strides: float32 [A, 1].
        level_sizes: number of anchors of each level; sums to A.
        num_classes: without background.
        candidates: per object and level.
        cell_scale: side of an anchor's fixed box in strides.
    """
    half = strides * (cell_scale / 2)
    cells = paddle.concat([points - half, points + half], axis=-1)
    ious = pairwise_iou(gt_bbox, cells.unsqueeze(0))
    centers = (gt_bbox[..., :2] + gt_bbox[..., 2:]) / 2
    distances = (centers.unsqueeze(2) - points).norm(2, axis=-1)

    chosen, overlaps, start = [], [], 0
    for size in level_sizes:
        level = slice(start, start + size)
        start += size
        _, nearest = paddle.topk(distances[:, :, level], min(candidates, size), axis=-1, largest=False)
        chosen.append(_scatter_ones(nearest, distances[:, :, level]))
        overlaps.append(paddle.take_along_axis(ious[:, :, level], nearest, axis=-1))
    overlap = paddle.concat(overlaps, axis=-1)
    mean = overlap.mean(-1, keepdim=True)
    variance = (overlap - mean).square().sum(-1, keepdim=True) / max(overlap.shape[-1] - 1, 1)
    threshold = mean + variance.sqrt()
    close = paddle.concat(chosen, axis=-1) * (ious > threshold).astype(ious.dtype)
    inside = points_inside(points, gt_bbox).astype(ious.dtype)
    positive = _one_object_each(close * inside * pad_gt_mask, ious)

    target = (pairwise_iou(gt_bbox, boxes) * positive).max(-2).unsqueeze(-1)
    labels, target_boxes, objects = _gather(positive, gt_class, gt_bbox, num_classes)
    return Assignment(labels, target_boxes, _one_hot(labels, num_classes) * target, objects)


def _scores_of_classes(scores: paddle.Tensor, gt_class: paddle.Tensor) -> paddle.Tensor:
    """Predicted probability of each object's class at every anchor: [N, A, C] and [N, G, 1] -> [N, G, A]."""
    images = paddle.arange(scores.shape[0], dtype=gt_class.dtype).unsqueeze(-1).expand(gt_class.shape[:2])
    return paddle.gather_nd(scores.transpose([0, 2, 1]), paddle.stack([images, gt_class.squeeze(-1)], axis=-1))


def _largest(metric: paddle.Tensor, count: int) -> paddle.Tensor:
    """1 at the `count` largest of the last axis, 0 elsewhere."""
    _, indices = paddle.topk(metric, min(count, metric.shape[-1]), axis=-1)
    return _scatter_ones(indices, metric)


def _scatter_ones(indices: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
    ones = paddle.ones(indices.shape, dtype=like.dtype)
    return paddle.put_along_axis(paddle.zeros_like(like), indices, ones, axis=-1)


def _one_object_each(chosen: paddle.Tensor, ious: paddle.Tensor) -> paddle.Tensor:
    """Where several objects claim an anchor, the one that overlaps most gets it. 0/1 [N, G, A] -> 0/1 [N, G, A]."""
    contested = chosen.sum(-2, keepdim=True) > 1
    winner = F.one_hot(ious.argmax(-2), ious.shape[-2]).transpose([0, 2, 1]).astype(chosen.dtype)
    return paddle.where(contested.expand_as(chosen), winner, chosen)


def _gather(
    positive: paddle.Tensor, gt_class: paddle.Tensor, gt_bbox: paddle.Tensor, num_classes: int
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Labels, boxes and object indices of all anchors from the 0/1 matrix [N, G, A]."""
    objects = positive.argmax(-2)
    labels = paddle.take_along_axis(gt_class.squeeze(-1), objects, axis=1)
    labels = paddle.where(positive.sum(-2) > 0, labels, paddle.full_like(labels, num_classes))
    boxes = paddle.take_along_axis(gt_bbox, objects.unsqueeze(-1).expand([-1, -1, 4]), axis=1)
    return labels, boxes, objects


def _one_hot(labels: paddle.Tensor, num_classes: int) -> paddle.Tensor:
    """float32 [N, A, num_classes]; background is all zeros."""
    return F.one_hot(labels, num_classes + 1)[..., :-1]
