"""The two heads of SOLOv2: classes and mask kernels on square grids, and the features the kernels are applied to.

Paper: Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020 (https://arxiv.org/abs/2003.10152).
Code: PaddleDetection, ppdet/modeling/heads/solov2_head.py, Apache-2.0; parameter names are the same, and those seven
tensors that have two names there have both here.
Changed: the head gives logits in either mode, picking peaks is solov2_select.py's; maps are enlarged to the size of the
next finer one, so image sides need not be multiples of 32; no deformable convolutions, no DropBlock.
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.conv_bn import no_weight_decay, normal_init

GRIDS = (40, 36, 24, 16, 12)
"""Cells along each side of the image, for small objects first."""
CONVS = 4
NORM_GROUPS = 32
FIRST_SCORE = 0.01
"""What a fresh head says of every class in every cell."""


class SOLOv2Head(nn.Layer):
    """Five pyramid maps in; for each of five grids class logits and mask kernels out.

    Args:
        channels_in: of every pyramid map.
        num_classes: C, without background.
        kernel_channels: E, of a mask kernel.
        channels: inside both branches.
    """

    def __init__(self, channels_in: int, *, num_classes: int, kernel_channels: int, channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for k in range(CONVS):
            inside = channels_in if k == 0 else channels
            coordinates = 2 if k == 0 else 0
            self.add_sublayer(f"bbox_head.kernel_convs.{k}", ConvGN(inside + coordinates, channels, 3))
            self.add_sublayer(f"bbox_head.cate_convs.{k}", ConvGN(inside, channels, 3))
        kernel = nn.Conv2D(channels, kernel_channels, 3, padding=1, weight_attr=normal_init(std=0.01))
        rare = nn.initializer.Constant(-math.log(1 / FIRST_SCORE - 1))
        category = nn.Conv2D(
            channels,
            num_classes,
            3,
            padding=1,
            weight_attr=normal_init(std=0.01),
            bias_attr=paddle.ParamAttr(initializer=rare),
        )
        self.add_sublayer("bbox_head.solo_kernel", kernel)
        self.solo_kernel = kernel
        self.add_sublayer("bbox_head.solo_cate", category)
        self.solo_cate = category

    def forward(self, maps: list[paddle.Tensor]) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
        """Class logits float32 [N, C, S, S] and kernels float32 [N, E, S, S] of each grid of side S.

        Args:
            maps: float32 [N, channels_in, h, w] at strides 4, 8, 16, 32, 64.
        """
        levels = [_resize(maps[0], maps[0].shape[2] // 2, maps[0].shape[3] // 2), *maps[1:4]]
        levels.append(_resize(maps[4], maps[3].shape[2], maps[3].shape[3]))
        logits, kernels = [], []
        for level, side in enumerate(GRIDS):
            x = _resize(with_coordinates(levels[level]), side, side)
            logits.append(self.solo_cate(self._branch("cate", x[:, :-2])))
            kernels.append(self.solo_kernel(self._branch("kernel", x)))
        return logits, kernels

    def _branch(self, name: str, x: paddle.Tensor) -> paddle.Tensor:
        for k in range(CONVS):
            x = F.relu(getattr(self, f"bbox_head.{name}_convs.{k}")(x))
        return x


class SOLOv2MaskHead(nn.Layer):
    """The features at stride 4 that a mask is made from: the sum of four maps, each brought to that size step by step.

    Args:
        channels_in: of every pyramid map.
        channels: E, of the features.
        inner_channels: of the sum.
    """

    def __init__(self, channels_in: int, *, channels: int, inner_channels: int = 128) -> None:
        super().__init__()
        for level in range(4):
            path = _Path(level, channels_in + (2 if level == 3 else 0), inner_channels)
            self.add_sublayer(f"conv_pre_feat{level}", path)
        last = ConvGN(inner_channels, channels, 1)
        self.add_sublayer("mask_feat_head.conv_pred.0", last)
        self.conv_pred = last

    def forward(self, maps: list[paddle.Tensor]) -> paddle.Tensor:
        """float32 [N, E, h, w], not negative.

        Args:
            maps: float32 [N, channels_in, h, w] at strides 4, 8, 16, 32; further ones are ignored.
        """
        fine = F.relu(self.conv_pre_feat0(maps[0], []))
        total = fine + self.conv_pre_feat1(maps[1], maps[:1]) + self.conv_pre_feat2(maps[2], maps[:2])
        total = total + self.conv_pre_feat3(with_coordinates(maps[3]), maps[:3])
        return F.relu(self.conv_pred(total))


class _Path(nn.Layer):
    """Brings a map to stride 4, a convolution before each step; the map that is there already gets one as well."""

    def __init__(self, level: int, channels_in: int, channels: int) -> None:
        super().__init__()
        self._convs = [f"mask_feat_head.convs_all_levels.{level}.conv{k}" for k in range(max(level, 1))]
        for name in self._convs:
            self.add_sublayer(name, ConvGN(channels_in, channels, 3))
            channels_in = channels

    def forward(self, x: paddle.Tensor, finer: list[paddle.Tensor]) -> paddle.Tensor:
        """[N, C, h, w] -> [N, channels, h', w'], the size of the first of the finer maps, or its own if there is none."""
        for k, name in enumerate(self._convs):
            x = getattr(self, name)(x)
            if finer:
                target = finer[-1 - k]
                x = _resize(F.relu(x), target.shape[2], target.shape[3])
        return x


class ConvGN(nn.Layer):
    """Convolution without bias, then group norm. (N, C_in, H, W) -> (N, C_out, H, W)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            channels_in,
            channels_out,
            kernel,
            padding=kernel // 2,
            weight_attr=normal_init(std=0.01),
            bias_attr=False,
        )
        self.norm = nn.GroupNorm(NORM_GROUPS, channels_out, weight_attr=no_weight_decay(), bias_attr=no_weight_decay())

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.norm(self.conv(x))


def with_coordinates(x: paddle.Tensor) -> paddle.Tensor:
    """The map and two more channels: x and y of each pixel, from -1 at the first to 1 at the last."""
    batch, height, width = x.shape[0], x.shape[2], x.shape[3]
    xs = paddle.linspace(-1, 1, width, dtype="float32").reshape([1, 1, 1, width]).expand([batch, 1, height, width])
    ys = paddle.linspace(-1, 1, height, dtype="float32").reshape([1, 1, height, 1]).expand([batch, 1, height, width])
    return paddle.concat([x, xs, ys], axis=1)


def _resize(x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """Bilinear, pixel centres at +0.5 (align_corners off)."""
    return F.interpolate(x, size=[height, width], mode="bilinear", align_corners=False)
