"""MaskFormer: a hundred queries that each give one class and one mask, added up to a class for every pixel.

Paper: B. Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021,
https://arxiv.org/abs/2107.06278.
Original code: https://github.com/facebookresearch/MaskFormer (MIT). Parameter names are those of PaddleSeg's version
(https://github.com/PaddlePaddle/PaddleSeg, Apache-2.0), so its weights load.
Changed: every image of a batch has its own label map (the original gives that of the last image only); programs take
any batch, the lean one also any size; the lean one upsamples masks strip by strip, so that the full-size masks of all
queries never exist at once. Group norms start at 1, and the six decoder layers differently, where the original, without
weights to start from, has near-zero norms and six copies of the same attention.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.geometry import Size
from rayseg.models.backbones.swin import SwinTransformer, swin_small, swin_tiny
from rayseg.models.network import LABELS_IN_A_BYTE, Flavour, SemanticNetwork
from rayseg.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from rayseg.models.semantic.maskformer_decoder import MaskFormerHead, QueryMasks
from rayseg.models.semantic.maskformer_loss import maskformer_loss

STRIPS = 16
"""Into which the lean program cuts the full-size masks."""


def build_maskformer_tiny(num_classes: int = 150) -> MaskFormer:
    """MaskFormer_tiny: Swin-T, 41.8 M parameters with 150 classes."""
    return MaskFormer(swin_tiny(), num_classes)


def build_maskformer_small(num_classes: int = 150) -> MaskFormer:
    """MaskFormer_small: Swin-S, 63.1 M parameters with 150 classes."""
    return MaskFormer(swin_small(), num_classes)


class MaskFormer(SemanticNetwork):
    """Class scores of every pixel: the sum over queries of class probability times mask probability.

    Args:
        backbone: gives maps at strides 4, 8, 16 and 32.
        num_classes: C, background included.
    """

    family = "label_map"
    preprocess = Preprocess(resize=Size(height=512, width=512), mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def __init__(self, backbone: SwinTransformer, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.seghead = MaskFormerHead(backbone.out_channels, num_classes)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Class scores at the size of the input.

        Args:
            x: float32 [N, 3, H, W], RGB normalised with ImageNet's mean and deviation.

        Returns:
            One float32 [N, C, H, W], each score at least 0: not logits, but ordered as such.
        """
        said = self._say(x)
        masks = F.interpolate(said.masks, size=x.shape[2:], mode="bilinear", align_corners=False)
        return [_class_scores(_class_weights(said), masks)]

    def forward_lean(self, x: paddle.Tensor) -> paddle.Tensor:
        """Label map [N, H, W] in the smallest type that holds it; the argmax of `forward`, in little memory."""
        said = self._say(x)
        sources = _row_sources(said.masks, x)
        strips = [_label_strip(said, x, *(values[index] for values in sources)) for index in range(STRIPS)]
        labels = paddle.concat(strips, axis=1)[:, : x.shape[2]]
        return labels.astype("uint8") if self.num_classes <= LABELS_IN_A_BYTE else labels

    @staticmethod
    def to_probabilities(scores: paddle.Tensor) -> paddle.Tensor:
        """Each class's share of a pixel's scores, which are at least 0 and no logits."""
        return scores / (scores.sum(axis=1, keepdim=True) + 1e-30)  # 0 for all, not NaN, where no query wants the pixel

    def loss(self, inputs: paddle.Tensor, targets: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Class, focal and dice terms after every layer of the decoder; see `maskformer_loss`.

        Args:
            inputs: as for `forward`.
            targets: label map, integer [N, H, W]; 255 marks pixels that do not count.

        Raises:
            DatasetError: a label is neither a class nor 255.
        """
        return maskformer_loss(self.seghead(self.backbone(inputs), all_layers=True), targets)

    def program(self, flavour: Flavour, size: Size | None = None) -> tuple[nn.Layer, list[Any]]:
        """See the base class; a paddlex program takes 512 x 512, as the original, unless told otherwise."""
        if flavour == "paddlex" and size is None:
            size = self.preprocess.resize
        return super().program(flavour, size)

    def _say(self, x: paddle.Tensor) -> QueryMasks:
        return self.seghead(self.backbone(x), all_layers=False)[0]


def _class_weights(said: QueryMasks) -> paddle.Tensor:
    """How much each query's mask counts for each class; float32 [N, C, Q]."""
    return F.softmax(said.classes, axis=-1)[:, :, :-1].transpose([0, 2, 1])


def _class_scores(weights: paddle.Tensor, masks: paddle.Tensor) -> paddle.Tensor:
    """[N, C, Q] and logits [N, Q, h, w] -> [N, C, h, w]."""
    scores = paddle.matmul(weights, F.sigmoid(masks).flatten(2))
    return scores.reshape([-1, weights.shape[1], masks.shape[2], masks.shape[3]])


def _row_sources(masks: paddle.Tensor, x: paddle.Tensor) -> list[paddle.Tensor]:
    """Where the rows of masks stretched to the height of `x` come from, strip by strip; rows below the last repeat it.

    Bilinear with pixel centres at +0.5 as F.interpolate does it, in its order and in float32: other rounding would move
    labels where two classes are nearly equal.

    Returns:
        The row above and the row below (int64) and the share of the one below (float32), each [STRIPS, ceil(H / STRIPS)].
    """
    low, high = paddle.shape(masks)[2], paddle.shape(x)[2]
    count = (x.shape[2] + STRIPS - 1) // STRIPS * STRIPS
    row = paddle.minimum(paddle.arange(count, dtype="float32"), (high - 1).astype("float32"))
    ratio = low.astype("float32") / high.astype("float32")
    # Tensors and not numbers, `maximum` and not `clip`: see the note in swin.py.
    half, zero = paddle.full([1], 0.5), paddle.zeros([1])
    place = paddle.maximum(ratio * (row + half) - half, zero)
    above = place.astype("int64")
    below = paddle.minimum(above + 1, (low - 1).astype("int64"))
    return [values.reshape([STRIPS, -1]) for values in (above, below, place - above.astype("float32"))]


def _label_strip(
    said: QueryMasks, x: paddle.Tensor, above: paddle.Tensor, below: paddle.Tensor, share: paddle.Tensor
) -> paddle.Tensor:
    """Some rows of the label map; int32 [N, rows, W]."""
    share = share.reshape([1, 1, -1, 1])
    masks = paddle.index_select(said.masks, above, axis=2) * (1 - share)
    masks = masks + paddle.index_select(said.masks, below, axis=2) * share
    # The height is read off the strip: exported, a number that had been multiplied elsewhere arrived here multiplied.
    masks = F.interpolate(masks, size=[masks.shape[2], x.shape[3]], mode="bilinear", align_corners=False)
    return paddle.argmax(_class_scores(_class_weights(said), masks), axis=1, dtype="int32")
