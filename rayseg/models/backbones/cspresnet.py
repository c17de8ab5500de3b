"""CSPResNet: the backbone of PP-YOLOE, residual RepVGG blocks inside cross-stage-partial stages.

Paper: Xu et al., "PP-YOLOE: An evolved version of YOLO", 2022 (https://arxiv.org/abs/2203.16250).
Code: PaddleDetection, ppdet/modeling/backbones/cspresnet.py, Apache-2.0.
Changed: only the variant in use (three-convolution stem, channel attention, learned branch weights) is here; a plain
tensor goes in instead of a dict. Names of parameters are those of published weights.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.attention import EffectiveSE
from rayseg.models.blocks.conv_bn import ConvBN
from rayseg.models.blocks.rep_vgg import RepResidual

STAGE_DEPTHS = (3, 6, 6, 3)
STAGE_CHANNELS = (64, 128, 256, 512, 1024)
RETURNED_STAGES = (1, 2, 3)


class CSPResNet(nn.Layer):
    """Image [N, 3, H, W] -> three maps at strides 8, 16 and 32, finest first.

    Args:
        width_mult: factor on the channels 64, 128, 256, 512, 1024 of stem and stages.
        depth_mult: factor on the 3, 6, 6, 3 blocks of the stages; at least one block remains.

    Attributes:
        channels_out: channels of the three maps.
    """

    def __init__(self, *, width_mult: float, depth_mult: float) -> None:
        super().__init__()
        stem, *stages = (max(round(c * width_mult), 1) for c in STAGE_CHANNELS)
        depths = [max(round(d * depth_mult), 1) for d in STAGE_DEPTHS]
        self.stem = nn.Sequential(
            ("conv1", ConvBN(3, stem // 2, 3, stride=2, act=F.silu)),
            ("conv2", ConvBN(stem // 2, stem // 2, 3, act=F.silu)),
            ("conv3", ConvBN(stem // 2, stem, 3, act=F.silu)),
        )
        inputs = [stem, *stages[:-1]]
        self.stages = nn.Sequential(*map(CSPResStage, inputs, stages, depths))
        self.channels_out = [stages[i] for i in RETURNED_STAGES]

    def forward(self, image: paddle.Tensor) -> list[paddle.Tensor]:
        x = self.stem(image)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in RETURNED_STAGES:
                maps.append(x)
        return maps


class CSPResStage(nn.Layer):
    """Halve the map, send half of the channels through `depth` residual blocks, join, attend, widen."""

    def __init__(self, channels_in: int, channels_out: int, depth: int) -> None:
        super().__init__()
        middle = (channels_in + channels_out) // 2
        half = middle // 2
        self.conv_down = ConvBN(channels_in, middle, 3, stride=2, act=F.silu)
        self.conv1 = ConvBN(middle, half, 1, act=F.silu)
        self.conv2 = ConvBN(middle, half, 1, act=F.silu)
        self.blocks = nn.Sequential(*[RepResidual(half, act=F.silu, shortcut=True, use_alpha=True) for _ in range(depth)])
        self.attn = EffectiveSE(2 * half)
        self.conv3 = ConvBN(2 * half, channels_out, 1, act=F.silu)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv_down(x)
        return self.conv3(self.attn(paddle.concat([self.conv1(x), self.blocks(self.conv2(x))], axis=1)))
