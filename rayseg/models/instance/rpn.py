"""The region proposal network of the R-CNN family: where there might be an object, of whatever class.

Paper: Ren et al., "Faster R-CNN", NeurIPS 2015 (https://arxiv.org/abs/1506.01497). Code: PaddleDetection,
ppdet/modeling/proposal_generator/rpn_head.py, Apache-2.0.
Changed: proposals of a whole batch are chosen in one step without loops or branches, each image for itself; the
original loops over images, which fixes the batch of an exported program. What anchors should predict in training is
left to rcnn_targets.py, the losses to rcnn_losses.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.vision.ops import distribute_fpn_proposals, generate_proposals

from rayseg.models.blocks.anchors import AnchorGenerator
from rayseg.models.blocks.conv_bn import normal_init
from rayseg.models.blocks.ragged import best_rows, image_of_rows

IOU_THRESHOLD = 0.7
"""A proposal that overlaps a better one of its level more than this is dropped."""


@dataclass(frozen=True)
class ProposalLimits:
    """How many proposals survive each step."""

    before_nms: int
    """Best anchors of each level that enter non-maximum suppression."""
    after_nms: int
    """Best ones of each level that leave it."""
    keep: int
    """Best ones of an image over all levels."""


class RpnPredictions(NamedTuple):
    """What the convolutions say, level by level."""

    scores: list[paddle.Tensor]
    """Logits [N, A, H, W]."""
    deltas: list[paddle.Tensor]
    """Offsets from the anchors [N, 4 * A, H, W], the four of an anchor together, weights 1."""
    anchors: list[paddle.Tensor]
    """[H * W * A, 4] in input pixels."""


class RPNHead(nn.Layer):
    """One convolution over every level, then a score and a box for every anchor.

    Args:
        channels: of the feature maps.
        anchors: of every level.
        train_limits: of proposals that heads are trained on.
        test_limits: of proposals otherwise.
    """

    def __init__(
        self, channels: int, anchors: AnchorGenerator, *, train_limits: ProposalLimits, test_limits: ProposalLimits
    ) -> None:
        super().__init__()
        self.anchor_generator = anchors
        self.train_limits = train_limits
        self.test_limits = test_limits
        self.rpn_feat = _SharedConv(channels)
        self.rpn_rois_score = nn.Conv2D(channels, anchors.per_cell, 1, weight_attr=normal_init(std=0.01))
        self.rpn_rois_delta = nn.Conv2D(channels, 4 * anchors.per_cell, 1, weight_attr=normal_init(std=0.01))

    def forward(self, features: Sequence[paddle.Tensor], im_shape: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The proposals heads are run on; see `proposals`."""
        return self.proposals(self.predict(features), im_shape, self.test_limits)

    def predict(self, features: Sequence[paddle.Tensor]) -> RpnPredictions:
        """Feature maps [N, C, H, W] of every level -> scores, offsets and anchors of every level."""
        shared = self.rpn_feat(features)
        scores, deltas = [], []
        for feature in shared:
            scores.append(self.rpn_rois_score(feature))
            deltas.append(self.rpn_rois_delta(feature))
        return RpnPredictions(scores, deltas, self.anchor_generator(shared))

    def proposals(
        self, predictions: RpnPredictions, im_shape: paddle.Tensor, limits: ProposalLimits
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Choose boxes; no gradient flows through the choice.

        Args:
            im_shape: float32 [N, 2], height and width of each image in the input, without padding; boxes are clipped
                to it.

        Returns:
            float32 [R, 4] in input pixels, image by image; int32 [N]: boxes of each image, at least 1 (a box without
            area when nothing is left).
        """
        found = [
            generate_proposals(
                scores.detach(),
                predictions.deltas[i].detach(),
                im_shape,
                predictions.anchors[i],
                paddle.ones([1, 4]).expand([predictions.anchors[i].shape[0], 4]),
                pre_nms_top_n=limits.before_nms,
                post_nms_top_n=limits.after_nms,
                nms_thresh=IOU_THRESHOLD,
                min_size=0.0,
                return_rois_num=True,
            )
            for i, scores in enumerate(predictions.scores)
        ]
        level_counts = [_as_integers(counts, boxes) for boxes, _, counts in found]
        if len(found) == 1:
            return found[0][0], level_counts[0]
        boxes = paddle.concat([level[0] for level in found])
        scores = paddle.concat([level[1] for level in found]).flatten()
        image = paddle.concat([image_of_rows(level[0], level_counts[i]) for i, level in enumerate(found)])
        best, counts = best_rows(scores, image, paddle.add_n(level_counts), keep=limits.keep)
        return paddle.gather(boxes, best), counts


def _as_integers(counts: paddle.Tensor, boxes: paddle.Tensor) -> paddle.Tensor:
    """The counts of generate_proposals as numbers one can count with.

    Inside an exported program Paddle 3.3 takes these int32 for float32, and every operator that looks at the type fails.
    Dealing the boxes out to two levels, which only reads the counts, counts them again with the right type.
    """
    _, _, level_counts = distribute_fpn_proposals(boxes, 2, 3, 3, 1, rois_num=counts)
    return paddle.add_n(level_counts)


class _SharedConv(nn.Layer):
    """The convolution all levels share, with its activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2D(channels, channels, 3, padding=1, weight_attr=normal_init(std=0.01))

    def forward(self, features: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
        return [F.relu(self.rpn_conv(feature)) for feature in features]
