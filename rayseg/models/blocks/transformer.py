"""Bricks of the detection transformers: self-attention with one fused projection, and a small perceptron.

Papers: Vaswani et al., "Attention Is All You Need", 2017 (https://arxiv.org/abs/1706.03762); Carion et al., "End-to-End
Object Detection with Transformers", ECCV 2020 (https://arxiv.org/abs/2005.12872), for positions that are added to queries
and keys but not to values. Code: PaddleDetection, ppdet/modeling/layers.py and heads/detr_head.py, Apache-2.0; names and
shapes of parameters are those of published weights. Changed: queries and keys, which are always the same tokens here,
are projected together; no dropout, which the published models set to 0.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn


class SelfAttention(nn.Layer):
    """Tokens look at each other. [N, L, D] -> [N, L, D].

    Args:
        channels: D.
        heads: must divide D.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.channels = channels
        self.heads = heads
        self.in_proj_weight = self.create_parameter([channels, 3 * channels])
        self.in_proj_bias = self.create_parameter([3 * channels], is_bias=True)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: paddle.Tensor, positions: paddle.Tensor, *, allowed: paddle.Tensor | None = None) -> paddle.Tensor:
        """Attend.

        Args:
            x: float32 [N, L, D].
            positions: float32 [N or 1, L, D]: what is added to queries and keys.
            allowed: bool [L, L], True where the token of the row may look at that of the column; None allows all.
                Every row must allow one.
        """
        two = 2 * self.channels
        both = F.linear(x + positions, self.in_proj_weight[:, :two], self.in_proj_bias[:two])
        query, key = self._by_head(both[:, :, : self.channels]), self._by_head(both[:, :, self.channels :])
        value = self._by_head(F.linear(x, self.in_proj_weight[:, two:], self.in_proj_bias[two:]))
        scores = paddle.matmul(query, key, transpose_y=True) * (self.channels // self.heads) ** -0.5
        if allowed is not None:
            scores = scores + paddle.where(allowed, paddle.zeros([1]), paddle.full([1], float("-inf")))
        seen = paddle.matmul(F.softmax(scores), value)
        return self.out_proj(seen.transpose([0, 2, 1, 3]).flatten(2))

    def _by_head(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, L, D] -> [N, heads, L, D / heads]."""
        return x.reshape([0, 0, self.heads, self.channels // self.heads]).transpose([0, 2, 1, 3])


class Perceptron(nn.Layer):
    """Linear layers with relu between them.

    Args:
        channels_in: of the input.
        channels: of what is between the layers.
        channels_out: of the output.
        count: of layers.
    """

    def __init__(self, channels_in: int, channels: int, channels_out: int, count: int) -> None:
        super().__init__()
        widths = [channels_in, *[channels] * (count - 1), channels_out]
        self.layers = nn.LayerList([linear(*widths[i : i + 2]) for i in range(count)])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def linear(channels_in: int, channels_out: int) -> nn.Linear:
    """A linear layer that starts uniform in 1 / sqrt(channels_in) around 0, its bias too."""
    bound = channels_in**-0.5
    start = nn.initializer.Uniform(-bound, bound)
    attributes = (paddle.ParamAttr(initializer=start), paddle.ParamAttr(initializer=start))
    return nn.Linear(channels_in, channels_out, *attributes)
