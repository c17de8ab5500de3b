"""The box head of Mask R-CNN: what class each proposal is, and where exactly its box lies for every class.

Paper: Ren et al., "Faster R-CNN", NeurIPS 2015 (https://arxiv.org/abs/1506.01497). Code: PaddleDetection,
ppdet/modeling/heads/bbox_head.py, Apache-2.0. Changed: nothing in the numbers;
decoding and selection are rcnn_detect.py's, targets and losses rcnn_targets.py's and rcnn_losses.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.backbones.resnet import Res5Head
from rayseg.models.blocks.box_coding import Weights
from rayseg.models.blocks.conv_bn import normal_init
from rayseg.models.blocks.roi_align import RoIAlign


class BoxPredictions(NamedTuple):
    """What a box head says about R proposals of C classes."""

    logits: paddle.Tensor
    """[R, C + 1], background last."""
    deltas: paddle.Tensor
    """[R, 4 * C], or [R, 4] where all classes share one box: offsets from the proposals, times weights."""
    roi_features: paddle.Tensor
    """What both were computed from: [R, F], or [R, F, h, w] before the average."""


class Candidates(NamedTuple):
    """What detection selects from."""

    probabilities: paddle.Tensor
    """[R, C + 1], background last."""
    deltas: paddle.Tensor
    """As in BoxPredictions, from `rois`."""
    rois: paddle.Tensor
    """[R, 4], the proposals as the last stage saw them."""


class TwoFCHead(nn.Layer):
    """Two wide layers over flattened RoI features: [R, C, side, side] -> [R, width]."""

    def __init__(self, channels: int, width: int, *, side: int) -> None:
        super().__init__()
        flat = channels * side * side
        self.channels_out = width
        self.fc6 = nn.Linear(flat, width, weight_attr=_xavier(fan_out=flat))
        self.fc7 = nn.Linear(width, width, weight_attr=_xavier())

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class BBoxHead(nn.Layer):
    """Scores and one box a class for proposals.

    Args:
        head: makes features of RoI features; has `channels_out`.
        roi_extractor: of the resolution `head` takes.
        num_classes: without background.
    """

    weights: Weights = (10.0, 10.0, 5.0, 5.0)
    """Of the offsets."""

    def __init__(self, head: TwoFCHead | Res5Head, roi_extractor: RoIAlign, *, num_classes: int) -> None:
        super().__init__()
        self.head = head
        self.roi_extractor = roi_extractor
        self.bbox_score = nn.Linear(head.channels_out, num_classes + 1, weight_attr=normal_init(std=0.01))
        self.bbox_delta = nn.Linear(head.channels_out, 4 * num_classes, weight_attr=normal_init(std=0.001))

    def forward(self, features: Sequence[paddle.Tensor], rois: paddle.Tensor, counts: paddle.Tensor) -> BoxPredictions:
        """Predict.

        Args:
            features: maps of the network, [N, C, H, W] each.
            rois: float32 [R, 4] in input pixels, image by image; R >= 1.
            counts: int32 [N], RoIs of each image.
        """
        found = self.head(self.roi_extractor(features, rois, counts))
        flat = found if found.ndim == 2 else found.mean([2, 3])
        return BoxPredictions(self.bbox_score(flat), self.bbox_delta(flat), found)

    def candidates(
        self, features: Sequence[paddle.Tensor], rois: paddle.Tensor, counts: paddle.Tensor, im_shape: paddle.Tensor
    ) -> Candidates:
        """What detection selects from; `im_shape` is for heads that look more than once."""
        logits, deltas, _ = self(features, rois, counts)
        return Candidates(F.softmax(logits), deltas, rois)

    @property
    def last_weights(self) -> Weights:
        """Of the offsets that detection decodes."""
        return self.weights


def _xavier(*, fan_out: int | None = None) -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.XavierUniform(fan_out=fan_out))
