"""ResNet and ResNeXt as the two-stage detectors and SOLOv2 use them: frozen batch norm, frozen first stage.

Papers: He et al., "Deep Residual Learning", CVPR 2016 (https://arxiv.org/abs/1512.03385); He et al., "Bag of Tricks",
CVPR 2019 (https://arxiv.org/abs/1812.01187), for variant d; Xie et al., "Aggregated Residual Transformations", CVPR
2017 (https://arxiv.org/abs/1611.05431), for groups. Code: PaddleDetection, ppdet/modeling/backbones/resnet.py,
Apache-2.0; parameter names and shapes are those of published weights.
Changed: only bottleneck blocks, only variants b and d; batch norm is always frozen, and so are the stem and the first
stage, as in every model we publish. PaddleSeg's dilated ResNet has other names and lives elsewhere.
"""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.conv_bn import frozen_batch_norm

Variant = Literal["b", "d"]
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STAGE_WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
STEM_CHANNELS = 64
FIRST_STAGE = 2
"""Stages are named after the map they make: res2 at stride 4 to res5 at stride 32."""


class ResNet(nn.Layer):
    """Feature maps of an image at strides 4, 8, 16 and 32, or some of them. Batch norm uses stored statistics always.

    Args:
        depth: 50 or 101.
        variant: "b" has one 7 x 7 convolution at the start; "d" (called vd) has three of 3 x 3, and averages where it
            shortcuts to half the size.
        groups: of the 3 x 3 convolutions; 64 with `base_width` 4 is ResNeXt 64x4d.
        base_width: channels of one group where the stage has 64.
        lr_mults: factor on the learning rate of the convolutions of each stage; distilled (SSLD) weights want less.
        return_idx: which stages' maps to return, counted from 0; stages after the last of them are not built.

    Attributes:
        channels_out: of the returned maps.
        strides: of the returned maps.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        variant: Variant = "b",
        groups: int = 1,
        base_width: int = 64,
        lr_mults: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
        return_idx: tuple[int, ...] = (0, 1, 2, 3),
    ) -> None:
        super().__init__()
        self.return_idx = return_idx
        self.channels_out = [STAGE_WIDTHS[k] * EXPANSION for k in return_idx]
        self.strides = [4 * 2**k for k in return_idx]
        self.conv1 = _stem(variant)
        self._stages: list[str] = []
        channels = STEM_CHANNELS
        for index in range(max(return_idx) + 1):
            stage = Stage(
                channels,
                number=index + FIRST_STAGE,
                count=BLOCKS[depth][index],
                variant=variant,
                groups=groups,
                base_width=base_width,
                lr_mult=lr_mults[index],
            )
            self._stages.append(f"res{index + FIRST_STAGE}")
            self.add_sublayer(self._stages[-1], stage)
            channels = stage.channels_out
        for parameter in [*self.conv1.parameters(), *self.res2.parameters()]:
            parameter.stop_gradient = True

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """float32 [N, 3, H, W] -> the chosen maps, finest first; each side is that of the stride, rounded up."""
        x = F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)
        maps = []
        for index, name in enumerate(self._stages):
            x = getattr(self, name)(x)
            if index in self.return_idx:
                maps.append(x)
        return maps


class Res5Head(nn.Layer):
    """The last stage of ResNet-50, which C4 detectors run on each region: [R, 1024, S, S] -> [R, 2048, S / 2, S / 2].

    Attributes:
        channels_out: 2048.
    """

    def __init__(self) -> None:
        super().__init__()
        self.res5 = Stage(STAGE_WIDTHS[2] * EXPANSION, number=5, count=BLOCKS[50][3])
        self.channels_out = self.res5.channels_out

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.res5(x)


class Stage(nn.Layer):
    """Blocks at one resolution; the first halves the size, except in stage 2, which follows a pooling.

    Args:
        channels_in: of the input.
        number: 2 to 5, sets width and names.
        count: of blocks.
        variant: see `ResNet`.
        groups: see `ResNet`.
        base_width: see `ResNet`.
        lr_mult: factor on the learning rate of the convolutions.
    """

    def __init__(
        self,
        channels_in: int,
        *,
        number: int,
        count: int,
        variant: Variant = "b",
        groups: int = 1,
        base_width: int = 64,
        lr_mult: float = 1.0,
    ) -> None:
        super().__init__()
        width = STAGE_WIDTHS[number - FIRST_STAGE]
        self.channels_out = width * EXPANSION
        for index in range(count):
            block = _Bottleneck(
                channels_in,
                width,
                halve=index == 0 and number != FIRST_STAGE,
                project=index == 0,
                average=variant == "d",
                groups=groups,
                base_width=base_width,
                lr_mult=lr_mult,
            )
            self.add_sublayer(_block_name(number, count, index), block)
            channels_in = self.channels_out

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        for block in self.children():
            x = block(x)
        return x


class _Bottleneck(nn.Layer):
    """relu(shortcut + 1x1, 3x3, 1x1 convolutions)."""

    def __init__(
        self,
        channels_in: int,
        width: int,
        *,
        halve: bool,
        project: bool,
        average: bool,
        groups: int,
        base_width: int,
        lr_mult: float,
    ) -> None:
        super().__init__()
        inner, out, stride = width * base_width // 64 * groups, width * EXPANSION, 2 if halve else 1
        self.branch2a = _FrozenConvBN(channels_in, inner, 1, relu=True, lr_mult=lr_mult)
        self.branch2b = _FrozenConvBN(inner, inner, 3, relu=True, lr_mult=lr_mult, stride=stride, groups=groups)
        self.branch2c = _FrozenConvBN(inner, out, 1, relu=False, lr_mult=lr_mult)
        self.project = project
        if not project:
            return
        if halve and average:
            self.short = nn.Sequential(
                ("pool", nn.AvgPool2D(2, stride=2, ceil_mode=True)),
                ("conv", _FrozenConvBN(channels_in, out, 1, relu=False, lr_mult=lr_mult)),
            )
        else:
            self.short = _FrozenConvBN(channels_in, out, 1, relu=False, lr_mult=lr_mult, stride=stride)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.branch2c(self.branch2b(self.branch2a(x)))
        return F.relu(y + (self.short(x) if self.project else x))


class _FrozenConvBN(nn.Layer):
    """Convolution without bias, batch norm that never learns or counts, and relu where asked."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        relu: bool,
        stride: int = 1,
        groups: int = 1,
        lr_mult: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            weight_attr=paddle.ParamAttr(learning_rate=lr_mult),
            bias_attr=False,
        )
        self.norm = frozen_batch_norm(channels_out)
        self.relu = relu

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x


def _stem(variant: Variant) -> nn.Sequential:
    """From 3 to 64 channels at half the size."""
    half = STEM_CHANNELS // 2
    if variant == "b":
        return nn.Sequential(("conv1", _FrozenConvBN(3, STEM_CHANNELS, 7, relu=True, stride=2)))
    return nn.Sequential(
        ("conv1_1", _FrozenConvBN(3, half, 3, relu=True, stride=2)),
        ("conv1_2", _FrozenConvBN(half, half, 3, relu=True)),
        ("conv1_3", _FrozenConvBN(half, STEM_CHANNELS, 3, relu=True)),
    )


def _block_name(number: int, count: int, index: int) -> str:
    """res2a, res2b, ...; a stage 4 with more blocks than letters are handy has res4a, res4b1, res4b2, ..."""
    if number == 4 and count > 10:
        return "res4a" if index == 0 else f"res4b{index}"
    return f"res{number}{chr(ord('a') + index)}"
