"""OCRNet: a pixel is judged together with the classes it resembles, each summed up over the image; network, loss, builders.

Paper: Y. Yuan et al., "Object-Contextual Representations for Semantic Segmentation", ECCV 2020,
https://arxiv.org/abs/1909.11065.
Original code: https://github.com/HRNet/HRNet-Semantic-Segmentation (MIT). Parameter names are those of PaddleSeg's version
(https://github.com/PaddlePaddle/PaddleSeg, Apache-2.0), so its weights load.
Changed: `loss` always runs both heads, whichever mode the network is in; fresh convolutions as in hrnet.py.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.backbones.hrnet import HRNet, hrnet_w18, hrnet_w48
from rayseg.models.network import SemanticNetwork
from rayseg.models.preprocess import SEMANTIC
from rayseg.models.semantic.label_map import resized_argmax
from rayseg.models.semantic.layers import ConvBNReLU, resize_like
from rayseg.models.semantic.losses import head_losses

PIXEL_CHANNELS = 512
KEY_CHANNELS = 256
DROPOUT = 0.1
# Of the logits that predict, and of those that weigh the pixels of a class.
LOSS_WEIGHTS = (1.0, 0.4)


def build_ocrnet_hrnet_w18(num_classes: int = 19) -> OCRNet:
    """OCRNet_HRNet-W18: 12.1 M parameters with 19 classes."""
    return OCRNet(hrnet_w18(), num_classes)


def build_ocrnet_hrnet_w48(num_classes: int = 19) -> OCRNet:
    """OCRNet_HRNet-W48: 70.5 M parameters with 19 classes."""
    return OCRNet(hrnet_w48(), num_classes)


class OCRNet(SemanticNetwork):
    """Class scores of every pixel from the backbone's map.

    Works for any batch and any height and width; the label map has the size of the input.

    Args:
        backbone: gives one map with `out_channels`.
        num_classes: C, background included.
    """

    family = "label_map"
    preprocess = SEMANTIC

    def __init__(self, backbone: HRNet, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = _Head(backbone.out_channels, num_classes)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Logits at the size of the input.

        Args:
            x: float32 [N, 3, H, W], RGB as (value / 255 - 0.5) / 0.5.

        Returns:
            float32 [N, C, H, W] each: while training the final ones and the first guess, else the final ones alone.
        """
        heads = self.head(self.backbone(x))
        return [resize_like(logits, x) for logits in (heads if self.training else heads[:1])]

    def forward_lean(self, x: paddle.Tensor) -> paddle.Tensor:
        return resized_argmax(self.head(self.backbone(x))[0], x)

    def loss(self, inputs: paddle.Tensor, targets: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """`loss_0` of the final logits, `loss_1` of the first guess, weighted, and `loss`, their sum.

        Args: see `SemanticNetwork.loss`.
        """
        heads = [resize_like(logits, inputs) for logits in self.head(self.backbone(inputs))]
        return head_losses(heads, targets, weights=LOSS_WEIGHTS)


class _Head(nn.Layer):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.spatial_ocr = _Context()
        self.conv3x3_ocr = ConvBNReLU(in_channels, PIXEL_CHANNELS, 3, bias=True)
        self.cls_head = nn.Conv2D(PIXEL_CHANNELS, num_classes, 1)
        self.aux_head = nn.Sequential(ConvBNReLU(in_channels, in_channels, 1, bias=True), nn.Conv2D(in_channels, num_classes, 1))

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Final logits and first guess, both at the size of the map."""
        guess = self.aux_head(x)
        pixels = self.conv3x3_ocr(x)
        seen = self.spatial_ocr(pixels, _class_means(pixels, guess))
        return [self.cls_head(seen), guess]


class _Context(nn.Layer):
    """The pixels beside their context, mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_block = _ClassAttention()
        self.conv1x1 = nn.Sequential(ConvBNReLU(2 * PIXEL_CHANNELS, PIXEL_CHANNELS, 1, bias=True), nn.Dropout2D(DROPOUT))

    def forward(self, pixels: paddle.Tensor, classes: paddle.Tensor) -> paddle.Tensor:
        context = self.attention_block(pixels, classes)
        return self.conv1x1(paddle.concat([context, pixels], axis=1))


class _ClassAttention(nn.Layer):
    """For each pixel the mean of the classes, weighted by likeness: softmax(q k / sqrt(d)) v over the classes."""

    def __init__(self) -> None:
        super().__init__()
        wide, narrow = PIXEL_CHANNELS, KEY_CHANNELS
        self.f_pixel = nn.Sequential(ConvBNReLU(wide, narrow, 1, bias=True), ConvBNReLU(narrow, narrow, 1, bias=True))
        self.f_object = nn.Sequential(ConvBNReLU(wide, narrow, 1, bias=True), ConvBNReLU(narrow, narrow, 1, bias=True))
        self.f_down = ConvBNReLU(wide, narrow, 1, bias=True)
        self.f_up = ConvBNReLU(narrow, wide, 1, bias=True)

    def forward(self, pixels: paddle.Tensor, classes: paddle.Tensor) -> paddle.Tensor:
        query = self.f_pixel(pixels).flatten(2)
        key = self.f_object(classes).flatten(2)
        value = self.f_down(classes).flatten(2)
        likeness = F.softmax(KEY_CHANNELS**-0.5 * paddle.bmm(query.transpose([0, 2, 1]), key), axis=-1)
        context = paddle.bmm(value, likeness.transpose([0, 2, 1]))
        return self.f_up(context.reshape([0, KEY_CHANNELS, *pixels.shape[2:]]))


def _class_means(pixels: paddle.Tensor, guess: paddle.Tensor) -> paddle.Tensor:
    """[N, D, H, W] and logits [N, C, H, W] -> [N, D, C, 1]: the mean pixel of each class, weighted by softmax over space."""
    shares = F.softmax(guess.flatten(2), axis=2)
    return paddle.bmm(pixels.flatten(2), shares.transpose([0, 2, 1])).unsqueeze(-1)
