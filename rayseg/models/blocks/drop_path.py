"""Stochastic depth: while training, a residual branch is left out at random, image by image.

Paper: G. Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, https://arxiv.org/abs/1603.09382.
"""

from __future__ import annotations

import paddle
from paddle import nn


class DropPath(nn.Layer):
    """A branch zeroed for each image with the probability `rate`, else divided by 1 - rate, so that its mean stays.

    Does nothing in eval mode. Draws from Paddle's generator: `paddle.seed` repeats a run.

    Args:
        rate: 0 to below 1; an attribute, which may be changed later.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """(N, ...) -> (N, ...)."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = paddle.rand([x.shape[0]] + [1] * (x.ndim - 1), dtype=x.dtype) < keep
        return x * (kept.astype(x.dtype) / keep)


def drop_path_rates(highest: float, depth: int) -> list[float]:
    """Rates of `depth` branches in a row: equal steps from 0 to `highest`; 0 where there is one branch only."""
    return [highest * index / (depth - 1) if depth > 1 else 0.0 for index in range(depth)]
