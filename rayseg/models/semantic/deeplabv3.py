"""DeepLabv3 and DeepLabv3+: what surrounds a pixel, seen at several dilations at once; networks, loss and named builders.

Papers: L.-C. Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
https://arxiv.org/abs/1706.05587, and "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
ECCV 2018, https://arxiv.org/abs/1802.02611.
Original code: https://github.com/PaddlePaddle/PaddleSeg (Apache-2.0); parameter names are the same, so its weights load.
Changed: only the dilations that belong to stride 8, and bilinear resizing with pixel centres at +0.5.
"""

from __future__ import annotations

import paddle
from paddle import nn

from rayseg.models.backbones.resnet_vd_dilated import DilatedResNetVd, resnet50_vd, resnet101_vd
from rayseg.models.network import SemanticNetwork
from rayseg.models.preprocess import SEMANTIC
from rayseg.models.semantic.label_map import resized_argmax
from rayseg.models.semantic.layers import ConvBN, ConvBNReLU, resize_like
from rayseg.models.semantic.losses import head_losses

CONTEXT_CHANNELS = 256
DILATIONS = (12, 24, 36)
DROPOUT = 0.1
FINE_CHANNELS = 48


def build_deeplabv3_r50(num_classes: int = 19) -> DeepLabV3:
    """Deeplabv3-R50: 39.1 M parameters with 19 classes."""
    return DeepLabV3(resnet50_vd(), num_classes, plus=False)


def build_deeplabv3_r101(num_classes: int = 19) -> DeepLabV3:
    """Deeplabv3-R101: 58.2 M parameters with 19 classes."""
    return DeepLabV3(resnet101_vd(), num_classes, plus=False)


def build_deeplabv3_plus_r50(num_classes: int = 19) -> DeepLabV3:
    """Deeplabv3_Plus-R50: 26.8 M parameters with 19 classes."""
    return DeepLabV3(resnet50_vd(), num_classes, plus=True)


def build_deeplabv3_plus_r101(num_classes: int = 19) -> DeepLabV3:
    """Deeplabv3_Plus-R101: 45.8 M parameters with 19 classes."""
    return DeepLabV3(resnet101_vd(), num_classes, plus=True)


class DeepLabV3(SemanticNetwork):
    """Class scores of every pixel from the backbone's last map, and in DeepLabv3+ its first one too.

    Works for any batch and any height and width; the label map has the size of the input.

    Args:
        backbone: gives maps with `out_channels`, the first at stride 4, the last at stride 8.
        num_classes: C, background included.
        plus: DeepLabv3+: separable convolutions, and a decoder that adds detail from stride 4.
    """

    family = "label_map"
    preprocess = SEMANTIC

    def __init__(self, backbone: DilatedResNetVd, num_classes: int, *, plus: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        head = _PlusHead if plus else _Head
        self.head = head(backbone.out_channels, num_classes)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """The logits, alone in their list, float32 [N, C, H, W].

        Args:
            x: float32 [N, 3, H, W], RGB as (value / 255 - 0.5) / 0.5.
        """
        return [resize_like(self.head(self.backbone(x)), x)]

    def forward_lean(self, x: paddle.Tensor) -> paddle.Tensor:
        return resized_argmax(self.head(self.backbone(x)), x)

    def loss(self, inputs: paddle.Tensor, targets: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """`loss_0` and `loss`, both the cross-entropy; see `SemanticNetwork.loss`."""
        return head_losses(self.forward(inputs), targets, weights=(1.0,))


class _Head(nn.Layer):
    def __init__(self, in_channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.aspp = _AtrousPyramid(in_channels[-1], ConvBNReLU)
        self.cls = nn.Conv2D(CONTEXT_CHANNELS, num_classes, 1)

    def forward(self, maps: list[paddle.Tensor]) -> paddle.Tensor:
        return self.cls(self.aspp(maps[-1]))


class _PlusHead(nn.Layer):
    def __init__(self, in_channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.aspp = _AtrousPyramid(in_channels[-1], _SeparableConv)
        self.decoder = _Decoder(in_channels[0], num_classes)

    def forward(self, maps: list[paddle.Tensor]) -> paddle.Tensor:
        return self.decoder(maps[0], self.aspp(maps[-1]))


class _AtrousPyramid(nn.Layer):
    """One pixel, its neighbours at three distances and the mean of the whole map, mixed (the papers' ASPP).

    Args:
        in_channels: of the map.
        wide: the layer that looks at the neighbours.
    """

    def __init__(self, in_channels: int, wide: type[ConvBNReLU | _SeparableConv]) -> None:
        super().__init__()
        self.aspp_blocks = nn.LayerList(
            [
                ConvBNReLU(in_channels, CONTEXT_CHANNELS, 1, bias=True),
                *[wide(in_channels, CONTEXT_CHANNELS, 3, dilation=dilation, bias=True) for dilation in DILATIONS],
            ]
        )
        self.global_avg_pool = nn.Sequential(nn.AdaptiveAvgPool2D(1), ConvBNReLU(in_channels, CONTEXT_CHANNELS, 1))
        parts = len(self.aspp_blocks) + 1
        self.conv_bn_relu = ConvBNReLU(parts * CONTEXT_CHANNELS, CONTEXT_CHANNELS, 1, bias=True)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        parts = [block(x) for block in self.aspp_blocks]
        parts.append(resize_like(self.global_avg_pool(x), x))
        return self.dropout(self.conv_bn_relu(paddle.concat(parts, axis=1)))


class _Decoder(nn.Layer):
    """The context, enlarged to the fine map and refined beside a narrow copy of it."""

    def __init__(self, fine_channels: int, num_classes: int) -> None:
        super().__init__()
        width = CONTEXT_CHANNELS
        self.conv_bn_relu1 = ConvBNReLU(fine_channels, FINE_CHANNELS, 1, bias=True)
        self.conv_bn_relu2 = _SeparableConv(width + FINE_CHANNELS, width, 3, bias=True)
        self.conv_bn_relu3 = _SeparableConv(width, width, 3, bias=True)
        self.conv = nn.Conv2D(width, num_classes, 1)

    def forward(self, fine: paddle.Tensor, context: paddle.Tensor) -> paddle.Tensor:
        fine = self.conv_bn_relu1(fine)
        x = paddle.concat([resize_like(context, fine), fine], axis=1)
        return self.conv(self.conv_bn_relu3(self.conv_bn_relu2(x)))


class _SeparableConv(nn.Layer):
    """Each channel on its own, then a 1 x 1 convolution across them."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, dilation: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.depthwise_conv = ConvBN(in_channels, in_channels, kernel, dilation=dilation, groups=in_channels, bias=bias)
        # Spelt as in the published weights.
        self.piontwise_conv = ConvBNReLU(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.piontwise_conv(self.depthwise_conv(x))
