"""The neck of PP-YOLOE: features of three strides flow down from the coarsest, then up again from the finest.

Paper: Xu et al., "PP-YOLOE", 2022 (https://arxiv.org/abs/2203.16250). Code: PaddleDetection,
ppdet/modeling/necks/custom_pan.py, Apache-2.0. Changed: only the variant in use is here (one cross-stage-partial stage
a level, spatial pyramid pooling at the coarsest, no transformer, no DropBlock); the map is doubled by an explicit size,
because exported programs carry a scale factor as a list of doubles, which the ONNX converter (paddle2onnx 2.1) refuses.
"""

from __future__ import annotations

from itertools import pairwise

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.conv_bn import ConvBN
from rayseg.models.blocks.rep_vgg import RepResidual

LEVEL_CHANNELS = (768, 384, 192)
BLOCKS = 3
POOL_SIDES = (5, 9, 13)


class CSPPAN(nn.Layer):
    """Three maps, finest first, in; three maps, coarsest first (strides 32, 16, 8), out.

    Args:
        channels_in: of the maps of the backbone, finest first.
        width_mult: factor on the channels 768, 384, 192 of the outputs.
        depth_mult: factor on the 3 blocks of a stage.

    Attributes:
        channels_out: of the outputs, coarsest first.
    """

    def __init__(self, channels_in: list[int], *, width_mult: float, depth_mult: float) -> None:
        super().__init__()
        outs = [max(round(c * width_mult), 1) for c in LEVEL_CHANNELS]
        depth = max(round(BLOCKS * depth_mult), 1)
        coarse_first = channels_in[::-1]
        from_coarser = [0, *(c // 2 for c in outs[:-1])]
        # The reference wraps every stage in a sequence of one, hence the ".0" in the names of the parameters.
        self.fpn_stages = nn.LayerList(
            [
                nn.Sequential(CSPStage(own + extra, out, depth, pyramid_pooling=level == 0))
                for level, (own, extra, out) in enumerate(zip(coarse_first, from_coarser, outs, strict=True))
            ]
        )
        self.fpn_routes = nn.LayerList([ConvBN(out, out // 2, 1, act=F.silu) for out in outs[:-1]])
        pairs = list(pairwise(outs))
        self.pan_stages = nn.LayerList(
            [nn.Sequential(CSPStage(coarse + fine, coarse, depth, pyramid_pooling=False)) for coarse, fine in pairs]
        )
        self.pan_routes = nn.LayerList([ConvBN(fine, fine, 3, stride=2, act=F.silu) for _, fine in pairs])
        self.channels_out = outs

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        merged: list[paddle.Tensor] = []
        for level, x in enumerate(reversed(maps)):
            if level > 0:
                x = paddle.concat([_double(self.fpn_routes[level - 1](merged[-1])), x], axis=1)
            merged.append(self.fpn_stages[level](x))

        outs = [merged[-1]]
        for level in reversed(range(len(merged) - 1)):
            x = paddle.concat([self.pan_routes[level](outs[-1]), merged[level]], axis=1)
            outs.append(self.pan_stages[level](x))
        return outs[::-1]


class CSPStage(nn.Layer):
    """Half of the channels pass `depth` blocks (and the pyramid pooling), half pass by; both are joined."""

    def __init__(self, channels_in: int, channels_out: int, depth: int, *, pyramid_pooling: bool) -> None:
        super().__init__()
        half = channels_out // 2
        self.conv1 = ConvBN(channels_in, half, 1, act=F.silu)
        self.conv2 = ConvBN(channels_in, half, 1, act=F.silu)
        self.convs = nn.Sequential()
        for index in range(depth):
            self.convs.add_sublayer(str(index), RepResidual(half, act=F.silu, shortcut=False, use_alpha=False))
            if pyramid_pooling and index == (depth - 1) // 2:
                self.convs.add_sublayer("spp", PyramidPooling(half))
        self.conv3 = ConvBN(2 * half, channels_out, 1, act=F.silu)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv3(paddle.concat([self.conv1(x), self.convs(self.conv2(x))], axis=1))


class PyramidPooling(nn.Layer):
    """The map and its maxima over 5, 9 and 13 pixels, joined and projected back. (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for index, side in enumerate(POOL_SIDES):
            self.add_sublayer(f"pool{index}", nn.MaxPool2D(side, stride=1, padding=side // 2))
        self.conv = ConvBN(channels * (1 + len(POOL_SIDES)), channels, 1, act=F.silu)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv(paddle.concat([x, self.pool0(x), self.pool1(x), self.pool2(x)], axis=1))


def _double(x: paddle.Tensor) -> paddle.Tensor:
    """Nearest-neighbour upsampling by 2."""
    return F.interpolate(x, size=[x.shape[2] * 2, x.shape[3] * 2], mode="nearest")
