"""STDC, the backbone of PP-LiteSeg: Short-Term Dense Concatenate networks.

Paper: M. Fan et al., "Rethinking BiSeNet For Real-time Semantic Segmentation", CVPR 2021, https://arxiv.org/abs/2104.13188.
Original code: https://github.com/MichaelFan01/STDC-Seg (MIT). Parameter names are those of PaddleSeg's version
(https://github.com/PaddlePaddle/PaddleSeg, Apache-2.0), so its weights load.
Changed: only the concatenating block that the published models use; convolutions start from Paddle's default (He) instead of a
normal distribution of width 0.001, which matters only where training starts without weights.
"""

from __future__ import annotations

import paddle
from paddle import nn


def stdc1() -> STDC:
    """The smaller one: two blocks at each of strides 8, 16 and 32."""
    return STDC(blocks=(2, 2, 2))


def stdc2() -> STDC:
    """The larger one: 4, 5 and 3 blocks at strides 8, 16 and 32."""
    return STDC(blocks=(4, 5, 3))


class STDC(nn.Layer):
    """Five feature maps of one image, at strides 2, 4, 8, 16 and 32.

    Args:
        blocks: number of blocks at strides 8, 16 and 32; the first of each halves the resolution.
        base: channels at stride 4; the five maps have base / 2, base, 4 base, 8 base and 16 base.
    """

    def __init__(self, *, blocks: tuple[int, int, int], base: int = 64) -> None:
        super().__init__()
        self.out_channels = (base // 2, base, base * 4, base * 8, base * 16)
        layers: list[nn.Layer] = [
            _ConvBNReLU(3, base // 2, kernel=3, stride=2),
            _ConvBNReLU(base // 2, base, kernel=3, stride=2),
        ]
        self._stage_ends = {0, 1}
        channels = base
        for count, out in zip(blocks, self.out_channels[2:], strict=True):
            for index in range(count):
                layers.append(_ConcatBlock(channels, out, stride=2 if index == 0 else 1))
                channels = out
            self._stage_ends.add(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Five maps, finest first; each side is half of the one before, rounded up.

        Args:
            x: float32 [N, 3, H, W], any height and width.
        """
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._stage_ends:
                maps.append(x)
        return maps


class _ConcatBlock(nn.Layer):
    """Four convolutions in a row, whose outputs (1/2, 1/4, 1/8, 1/8 of the channels) are concatenated.

    With stride 2 a depthwise convolution halves the input of the second one, and average pooling the output of the first.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        half, quarter, eighth = out_channels // 2, out_channels // 4, out_channels // 8
        self._halves = stride == 2
        self.conv_list = nn.LayerList(
            [
                _ConvBNReLU(in_channels, half, kernel=1),
                _ConvBNReLU(half, quarter, kernel=3),
                _ConvBNReLU(quarter, eighth, kernel=3),
                _ConvBNReLU(eighth, eighth, kernel=3),
            ]
        )
        if self._halves:
            depthwise = nn.Conv2D(half, half, 3, stride=2, padding=1, groups=half, bias_attr=False)
            self.avd_layer = nn.Sequential(depthwise, nn.BatchNorm2D(half))
            self.skip = nn.AvgPool2D(kernel_size=3, stride=2, padding=1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        widest, *others = self.conv_list
        first = widest(x)
        x = self.avd_layer(first) if self._halves else first
        parts = [self.skip(first) if self._halves else first]
        for conv in others:
            x = conv(x)
            parts.append(x)
        return paddle.concat(parts, axis=1)


class _ConvBNReLU(nn.Layer):
    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2D(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias_attr=False)
        self.bn = nn.BatchNorm2D(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.relu(self.bn(self.conv(x)))
