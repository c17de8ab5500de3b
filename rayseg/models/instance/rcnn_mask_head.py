"""The mask head of Mask R-CNN: a small mask of every class for every box.

Paper: He et al., "Mask R-CNN", ICCV 2017 (https://arxiv.org/abs/1703.06870). Code: PaddleDetection,
ppdet/modeling/heads/mask_head.py, Apache-2.0. Changed: nothing in the numbers; enlarging the masks to an image is
rcnn_detect.py's inside a program and predict/finish/pasted_masks.py's outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.ragged import row_numbers
from rayseg.models.blocks.roi_align import RoIAlign


class MaskHead(nn.Layer):
    """Masks of twice the resolution of the features it is given.

    Args:
        channels_in: of the features.
        channels: of the convolutions.
        convs: 3 x 3 convolutions before enlarging.
        roi_extractor: of RoI features.
        num_classes: without background.
        share_box_features: RoI features pass through the head of the box head first, so in training its own can be
            used again. That head halves the resolution, this one doubles it.

    Attributes:
        resolution: side of the masks.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        *,
        convs: int,
        roi_extractor: RoIAlign,
        num_classes: int,
        share_box_features: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.share_box_features = share_box_features
        self.resolution = roi_extractor.resolution * (1 if share_box_features else 2)
        self.roi_extractor = roi_extractor
        self.head = _MaskFeatures(channels_in, channels, convs=convs)
        self.mask_fcn_logits = nn.Conv2D(channels, num_classes, 1, weight_attr=_kaiming(num_classes))

    def forward(self, roi_features: paddle.Tensor, class_ids: paddle.Tensor) -> paddle.Tensor:
        """Masks of one class each.

        Args:
            roi_features: [R, C, s, s]; R >= 1.
            class_ids: int64 [R].

        Returns:
            float32 [R, 2s, 2s], probabilities.
        """
        logits = self.logits(roi_features)
        chosen = row_numbers(class_ids) * self.num_classes + class_ids
        return F.sigmoid(paddle.gather(logits.flatten(0, 1), chosen))

    def features(self, features: Sequence[paddle.Tensor], boxes: paddle.Tensor, counts: paddle.Tensor) -> paddle.Tensor:
        """RoI features of boxes; see `RoIAlign.forward`."""
        return self.roi_extractor(features, boxes, counts)

    def logits(self, roi_features: paddle.Tensor) -> paddle.Tensor:
        """[R, C, s, s] -> [R, classes, 2s, 2s]."""
        return self.mask_fcn_logits(self.head(roi_features))


class _MaskFeatures(nn.Layer):
    """Convolutions and a transposed one: [R, C_in, s, s] -> [R, C, 2s, 2s]."""

    def __init__(self, channels_in: int, channels: int, *, convs: int) -> None:
        super().__init__()
        layers: list[tuple[str, nn.Layer]] = []
        for i in range(1, convs + 1):
            conv = nn.Conv2D(channels_in, channels, 3, padding=1, weight_attr=_kaiming(9 * channels))
            layers += [(f"mask_inter_feat_{i}", conv), (f"mask_inter_feat_{i}act", nn.ReLU())]
            channels_in = channels
        enlarge = nn.Conv2DTranspose(channels_in, channels, 2, stride=2, weight_attr=_kaiming(4 * channels))
        layers += [("conv5_mask", enlarge), ("conv5_maskact", nn.ReLU())]
        self.upsample = nn.Sequential(*layers)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.upsample(x)


def _kaiming(fan_in: int) -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.KaimingNormal(fan_in=fan_in))
