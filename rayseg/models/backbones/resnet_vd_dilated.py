"""ResNet-vd that stays at stride 8: the backbone of DeepLab. The detection networks have another ResNet, in resnet.py.

Papers: K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385; the "vd"
stem and shortcut: T. He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks", CVPR 2019,
https://arxiv.org/abs/1812.01187; dilation in place of stride, and the multi-grid of the last stage: L.-C. Chen et al.,
"Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, https://arxiv.org/abs/1706.05587.
Original code: https://github.com/PaddlePaddle/PaddleSeg (Apache-2.0); parameter names are the same, so its weights load.
Changed: only the 50 and 101 layer networks at stride 8.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.semantic.layers import ConvBN, ConvBNReLU

WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
# Of each block's 3 x 3 convolution, in place of the strides of the last two stages.
STAGE_DILATIONS = (1, 1, 2, 4)


def resnet50_vd() -> DilatedResNetVd:
    """3, 4, 6 and 3 blocks."""
    return DilatedResNetVd(blocks=(3, 4, 6, 3))


def resnet101_vd() -> DilatedResNetVd:
    """3, 4, 23 and 3 blocks."""
    return DilatedResNetVd(blocks=(3, 4, 23, 3))


class DilatedResNetVd(nn.Layer):
    """Four feature maps of one image: `out_channels` deep, the first at stride 4, the others at stride 8.

    Args:
        blocks: number of bottleneck blocks of the four stages.
        multi_grid: factors of the dilation in the blocks of the last stage.
    """

    def __init__(self, *, blocks: tuple[int, int, int, int], multi_grid: tuple[int, int, int] = (1, 2, 4)) -> None:
        super().__init__()
        self.out_channels = tuple(EXPANSION * width for width in WIDTHS)
        self.conv1_1 = ConvBNReLU(3, 32, 3, stride=2)
        self.conv1_2 = ConvBNReLU(32, 32, 3)
        self.conv1_3 = ConvBNReLU(32, 64, 3)
        channels = 64
        self._stages: list[list[str]] = []
        for stage, (count, width, dilation) in enumerate(zip(blocks, WIDTHS, STAGE_DILATIONS, strict=True)):
            names = [f"bb_{stage}_{index}" for index in range(count)]
            for index, name in enumerate(names):
                grid = multi_grid[index] if stage == len(WIDTHS) - 1 else 1
                halves = stage == 1 and index == 0
                self.add_sublayer(name, _Bottleneck(channels, width, halves=halves, dilation=dilation * grid))
                channels = EXPANSION * width
            self._stages.append(names)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """The output of each stage; a side is divided by the stride and rounded up.

        Args:
            x: float32 [N, 3, H, W], any height and width.
        """
        x = self.conv1_3(self.conv1_2(self.conv1_1(x)))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        maps = []
        for names in self._stages:
            for name in names:
                x = getattr(self, name)(x)
            maps.append(x)
        return maps


class _Bottleneck(nn.Layer):
    """1 x 1, 3 x 3 and 1 x 1 convolution beside a shortcut, which has a convolution where the width changes."""

    def __init__(self, in_channels: int, width: int, *, halves: bool, dilation: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self._halves = halves
        self.conv0 = ConvBNReLU(in_channels, width, 1)
        self.conv1 = ConvBNReLU(width, width, 3, stride=2 if halves else 1, dilation=dilation)
        self.conv2 = ConvBN(width, out_channels, 1)
        self.short = ConvBN(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.conv2(self.conv1(self.conv0(x)))
        # An odd side leaves a window of one pixel, which counts in full: the mean is over what is there.
        short = F.avg_pool2d(x, kernel_size=2, stride=2, ceil_mode=True) if self._halves else x
        if self.short is not None:
            short = self.short(short)
        return F.relu(short + y)
