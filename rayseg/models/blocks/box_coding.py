"""Boxes as offsets from other boxes: what the heads of the R-CNN family predict, and back.

Papers: Girshick et al., "Rich feature hierarchies", CVPR 2014, appendix C (https://arxiv.org/abs/1311.2524), for the
four offsets; Cai and Vasconcelos, "Cascade R-CNN", CVPR 2018, for weights that grow with the stage. Code:
PaddleDetection, ppdet/modeling/bbox_utils.py, Apache-2.0. Changed: nothing in the numbers.

Boxes are float32 [..., 4] as x0, y0, x1, y1 in any one unit; overlaps are boxes.py's.
"""

from __future__ import annotations

import math

import paddle

Weights = tuple[float, float, float, float]
"""Factors on the offsets of x, y, width and height."""

MAX_LOG_SCALE = math.log(1000 / 16)
"""A box grows at most by this: 16 pixels to 1000."""


def encode_boxes(boxes: paddle.Tensor, targets: paddle.Tensor, weights: Weights) -> paddle.Tensor:
    """Offsets that move boxes onto targets, row by row.

    Args:
        boxes: [M, 4]; each must have an area.
        targets: [M, 4]; likewise.
        weights: see `Weights`.

    Returns:
        float32 [M, 4]: dx and dy in widths and heights of the box, then the logarithms of the growth, times weights.
    """
    size, target_size = _size(boxes), _size(targets)
    move = (targets[:, :2] + 0.5 * target_size - boxes[:, :2] - 0.5 * size) / size
    grow = paddle.log(target_size / size)
    return paddle.concat([move, grow], axis=1) * paddle.to_tensor([weights], dtype=boxes.dtype)


def decode_boxes(deltas: paddle.Tensor, boxes: paddle.Tensor, weights: Weights) -> paddle.Tensor:
    """Boxes moved by offsets; the inverse of `encode_boxes` but for the limit on growth.

    Args:
        deltas: [M, 4 * K], K predictions for each box.
        boxes: [M, 4].
        weights: see `Weights`.

    Returns:
        float32 [M, K, 4], not clipped.
    """
    deltas = deltas.reshape([-1, deltas.shape[1] // 4, 4]) / paddle.to_tensor(weights, dtype=deltas.dtype)
    size = _size(boxes)
    centre = (boxes[:, :2] + 0.5 * size).unsqueeze(1)
    size = size.unsqueeze(1)
    centre = deltas[..., :2] * size + centre
    half = 0.5 * (paddle.exp(deltas[..., 2:].clip(max=MAX_LOG_SCALE)) * size)
    return paddle.concat([centre - half, centre + half], axis=-1)


def clip_boxes(boxes: paddle.Tensor, sizes: paddle.Tensor) -> paddle.Tensor:
    """The part of each box inside its image; width or height is 0 when there is none.

    Args:
        boxes: [M, 4] or [M, K, 4].
        sizes: [M, 2], height and width of the image of each row.
    """
    limits = sizes.flip(1).tile([1, 2])
    limits = limits if boxes.ndim == 2 else limits.unsqueeze(1)
    return paddle.minimum(boxes, limits).clip(min=0.0)


def has_area(boxes: paddle.Tensor) -> paddle.Tensor:
    """True where a box is wider and higher than nothing: [..., 4] -> bool [...]."""
    return (_size(boxes) > 0).all(-1)


def _size(boxes: paddle.Tensor) -> paddle.Tensor:
    """Width and height: [..., 4] -> [..., 2]."""
    return boxes[..., 2:] - boxes[..., :2]
