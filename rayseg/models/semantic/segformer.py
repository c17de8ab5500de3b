"""SegFormer: a transformer backbone and a head of linear layers; network, loss and named builders.

Paper: E. Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021,
https://arxiv.org/abs/2105.15203.
Original code: https://github.com/NVlabs/SegFormer (NVIDIA's own licence, non-commercial); nothing of it is here. Parameter
names are those of PaddleSeg's version (https://github.com/PaddlePaddle/PaddleSeg, Apache-2.0), so its weights load.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.geometry import Size
from rayseg.models.backbones.mit import MiT, ReducedAttention, to_map, to_tokens
from rayseg.models.network import Flavour, SemanticNetwork
from rayseg.models.preprocess import SEMANTIC
from rayseg.models.semantic.label_map import resized_argmax
from rayseg.models.semantic.layers import ConvBNReLU, resize_like
from rayseg.models.semantic.losses import head_losses

NARROW, WIDE = (32, 64, 160, 256), (64, 128, 320, 512)


def build_segformer_b0(num_classes: int = 19) -> SegFormer:
    """SegFormer-B0: 3.7 M parameters with 19 classes."""
    return SegFormer(MiT(channels=NARROW, depths=(2, 2, 2, 2)), num_classes, channels=256)


def build_segformer_b1(num_classes: int = 19) -> SegFormer:
    """SegFormer-B1: 13.7 M parameters with 19 classes."""
    return SegFormer(MiT(channels=WIDE, depths=(2, 2, 2, 2)), num_classes, channels=256)


def build_segformer_b2(num_classes: int = 19) -> SegFormer:
    """SegFormer-B2: 27.4 M parameters with 19 classes."""
    return SegFormer(MiT(channels=WIDE, depths=(3, 4, 6, 3)), num_classes, channels=768)


def build_segformer_b3(num_classes: int = 19) -> SegFormer:
    """SegFormer-B3: 47.2 M parameters with 19 classes."""
    return SegFormer(MiT(channels=WIDE, depths=(3, 4, 18, 3)), num_classes, channels=768)


def build_segformer_b4(num_classes: int = 19) -> SegFormer:
    """SegFormer-B4: 64.0 M parameters with 19 classes."""
    return SegFormer(MiT(channels=WIDE, depths=(3, 8, 27, 3)), num_classes, channels=768)


def build_segformer_b5(num_classes: int = 19) -> SegFormer:
    """SegFormer-B5: 84.6 M parameters with 19 classes."""
    return SegFormer(MiT(channels=WIDE, depths=(3, 6, 40, 3)), num_classes, channels=768)


class SegFormer(SemanticNetwork):
    """Class scores of every pixel from the backbone's maps at strides 4, 8, 16 and 32.

    Args:
        backbone: gives four maps with `out_channels`.
        num_classes: C, background included.
        channels: width of the head.
    """

    family = "label_map"
    preprocess = SEMANTIC

    def __init__(self, backbone: MiT, num_classes: int, *, channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        for stage, width in reversed(list(enumerate(backbone.out_channels, start=1))):
            setattr(self, f"linear_c{stage}", _Linear(width, channels))
        self.dropout = nn.Dropout2D(0.1)
        self.linear_fuse = ConvBNReLU(channels * 4, channels, 1)
        self.linear_pred = nn.Conv2D(channels, num_classes, 1)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        return [resize_like(self._scores(x), x)]

    def _scores(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C, H / 4, W / 4]."""
        maps = self.backbone(x)
        seen = [to_map(getattr(self, f"linear_c{stage}")(m), m.shape[2:]) for stage, m in enumerate(maps, 1)]
        coarsest_first = [resize_like(m, maps[0]) for m in reversed(seen)]
        fused = self.linear_fuse(paddle.concat(coarsest_first, axis=1))
        return self.linear_pred(self.dropout(fused))

    def loss(self, inputs: paddle.Tensor, targets: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Cross-entropy: `loss_0`, and `loss`, which is the same."""
        return head_losses(self.forward(inputs), targets, weights=(1.0,))

    def program(self, flavour: Flavour, size: Size | None = None) -> tuple[nn.Layer, list[Any]]:
        """See `SemanticNetwork`; the program gives the same label maps with less work."""
        layer, spec = _Deployed(self).program(flavour, size)
        for part in layer.sublayers():
            if isinstance(part, ReducedAttention):
                part.at_once = flavour == "paddlex"
        return layer, spec


class _Linear(nn.Layer):
    """A linear layer over the channels of a map, as tokens."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels_in, channels_out)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.proj(to_tokens(x))


class _Deployed(SemanticNetwork):
    """What a SegFormer computes in eval mode, with the head's work done before the resizing instead of behind it.

    All that is linear there (the layer of each map, its share of the convolution, the batch norm's scale) is one 1 x 1
    convolution, and that may change places with bilinear resizing, whose weights add up to one.
    """

    family = SegFormer.family
    preprocess = SegFormer.preprocess

    @paddle.no_grad()
    def __init__(self, network: SegFormer) -> None:
        super().__init__()
        self.num_classes = network.num_classes
        self.backbone = network.backbone
        self.linear_pred = network.linear_pred
        norm = network.linear_fuse._batch_norm
        scale = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
        shares = network.linear_fuse._conv.weight.flatten(1).chunk(len(network.backbone.out_channels), axis=1)
        bias = norm.bias - norm._mean * scale
        projections = []
        for stage, share in enumerate(reversed(shares), 1):
            linear, share = getattr(network, f"linear_c{stage}").proj, share * scale.unsqueeze(1)
            weight = paddle.matmul(share, linear.weight, transpose_y=True)
            bias += paddle.matmul(share, linear.bias)
            conv = nn.Conv2D(weight.shape[1], weight.shape[0], 1, bias_attr=None if stage == 1 else False)
            conv.weight.set_value(weight.unsqueeze([2, 3]))
            projections.append(conv)
        projections[0].bias.set_value(bias)
        self.finest, *coarser = projections
        self.coarser = nn.LayerList(coarser)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        return [resize_like(self._scores(x), x)]

    def forward_lean(self, x: paddle.Tensor) -> paddle.Tensor:
        return resized_argmax(self._scores(x), x)

    def _scores(self, x: paddle.Tensor) -> paddle.Tensor:
        finest, *coarser = self.backbone(x)
        fused = self.finest(finest)
        for index, seen in enumerate(coarser):
            fused = fused + resize_like(self.coarser[index](seen), finest)
        return self.linear_pred(F.relu(fused))
