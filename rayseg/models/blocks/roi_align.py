"""RoIAlign: feature maps inside boxes, resampled to one small square each; from one map or from a pyramid.

Papers: He et al., "Mask R-CNN", ICCV 2017 (https://arxiv.org/abs/1703.06870); which level a box reads is equation 1 of
Lin et al., "Feature Pyramid Networks", CVPR 2017. Code: PaddleDetection, ppdet/modeling/heads/roi_extractor.py,
Apache-2.0.
Changed: `aligned` is obeyed. The original's settings ask for it and its published weights were trained with it, but
since August 2024 its code switches it off for the sake of one accelerator. A box without area gets the
features of the point where it lies, not NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.vision.ops import distribute_fpn_proposals, roi_align

FINEST_LEVEL = 2
"""The level whose stride is 4."""
CANONICAL_LEVEL, CANONICAL_SIDE = 4, 224
"""A box of this side in input pixels reads this level."""
SMALLEST_SIDE_PX = 1 / 64
"""The aligned operator divides by the number of samples, which is 0 for a box without area, and gives NaN. Where nothing
is proposed, and where a box has left the image, there are such boxes."""


class RoIAlign(nn.Layer):
    """Features of boxes.

    Args:
        resolution: side of the result.
        strides: of the maps that are read, finest first; one, or those of a pyramid from stride 4 on.
        aligned: cells are sampled half a pixel to the left and up, where they are; False repeats the first version of
            the operator.
    """

    def __init__(self, resolution: int, strides: Sequence[int], *, aligned: bool) -> None:
        super().__init__()
        self.resolution = resolution
        self.strides = tuple(strides)
        self.aligned = aligned

    def forward(self, features: Sequence[paddle.Tensor], boxes: paddle.Tensor, counts: paddle.Tensor) -> paddle.Tensor:
        """Resample.

        Args:
            features: [N, C, H, W] of each level; maps beyond `strides` are left alone.
            boxes: float32 [M, 4] in input pixels, image by image; M >= 1.
            counts: int32 [N], boxes of each image.

        Returns:
            float32 [M, C, resolution, resolution], row i of box i.
        """
        boxes = paddle.concat([boxes[:, :2], paddle.maximum(boxes[:, 2:], boxes[:, :2] + SMALLEST_SIDE_PX)], axis=1)
        if len(self.strides) == 1:
            return self._from_level(0, features[0], boxes, counts)
        coarsest = FINEST_LEVEL + len(self.strides) - 1
        parts, back, part_counts = distribute_fpn_proposals(
            boxes, FINEST_LEVEL, coarsest, CANONICAL_LEVEL, CANONICAL_SIDE, rois_num=counts
        )
        found = [self._from_level(i, features[i], parts[i], part_counts[i]) for i in range(len(self.strides))]
        return paddle.gather(paddle.concat(found), back.flatten())

    def _from_level(self, level: int, feature: paddle.Tensor, boxes: paddle.Tensor, counts: paddle.Tensor) -> paddle.Tensor:
        return roi_align(feature, boxes, counts, self.resolution, spatial_scale=1 / self.strides[level], aligned=self.aligned)
