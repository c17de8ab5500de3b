"""Convolution with batch norm, and resizing: the bricks the semantic networks share.

Sublayers are called `_conv` and `_batch_norm`, which is how published weights of the PaddleSeg families name them.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn


class ConvBN(nn.Layer):
    """Convolution and batch norm. (N, C_in, H, W) -> (N, C_out, H', W').

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: odd side of the square kernel.
        stride: 1 keeps the size, 2 halves it (rounding up).
        dilation: distance of the kernel's taps.
        groups: of channels; `in_channels` makes the convolution depthwise.
        bias: of the convolution. Before a batch norm it has no effect; it is here where the published weights have one.
        padding: "even" adds as many zeros before as after; "same" is TensorFlow's rule, which differs at stride 2 only:
            an even side gets its one zero at the end.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        padding: Literal["even", "same"] = "even",
    ) -> None:
        super().__init__()
        self._conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding="SAME" if padding == "same" else dilation * (kernel // 2),
            dilation=dilation,
            groups=groups,
            bias_attr=None if bias else False,
        )
        self._batch_norm = nn.BatchNorm2D(out_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self._batch_norm(self._conv(x))


class ConvBNReLU(ConvBN):
    """`ConvBN`, then max(x, 0)."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(super().forward(x))


def resize_like(x: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
    """Bilinear, pixel centres at +0.5 (align_corners off), to the height and width of another tensor."""
    return F.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=False)
