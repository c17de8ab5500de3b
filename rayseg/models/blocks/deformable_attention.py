"""Deformable attention: each query looks at a few points near its box, on several feature maps.

Paper: Zhu et al., "Deformable DETR", ICLR 2021 (https://arxiv.org/abs/2010.04159), section 4.1. Code: PaddleDetection,
ppdet/modeling/transformers/{deformable_transformer,rtdetr_transformer,utils}.py, Apache-2.0; names and shapes of
parameters are those of published weights. Changed: queries have boxes, never bare points; maps are cut out with slices
and the samples of all of them weighted at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

POINTS = 4
"""Looked at by each head on each level."""


class DeformableAttention(nn.Layer):
    """Queries [N, Q, D] look at maps of D channels, given flat and joined: [N, sum of h * w, D] -> [N, Q, D].

    Args:
        channels: D.
        heads: must divide D.
        levels: maps.
    """

    def __init__(self, channels: int, heads: int, levels: int) -> None:
        super().__init__()
        self.heads = heads
        self.levels = levels
        self.channels_of_head = channels // heads
        count = heads * levels * POINTS
        constant = nn.initializer.Constant(0.0)
        start = nn.initializer.Assign(_rays(heads, levels))
        self.sampling_offsets = nn.Linear(
            channels,
            2 * count,
            paddle.ParamAttr(initializer=constant),
            paddle.ParamAttr(initializer=start),
        )
        self.attention_weights = nn.Linear(channels, count, paddle.ParamAttr(initializer=constant))
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def forward(
        self,
        queries: paddle.Tensor,
        boxes: paddle.Tensor,
        memory: paddle.Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> paddle.Tensor:
        """Look.

        Args:
            queries: float32 [N, Q, D].
            boxes: float32 [N, Q, 4]: centre x and y, width, height, in [0, 1] of the image.
            memory: float32 [N, L, D], the maps row by row.
            sizes: height and width of each map.
        """
        of_level = self.levels * POINTS
        offsets = self.sampling_offsets(queries).reshape([0, 0, self.heads * of_level, 2])
        points = boxes[:, :, :2].unsqueeze(2) + offsets * (boxes[:, :, 2:].unsqueeze(2) * (0.5 / POINTS))
        weights = F.softmax(self.attention_weights(queries).reshape([0, 0, self.heads, of_level]))
        grid = (2 * points - 1).reshape([0, 0, self.heads, of_level, 2]).transpose([0, 2, 1, 3, 4]).flatten(0, 1)
        values = self.value_proj(memory).transpose([0, 2, 1])
        seen, start = [], 0
        for level, (height, width) in enumerate(sizes):
            part = values[:, :, start : start + height * width]
            part = part.reshape([-1, self.channels_of_head, height, width])
            where = grid[:, :, level * POINTS : (level + 1) * POINTS]
            seen.append(F.grid_sample(part, where, mode="bilinear", padding_mode="zeros", align_corners=False))
            start += height * width
        shares = weights.transpose([0, 2, 1, 3]).flatten(0, 1).unsqueeze(1)
        mixed = (paddle.concat(seen, axis=-1) * shares).sum(-1)
        joined = mixed.reshape([-1, self.heads * self.channels_of_head, queries.shape[1]])
        return self.output_proj(joined.transpose([0, 2, 1]))


def _rays(heads: int, levels: int) -> list[float]:
    """Offsets to start from: each head looks its own way, to the edge of a square, then a step further at each point."""
    found: list[float] = []
    for head in range(heads):
        angle = 2 * math.pi * head / heads
        x, y = math.cos(angle), math.sin(angle)
        reach = max(abs(x), abs(y))
        for _ in range(levels):
            for point in range(1, POINTS + 1):
                found += [x / reach * point, y / reach * point]
    return found
