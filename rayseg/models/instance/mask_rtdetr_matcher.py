"""Which query of Mask-RT-DETR answers for which object: the costs of all pairs, and the cheapest pairing.

Papers: Carion et al., "End-to-End Object Detection with Transformers" (DETR), ECCV 2020
(https://arxiv.org/abs/2005.12872), section 3.1; Li et al., "Mask DINO", CVPR 2023 (https://arxiv.org/abs/2206.02777),
for the costs of masks, read at random points as in Cheng et al., "Mask2Former", CVPR 2022. Code: PaddleDetection,
ppdet/modeling/transformers/matchers.py, Apache-2.0.
Changed: the costs of one image at a time (the original also computes those between images and throws them away); an
image's masks are read at its points without a copy of the points for each mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F

from rayseg.models.blocks.boxes import giou_loss
from rayseg.models.blocks.matching import match
from rayseg.models.blocks.points import Rand, at_points
from rayseg.models.instance.mask_rtdetr_decoder import Predictions
from rayseg.models.instance.mask_rtdetr_truth import Pairs, Truth


@dataclass(frozen=True)
class TermWeights:
    """How much class, box and mask count, in the costs of pairs as in the loss."""

    class_: float = 4.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


@paddle.no_grad()
def match_queries(predictions: Predictions, truth: Truth, *, weights: TermWeights, num_points: int, rand: Rand) -> Pairs:
    """Pair the objects of each image with queries of that image.

    Args:
        predictions: of N images with Q queries each.
        truth: their objects.
        weights: of the costs.
        num_points: at which masks are compared; an image has one set for all its pairs.
        rand: the random source.

    Returns:
        min(Q, objects) pairs for each image, by image and then by query.

    Raises:
        ModelError: a prediction is not finite.
    """
    images, queries = predictions.boxes.shape[:2]
    points = rand([images, 1, num_points, 2]).squeeze(1) if truth.total else None
    found_queries, found_objects = [], []
    for image, (start, count) in enumerate(zip(truth.starts(), truth.counts, strict=True)):
        if points is None or count == 0:
            continue
        own = slice(start, start + count)
        here = points[image : image + 1]
        cost = pair_costs(
            predictions.logits[image],
            predictions.boxes[image],
            at_points(predictions.masks[image : image + 1], here)[0],
            truth.classes[own],
            truth.boxes[own],
            at_points(truth.masks[own].unsqueeze(0).astype("float32"), here)[0],
            weights=weights,
        )
        rows, columns = match(cost)
        found_queries.append(rows + image * queries)
        found_objects.append(columns + start)
    return Pairs(_joined(found_queries), _joined(found_objects))


def pair_costs(
    logits: paddle.Tensor,
    boxes: paddle.Tensor,
    masks: paddle.Tensor,
    true_classes: paddle.Tensor,
    true_boxes: paddle.Tensor,
    true_masks: paddle.Tensor,
    *,
    weights: TermWeights,
) -> paddle.Tensor:
    """What it costs to let each of Q queries answer for each of T objects of an image, T at least 1.

    Args:
        logits: float32 [Q, C], of classes.
        boxes: float32 [Q, 4], centre, width, height as shares of the input.
        masks: float32 [Q, P], logits at points.
        true_classes: int64 [T].
        true_boxes: float32 [T, 4].
        true_masks: float32 [T, P], 0 to 1, at the same points.
        weights: of the five costs.

    Returns:
        float32 [Q, T].
    """
    return (
        weights.class_ * _class_cost(logits, true_classes)
        + weights.box * (boxes.unsqueeze(1) - true_boxes.unsqueeze(0)).abs().sum(-1)
        + weights.giou * _giou_cost(boxes, true_boxes)
        + weights.mask * _mask_cost(masks, true_masks)
        + weights.dice * _dice_cost(masks, true_masks)
    )


def corners(boxes: paddle.Tensor) -> paddle.Tensor:
    """Centre, width, height [..., 4] -> x0, y0, x1, y1 [..., 4]."""
    centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
    return paddle.concat([centre - half, centre + half], axis=-1)


def _class_cost(
    logits: paddle.Tensor, classes: paddle.Tensor, *, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-8
) -> paddle.Tensor:
    """How much the focal loss falls when a query's target becomes the object's class: [Q, C] and [T] -> [Q, T]."""
    p = paddle.gather(F.sigmoid(logits), classes, axis=1)
    as_object = alpha * (1 - p).pow(gamma) * -(p + eps).log()
    as_background = (1 - alpha) * p.pow(gamma) * -(1 - p + eps).log()
    return as_object - as_background


def _giou_cost(boxes: paddle.Tensor, true_boxes: paddle.Tensor) -> paddle.Tensor:
    """-GIoU of all pairs: [Q, 4] and [T, 4] -> [Q, T]."""
    queries, objects = int(boxes.shape[0]), int(true_boxes.shape[0])
    left = corners(boxes).unsqueeze(1).expand([queries, objects, 4]).reshape([-1, 4])
    right = corners(true_boxes).unsqueeze(0).expand([queries, objects, 4]).reshape([-1, 4])
    return giou_loss(left, right).reshape([queries, objects]) - 1


def _mask_cost(masks: paddle.Tensor, true_masks: paddle.Tensor) -> paddle.Tensor:
    """Mean cross entropy over the points: [Q, P] and [T, P] -> [Q, T].

    With target t and logit x it is softplus(x) - t x, of which the first part is the same for all objects.
    """
    softplus = -F.log_sigmoid(-masks)
    return (softplus.sum(-1, keepdim=True) - paddle.matmul(masks, true_masks, transpose_y=True)) / masks.shape[-1]


def _dice_cost(masks: paddle.Tensor, true_masks: paddle.Tensor) -> paddle.Tensor:
    """1 - Dice coefficient, smoothed by one point: [Q, P] and [T, P] -> [Q, T]."""
    p = F.sigmoid(masks)
    both = paddle.matmul(p, true_masks, transpose_y=True)
    return 1 - (2 * both + 1) / (p.sum(-1, keepdim=True) + true_masks.sum(-1).unsqueeze(0) + 1)


def _joined(parts: list[np.ndarray]) -> paddle.Tensor:
    return paddle.to_tensor(np.concatenate([np.zeros(0, "int64"), *parts]))
