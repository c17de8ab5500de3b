"""PP-HGNetV2, the backbone of Mask-RT-DETR: blocks that join the outputs of all their convolutions.

Paper: Lv et al., "DETRs Beat YOLOs on Real-time Object Detection", 2023 (https://arxiv.org/abs/2304.08069), which uses
it; it has no paper of its own. Code: PaddleDetection, ppdet/modeling/backbones/hgnet_v2.py, Apache-2.0; parameter names
and shapes are those of published weights.
Changed: batch norm is always frozen, and so is the stem, as in every model we publish; the learned scale after
activations, which none of them uses, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.conv_bn import frozen_batch_norm

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class HGNetV2Size:
    """Widths and depths of one size of the network; four numbers are for the four stages."""

    stem: tuple[int, int]
    """Channels inside and after the stem."""
    layers: int
    """Convolutions in a block."""
    inner: tuple[int, int, int, int]
    """Channels of those convolutions."""
    outer: tuple[int, int, int, int]
    """Channels of the maps."""
    blocks: tuple[int, int, int, int]
    """Blocks in a stage."""


SIZES = {
    "S": HGNetV2Size((24, 32), 3, (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1)),
    "M": HGNetV2Size((24, 32), 4, (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1)),
    "L": HGNetV2Size((32, 48), 6, (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1)),
    "X": HGNetV2Size((32, 64), 6, (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2)),
    "H": HGNetV2Size((48, 96), 6, (96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3)),
}


class HGNetV2(nn.Layer):
    """Feature maps of an image at strides 4, 8, 16 and 32. Batch norm uses stored statistics always.

    Args:
        size: one of `SIZES`, or another.
        lr_mult: factor on the learning rate of the convolutions; the stem does not learn.

    Attributes:
        channels_out: of the maps, finest first.
    """

    def __init__(self, size: HGNetV2Size, *, lr_mult: float = 1.0) -> None:
        super().__init__()
        self.channels_out = list(size.outer)
        middle, channels = size.stem
        self.stem = _Stem(middle, channels)
        self.stages = nn.LayerList()
        for index, (inner, outer, count) in enumerate(zip(size.inner, size.outer, size.blocks, strict=True)):
            stage = _Stage(
                channels,
                inner,
                outer,
                blocks=count,
                layers=size.layers,
                halve=index > 0,
                light=index > 1,
                lr_mult=lr_mult,
            )
            self.stages.append(stage)
            channels = outer
        for parameter in self.stem.parameters():
            parameter.stop_gradient = True

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """float32 [N, 3, H, W] -> four maps, finest first; each side is that of the stride, rounded up."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _Stem(nn.Layer):
    """[N, 3, H, W] -> [N, C, H / 4, W / 4]: half of the channels pass two 2 x 2 convolutions, half a 2 x 2 maximum."""

    def __init__(self, middle: int, channels_out: int) -> None:
        super().__init__()
        self.stem1 = _FrozenConvBN(3, middle, 3, stride=2, lr_mult=0.0)
        self.stem2a = _FrozenConvBN(middle, middle // 2, 2, lr_mult=0.0)
        self.stem2b = _FrozenConvBN(middle // 2, middle, 2, lr_mult=0.0)
        self.stem3 = _FrozenConvBN(2 * middle, middle, 3, stride=2, lr_mult=0.0)
        self.stem4 = _FrozenConvBN(middle, channels_out, 1, lr_mult=0.0)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.stem1(x)
        strongest = F.max_pool2d(x, 2, stride=1, padding="SAME")
        return self.stem4(self.stem3(paddle.concat([strongest, self.stem2b(self.stem2a(x))], axis=1)))


class _Stage(nn.Layer):
    """Blocks at one resolution; those after the first add their input."""

    def __init__(
        self,
        channels_in: int,
        inner: int,
        outer: int,
        *,
        blocks: int,
        layers: int,
        halve: bool,
        light: bool,
        lr_mult: float,
    ) -> None:
        super().__init__()
        self.halve = halve
        if halve:
            self.downsample = _FrozenConvBN(
                channels_in, channels_in, 3, stride=2, groups=channels_in, relu=False, lr_mult=lr_mult
            )
        self.blocks = nn.Sequential(
            *[
                _Block(
                    outer if index else channels_in,
                    inner,
                    outer,
                    layers=layers,
                    shortcut=index > 0,
                    light=light,
                    lr_mult=lr_mult,
                )
                for index in range(blocks)
            ]
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.blocks(self.downsample(x) if self.halve else x)


class _Block(nn.Layer):
    """Convolutions in a row; input and all outputs are joined and mixed by two 1 x 1 convolutions."""

    def __init__(
        self, channels_in: int, inner: int, outer: int, *, layers: int, shortcut: bool, light: bool, lr_mult: float
    ) -> None:
        super().__init__()
        self.layers = nn.LayerList()
        for index in range(layers):
            channels = inner if index else channels_in
            if light:
                self.layers.append(_LightConvBN(channels, inner, lr_mult=lr_mult))
            else:
                self.layers.append(_FrozenConvBN(channels, inner, 3, lr_mult=lr_mult))
        joined = channels_in + layers * inner
        self.aggregation_squeeze_conv = _FrozenConvBN(joined, outer // 2, 1, lr_mult=lr_mult)
        self.aggregation_excitation_conv = _FrozenConvBN(outer // 2, outer, 1, lr_mult=lr_mult)
        self.shortcut = shortcut

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        found = [x]
        for layer in self.layers:
            found.append(layer(found[-1]))
        y = self.aggregation_excitation_conv(self.aggregation_squeeze_conv(paddle.concat(found, axis=1)))
        return x + y if self.shortcut else y


class _LightConvBN(nn.Layer):
    """A 1 x 1 convolution, then a 5 x 5 one of each channel by itself."""

    def __init__(self, channels_in: int, channels_out: int, *, lr_mult: float) -> None:
        super().__init__()
        self.conv1 = _FrozenConvBN(channels_in, channels_out, 1, relu=False, lr_mult=lr_mult)
        self.conv2 = _FrozenConvBN(channels_out, channels_out, 5, groups=channels_out, lr_mult=lr_mult)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv2(self.conv1(x))


class _FrozenConvBN(nn.Layer):
    """Convolution without bias, batch norm that never learns or counts, and relu where asked."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
        lr_mult: float,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            padding=kernel // 2 if kernel % 2 else "SAME",  # an even kernel looks one pixel further right and down
            groups=groups,
            weight_attr=paddle.ParamAttr(learning_rate=lr_mult, initializer=nn.initializer.KaimingNormal()),
            bias_attr=False,
        )
        self.bn = frozen_batch_norm(channels_out)
        self.relu = relu

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x) if self.relu else x
