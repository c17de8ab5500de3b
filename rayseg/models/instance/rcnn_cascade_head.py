"""The box head of Cascade R-CNN: three box heads, each starting from the boxes the one before has moved.

Paper: Cai and Vasconcelos, "Cascade R-CNN", CVPR 2018 (https://arxiv.org/abs/1712.00726). Code: PaddleDetection,
ppdet/modeling/heads/cascade_head.py, Apache-2.0.
Changed: nothing in the numbers; boxes of a batch are moved together instead of image by image.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.box_coding import Weights, clip_boxes, decode_boxes
from rayseg.models.blocks.conv_bn import normal_init
from rayseg.models.blocks.ragged import image_of_rows
from rayseg.models.blocks.roi_align import RoIAlign
from rayseg.models.instance.rcnn_heads import BoxPredictions, Candidates, TwoFCHead


class CascadeHead(nn.Layer):
    """Scores, and one box for all classes, in three stages.

    Args:
        channels: of the feature maps.
        width: of the hidden layers.
        roi_extractor: shared by the stages.
        num_classes: without background.
    """

    weights: tuple[Weights, ...] = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
    """Of the offsets of each stage: the later, the smaller the moves."""
    stages = 3

    def __init__(self, channels: int, width: int, roi_extractor: RoIAlign, *, num_classes: int) -> None:
        super().__init__()
        side = roi_extractor.resolution
        self.head = _Stages([TwoFCHead(channels, width, side=side) for _ in range(self.stages)])
        self.roi_extractor = roi_extractor
        for stage in range(self.stages):
            score = nn.Linear(width, num_classes + 1, weight_attr=normal_init(std=0.01))
            self.add_sublayer(f"bbox_score_stage{stage}", score)
            self.add_sublayer(f"bbox_delta_stage{stage}", nn.Linear(width, 4, weight_attr=normal_init(std=0.001)))

    def stage(self, stage: int, features: Sequence[paddle.Tensor], rois: paddle.Tensor, counts: paddle.Tensor) -> BoxPredictions:
        """What one stage says about boxes it is given, offsets [R, 4]; see `BBoxHead.forward`."""
        found = self.head(self.roi_extractor(features, rois, counts), stage)
        score, delta = (getattr(self, f"bbox_{kind}_stage{stage}") for kind in ("score", "delta"))
        return BoxPredictions(score(found), delta(found), found)

    def refine(
        self, stage: int, deltas: paddle.Tensor, rois: paddle.Tensor, counts: paddle.Tensor, im_shape: paddle.Tensor
    ) -> paddle.Tensor:
        """The boxes the next stage starts from.

        Args:
            stage: whose offsets they are.
            deltas: [R, 4].
            rois: [R, 4], what the stage started from, image by image.
            counts: int32 [N], RoIs of each image.
            im_shape: [N, 2], height and width of each image.

        Returns:
            float32 [R, 4], clipped to the image, without gradient; some may have lost their area.
        """
        moved = decode_boxes(deltas, rois, self.weights[stage])[:, 0]
        return clip_boxes(moved, paddle.gather(im_shape, image_of_rows(rois, counts))).detach()

    def candidates(
        self, features: Sequence[paddle.Tensor], rois: paddle.Tensor, counts: paddle.Tensor, im_shape: paddle.Tensor
    ) -> Candidates:
        """What detection selects from: probabilities averaged over the stages, offsets of the last.

        Args:
            features, rois, counts: as in `stage`.
            im_shape: as in `refine`.
        """
        logits, deltas, _ = self.stage(0, features, rois, counts)
        probabilities = [F.softmax(logits)]
        for stage in range(1, self.stages):
            rois = self.refine(stage - 1, deltas, rois, counts, im_shape)
            logits, deltas, _ = self.stage(stage, features, rois, counts)
            probabilities.append(F.softmax(logits))
        return Candidates(paddle.add_n(probabilities) / self.stages, deltas, rois)

    @property
    def last_weights(self) -> Weights:
        """Of the offsets that detection decodes."""
        return self.weights[-1]


class _Stages(nn.LayerList):
    """Heads of which one is asked at a time."""

    def forward(self, x: paddle.Tensor, stage: int) -> paddle.Tensor:
        return self[stage](x)
