"""Geometry of box tensors: overlaps, the GIoU loss, distances to the four sides.

Boxes are float32 [..., 4] as x0, y0, x1, y1 in any one unit. Values on the host have their own types in
rayseg.geometry.
"""

from __future__ import annotations

import paddle


def pairwise_iou(boxes: paddle.Tensor, others: paddle.Tensor, *, eps: float = 1e-9) -> paddle.Tensor:
    """Overlap of every box with every other of the same image: [N, G, 4] and [N or 1, L, 4] -> [N, G, L] in [0, 1].

    A box without area overlaps nothing.
    """
    boxes, others = boxes.unsqueeze(2), others.unsqueeze(1)
    low = paddle.maximum(boxes[..., :2], others[..., :2])
    high = paddle.minimum(boxes[..., 2:], others[..., 2:])
    both = _product((high - low).clip(min=0))
    return both / (area(boxes) + area(others) - both + eps)


def giou_loss(boxes: paddle.Tensor, targets: paddle.Tensor, *, eps: float = 1e-10) -> paddle.Tensor:
    """1 - GIoU of boxes paired row by row: [M, 4] and [M, 4] -> [M] in [0, 2].

    Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, equation in algorithm 1.
    """
    overlap = paddle.minimum(boxes[:, 2:], targets[:, 2:]) - paddle.maximum(boxes[:, :2], targets[:, :2])
    both = _product(overlap.clip(min=0))
    union = area(boxes) + area(targets) - both + eps
    hull = _product(paddle.maximum(boxes[:, 2:], targets[:, 2:]) - paddle.minimum(boxes[:, :2], targets[:, :2])) + eps
    return 1 - (both / union - (hull - union) / hull)


def boxes_from_distances(points: paddle.Tensor, distances: paddle.Tensor) -> paddle.Tensor:
    """Boxes around points: [L, 2] and left, top, right, bottom [N, L, 4] -> xyxy [N, L, 4]."""
    before, after = distances[..., :2], distances[..., 2:]
    return paddle.concat([points - before, points + after], axis=-1)


def distances_to_sides(points: paddle.Tensor, boxes: paddle.Tensor) -> paddle.Tensor:
    """The inverse of `boxes_from_distances`; negative where a point lies outside."""
    return paddle.concat([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)


def points_inside(points: paddle.Tensor, boxes: paddle.Tensor, *, eps: float = 1e-9) -> paddle.Tensor:
    """Which points lie strictly inside which boxes: [L, 2] and [N, G, 4] -> bool [N, G, L]."""
    return distances_to_sides(points, boxes.unsqueeze(2)).min(-1) > eps


def area(boxes: paddle.Tensor) -> paddle.Tensor:
    """[..., 4] -> [...]; 0 for a reversed box."""
    return _product((boxes[..., 2:] - boxes[..., :2]).clip(min=0))


def _product(sides: paddle.Tensor) -> paddle.Tensor:
    """Width times height: [..., 2] -> [...]. The gradient of Paddle's own `prod` is NaN where a side is 0."""
    return sides[..., 0] * sides[..., 1]
