"""Channel attention: scale every channel by a number computed from the average of the map.

Papers: Lee and Park, "CenterMask", CVPR 2020 (https://arxiv.org/abs/1911.06667) for the effective squeeze-excitation;
Xu et al., "PP-YOLOE", 2022 (https://arxiv.org/abs/2203.16250) for its use in a detection head.
Code: PaddleDetection, ppdet/modeling/backbones/cspresnet.py and heads/ppyoloe_head.py, Apache-2.0. Changed: nothing.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.conv_bn import Activation, ConvBN, normal_init


class EffectiveSE(nn.Layer):
    """x * hardsigmoid(fc(mean of x)). (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2D(channels, channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * F.hardsigmoid(self.fc(x.mean([2, 3], keepdim=True)))


class TaskAttention(nn.Layer):
    """conv(x * sigmoid(fc(average))): the stem that gives each task of a head its own view of one feature map."""

    def __init__(self, channels: int, *, act: Activation) -> None:
        super().__init__()
        self.fc = nn.Conv2D(channels, channels, 1, weight_attr=normal_init(std=0.001))
        self.conv = ConvBN(channels, channels, 1, act=act)

    def forward(self, x: paddle.Tensor, average: paddle.Tensor) -> paddle.Tensor:
        """(N, C, H, W) and its average over space (N, C, 1, 1) -> (N, C, H, W)."""
        return self.conv(x * F.sigmoid(self.fc(average)))
