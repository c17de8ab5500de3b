"""Convolution, batch norm, activation: the brick the detection networks are made of.

Sublayers are called `conv` and `bn`, which is how published weights of the PaddleDetection families name them.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import nn

Activation = Callable[[paddle.Tensor], paddle.Tensor]


class ConvBN(nn.Layer):
    """Convolution without bias, batch norm, then an optional activation. (N, C_in, H, W) -> (N, C_out, H', W').

    Args:
        channels_in: of the input.
        channels_out: of the output.
        kernel: odd side of the square kernel; the input is padded by kernel // 2.
        stride: 1 keeps the size, 2 halves it (rounding up).
        act: applied last; None leaves the normalised values.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, act: Activation | None) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias_attr=False)
        self.bn = nn.BatchNorm2D(channels_out, weight_attr=no_weight_decay(), bias_attr=no_weight_decay())
        self.act = act

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.bn(self.conv(x))
        return x if self.act is None else self.act(x)


def frozen_batch_norm(channels: int) -> nn.BatchNorm2D:
    """A batch norm that never learns or counts: it keeps the statistics and factors it was loaded with."""
    attributes = [
        paddle.ParamAttr(learning_rate=0.0, regularizer=paddle.regularizer.L2Decay(0.0), trainable=False) for _ in range(2)
    ]
    return nn.BatchNorm2D(channels, weight_attr=attributes[0], bias_attr=attributes[1], use_global_stats=True)


def no_weight_decay() -> paddle.ParamAttr:
    """The attribute of a parameter that L2 decay must leave alone, whatever the optimizer is told."""
    return paddle.ParamAttr(regularizer=paddle.regularizer.L2Decay(0.0))


def normal_init(*, std: float) -> paddle.ParamAttr:
    """The attribute of a parameter that starts as noise around 0."""
    return paddle.ParamAttr(initializer=nn.initializer.Normal(std=std))
