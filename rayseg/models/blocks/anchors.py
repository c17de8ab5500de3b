"""Anchors: the boxes that a proposal network starts from, the same few around every cell of a feature map.

Paper: Ren et al., "Faster R-CNN", NeurIPS 2015 (https://arxiv.org/abs/1506.01497); one size a level is from Lin et al.,
"Feature Pyramid Networks", CVPR 2017 (https://arxiv.org/abs/1612.03144). Code: PaddleDetection,
ppdet/modeling/proposal_generator/anchor_generator.py, Apache-2.0. Changed: computed from the settings at every call, so
nothing is kept as a buffer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle import nn


class AnchorGenerator(nn.Layer):
    """Anchors of every level. Cell (row, column) has its anchors centred on (column, row) * stride.

    Args:
        sizes: for each level the side lengths in input pixels, as squares.
        ratios: height / width.
        strides: of each level in input pixels.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.cells = tuple(_around_origin(level, ratios) for level in sizes)

    @property
    def per_cell(self) -> int:
        """Anchors of one cell."""
        return len(self.cells[0])

    def forward(self, features: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
        """Feature maps [N, C, H, W] of the levels -> float32 [H * W * per_cell, 4] each, rows before columns."""
        # Not zip: exporting a program does not know its `strict`.
        return [_at_every_cell(features[i], stride, self.cells[i]) for i, stride in enumerate(self.strides)]


def _around_origin(sizes: Sequence[float], ratios: Sequence[float]) -> list[list[float]]:
    found = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size * size / ratio)
            height = ratio * width
            found.append([-width / 2, -height / 2, width / 2, height / 2])
    return found


def _at_every_cell(feature: paddle.Tensor, stride: int, cell: list[list[float]]) -> paddle.Tensor:
    height, width = feature.shape[-2:]
    # Counted in whole numbers: inside a program sizes are integers, and the operator does not convert them.
    y, x = (paddle.arange(side, dtype="int64").astype("float32") for side in (height, width))
    y, x = paddle.meshgrid(y, x)
    corner = paddle.stack([x.flatten(), y.flatten()] * 2, axis=1) * float(stride)
    return (corner.unsqueeze(1) + paddle.to_tensor([cell], dtype="float32")).reshape([-1, 4])
