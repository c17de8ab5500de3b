"""PP-LiteSeg: a fast semantic network of encoder, pyramid pooling and attention fusion; network, loss and named builders.

Paper: J. Peng et al., "PP-LiteSeg: A Superior Real-Time Semantic Segmentation Model", 2022, https://arxiv.org/abs/2204.02681.
Original code: https://github.com/PaddlePaddle/PaddleSeg (Apache-2.0); parameter names are the same, so its weights load.
Changed: spatial attention is the only fusion; `loss` always runs every head, whichever mode the network is in.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.backbones.stdc import STDC, stdc1, stdc2
from rayseg.models.network import SemanticNetwork
from rayseg.models.preprocess import SEMANTIC
from rayseg.models.semantic.label_map import resized_argmax
from rayseg.models.semantic.layers import ConvBN, ConvBNReLU, resize_like
from rayseg.models.semantic.losses import head_losses


def build_pp_liteseg_t(num_classes: int = 19) -> PPLiteSeg:
    """PP-LiteSeg-T: STDC1 and the narrow decoder, 8.2 M parameters with 19 classes."""
    return PPLiteSeg(stdc1(), num_classes, fusion_channels=(32, 64, 128), head_channels=(32, 64, 64))


def build_pp_liteseg_b(num_classes: int = 19) -> PPLiteSeg:
    """PP-LiteSeg-B: STDC2 and the wide decoder, 12.4 M parameters with 19 classes."""
    return PPLiteSeg(stdc2(), num_classes, fusion_channels=(64, 96, 128), head_channels=(64, 64, 64))


class PPLiteSeg(SemanticNetwork):
    """Class scores of every pixel from the backbone's maps at strides 8, 16 and 32.

    The exported forms work for any batch and any height and width; the label map has the size of the input.

    Args:
        backbone: gives five maps with `out_channels`, of which the last three are used.
        num_classes: C, background included.
        fusion_channels: width after fusing at strides 8, 16 and 32.
        head_channels: width inside the three heads; the second and third serve training only.
        context_channels: width of the pooled context.
        bins: sides of the pooling grids of the context.
    """

    family = "label_map"
    preprocess = SEMANTIC

    def __init__(
        self,
        backbone: STDC,
        num_classes: int,
        *,
        fusion_channels: tuple[int, int, int],
        head_channels: tuple[int, int, int],
        context_channels: int = 128,
        bins: tuple[int, ...] = (1, 2, 4),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.ppseg_head = _Decoder(backbone.out_channels[2:], fusion_channels, context_channels, bins)
        self.seg_heads = nn.LayerList(
            [_Head(width, inner, num_classes) for width, inner in zip(fusion_channels, head_channels, strict=True)]
        )

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Logits at the size of the input.

        Args:
            x: float32 [N, 3, H, W], RGB as (value / 255 - 0.5) / 0.5.

        Returns:
            float32 [N, C, H, W] each: of all three heads (finest first) while training, else of the finest alone.
        """
        return [resize_like(scores, x) for scores in self._scores(x, num_heads=len(self.seg_heads) if self.training else 1)]

    def forward_lean(self, x: paddle.Tensor) -> paddle.Tensor:
        return resized_argmax(self._scores(x, num_heads=1)[0], x)

    def loss(self, inputs: paddle.Tensor, targets: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Cross-entropy of every head, equally weighted.

        Args:
            inputs: as for `forward`.
            targets: label map, integer [N, H, W]; 255 marks pixels that do not count.

        Returns:
            `loss_0` (stride 8, the head that predicts), `loss_1`, `loss_2`, and `loss`, their sum.
        """
        heads = [resize_like(scores, inputs) for scores in self._scores(inputs, num_heads=len(self.seg_heads))]
        return head_losses(heads, targets, weights=(1.0,) * len(heads))

    def _scores(self, x: paddle.Tensor, *, num_heads: int) -> list[paddle.Tensor]:
        """Of the first heads, at strides 8, 16 and 32."""
        maps = self.ppseg_head(self.backbone(x)[2:])
        heads = list(self.seg_heads)[:num_heads]
        return [head(maps[k]) for k, head in enumerate(heads)]


class _Decoder(nn.Layer):
    """Context from the coarsest map, fused step by step with the finer ones."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        fusion_channels: tuple[int, ...],
        context_channels: int,
        bins: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.cm = _PyramidPooling(in_channels[-1], context_channels, bins)
        coarser = (*fusion_channels[1:], context_channels)
        self.arm_list = nn.LayerList(
            [_AttentionFusion(*widths) for widths in zip(in_channels, coarser, fusion_channels, strict=True)]
        )

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        fused, x = [], self.cm(maps[-1])
        for k in reversed(range(len(maps))):
            x = self.arm_list[k](maps[k], x)
            fused.append(x)
        return fused[::-1]


class _PyramidPooling(nn.Layer):
    """The sum of the map pooled to several grids, each seen through its own 1 x 1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.LayerList(
            [nn.Sequential(nn.AdaptiveAvgPool2D(side), ConvBNReLU(in_channels, out_channels, 1, bias=True)) for side in bins]
        )
        self.conv_out = ConvBNReLU(out_channels, out_channels, 3, bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        pooled = [resize_like(stage(x), x) for stage in self.stages]
        return self.conv_out(sum(pooled[1:], start=pooled[0]))


class _AttentionFusion(nn.Layer):
    """A fine and a coarse map, mixed pixel by pixel in proportions that both decide (the paper's UAFM, spatial attention)."""

    def __init__(self, fine_channels: int, coarse_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_x = ConvBNReLU(fine_channels, coarse_channels, 3)
        self.conv_out = ConvBNReLU(coarse_channels, out_channels, 3)
        self.conv_xy_atten = nn.Sequential(ConvBNReLU(4, 2, 3), ConvBN(2, 1, 3))
        # Always 1, but a tensor of the published weights.
        self._scale = self.create_parameter([1], attr=paddle.ParamAttr(initializer=nn.initializer.Constant(1.0), trainable=False))

    def forward(self, fine: paddle.Tensor, coarse: paddle.Tensor) -> paddle.Tensor:
        fine = self.conv_x(fine)
        coarse = resize_like(coarse, fine)
        seen = [reduce(x, axis=1, keepdim=True) for x in (fine, coarse) for reduce in (paddle.mean, paddle.max)]
        share = F.sigmoid(self.conv_xy_atten(paddle.concat(seen, axis=1)))
        return self.conv_out(fine * share + coarse * (self._scale - share))


class _Head(nn.Layer):
    def __init__(self, in_channels: int, inner_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, inner_channels, 3)
        self.conv_out = nn.Conv2D(inner_channels, num_classes, 1, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv_out(self.conv(x))
