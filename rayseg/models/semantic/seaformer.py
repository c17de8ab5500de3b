"""SeaFormer: a mobile network of convolutions and axial attention; head, loss and named builders.

Paper: Q. Wan et al., "SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic Segmentation", ICLR 2023,
https://arxiv.org/abs/2301.13156.
Original code: https://github.com/fudan-zvg/SeaFormer (Apache-2.0). Parameter names are those of PaddleSeg's version
(https://github.com/PaddlePaddle/PaddleSeg, Apache-2.0), so its weights load.
Changed: nothing here; see backbones/seaformer.py.
"""

from __future__ import annotations

import paddle
from paddle import nn

from rayseg.models.backbones.seaformer import Attention, Conv, SeaFormer
from rayseg.models.network import SemanticNetwork
from rayseg.models.preprocess import SEMANTIC
from rayseg.models.semantic.label_map import resized_argmax
from rayseg.models.semantic.layers import ConvBN, ConvBNReLU, resize_like
from rayseg.models.semantic.losses import head_losses


def build_seaformer_tiny(num_classes: int = 150) -> SeaFormerSeg:
    """SeaFormer_tiny: 1.7 M parameters with 150 classes."""
    backbone = SeaFormer(
        stem_channels=16,
        stages=[
            [Conv(3, 1, 16, 1), Conv(3, 4, 16, 2), Conv(3, 3, 16, 1)],
            [Conv(5, 3, 32, 2), Conv(5, 3, 32, 1)],
            [Conv(3, 3, 64, 2), Conv(3, 3, 64, 1)],
            [Conv(5, 3, 128, 2)],
            [Conv(3, 6, 160, 2)],
        ],
        attention=[Attention(2, 16, 2), Attention(2, 24, 4)],
        heads=4,
    )
    return SeaFormerSeg(backbone, num_classes, fusion_channels=(64, 96))


def build_seaformer_small(num_classes: int = 150) -> SeaFormerSeg:
    """SeaFormer_small: 4.0 M parameters with 150 classes."""
    backbone = SeaFormer(
        stem_channels=16,
        stages=[
            [Conv(3, 1, 16, 1), Conv(3, 4, 24, 2), Conv(3, 3, 24, 1)],
            [Conv(5, 3, 48, 2), Conv(5, 3, 48, 1)],
            [Conv(3, 3, 96, 2), Conv(3, 3, 96, 1)],
            [Conv(5, 4, 160, 2)],
            [Conv(3, 6, 192, 2)],
        ],
        attention=[Attention(3, 16, 2), Attention(3, 24, 4)],
        heads=6,
    )
    return SeaFormerSeg(backbone, num_classes, fusion_channels=(96, 128))


def build_seaformer_base(num_classes: int = 150) -> SeaFormerSeg:
    """SeaFormer_base: 8.7 M parameters with 150 classes."""
    backbone = SeaFormer(
        stem_channels=16,
        stages=[
            [Conv(3, 1, 16, 1), Conv(3, 4, 32, 2), Conv(3, 3, 32, 1)],
            [Conv(5, 3, 64, 2), Conv(5, 3, 64, 1)],
            [Conv(3, 3, 128, 2), Conv(3, 3, 128, 1)],
            [Conv(5, 4, 192, 2)],
            [Conv(3, 6, 256, 2)],
        ],
        attention=[Attention(4, 16, 2), Attention(4, 24, 4)],
        heads=8,
    )
    return SeaFormerSeg(backbone, num_classes, fusion_channels=(128, 160))


def build_seaformer_large(num_classes: int = 150) -> SeaFormerSeg:
    """SeaFormer_large: 14.0 M parameters with 150 classes."""
    backbone = SeaFormer(
        stem_channels=32,
        stages=[
            [Conv(3, 3, 32, 1), Conv(3, 4, 64, 2), Conv(3, 4, 64, 1)],
            [Conv(5, 4, 128, 2), Conv(5, 4, 128, 1)],
            [Conv(3, 4, 192, 2), Conv(3, 4, 192, 1)],
            [Conv(5, 4, 256, 2)],
            [Conv(3, 6, 320, 2)],
        ],
        attention=[Attention(3, 16, 2), Attention(3, 20, 4), Attention(3, 24, 6)],
        heads=8,
    )
    return SeaFormerSeg(backbone, num_classes, fusion_channels=(128, 160, 192))


class SeaFormerSeg(SemanticNetwork):
    """Class scores of every pixel: details at stride 8, gated by each coarser map in turn.

    Args:
        backbone: gives maps with `out_channels`.
        num_classes: C, background included.
        fusion_channels: width after each gate, one fewer than the backbone has maps; the last is that of the head.
    """

    family = "label_map"
    preprocess = SEMANTIC

    def __init__(self, backbone: SeaFormer, num_classes: int, *, fusion_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        width = fusion_channels[-1]
        self.linear_fuse = ConvBNReLU(width, width, 1, groups=width)
        self.dropout = nn.Dropout2D(0.1)
        self.cls_seg = nn.Conv2D(width, num_classes, 1)
        fine, *coarser = backbone.out_channels
        for index, (coarse, fused) in enumerate(zip(coarser, fusion_channels, strict=True), start=1):
            setattr(self, f"fuse{index}", _Gate(fine, coarse, fused))
            fine = fused
        self.num_gates = len(coarser)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        return [resize_like(self._scores(x), x)]

    def forward_lean(self, x: paddle.Tensor) -> paddle.Tensor:
        return resized_argmax(self._scores(x), x)

    def _scores(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C, H / 8, W / 8]."""
        fine, *coarser = self.backbone(x)
        for index, coarse in enumerate(coarser, 1):
            fine = getattr(self, f"fuse{index}")(fine, coarse)
        return self.cls_seg(self.dropout(self.linear_fuse(fine)))

    def loss(self, inputs: paddle.Tensor, targets: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Cross-entropy: `loss_0`, and `loss`, which is the same."""
        return head_losses(self.forward(inputs), targets, weights=(1.0,))


class _Gate(nn.Layer):
    """A fine map times what a coarse one lets through."""

    def __init__(self, fine_channels: int, coarse_channels: int, out_channels: int) -> None:
        super().__init__()
        self.local_embedding = ConvBN(fine_channels, out_channels, 1)
        self.global_act = ConvBN(coarse_channels, out_channels, 1)
        self.act = nn.Hardsigmoid()

    def forward(self, fine: paddle.Tensor, coarse: paddle.Tensor) -> paddle.Tensor:
        fine = self.local_embedding(fine)
        return fine * resize_like(self.act(self.global_act(coarse)), fine)
