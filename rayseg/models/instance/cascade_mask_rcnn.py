"""Cascade Mask R-CNN: Mask R-CNN whose boxes are refined in three stages.

Paper: Cai and Vasconcelos, "Cascade R-CNN", CVPR 2018 (https://arxiv.org/abs/1712.00726). Code: PaddleDetection,
ppdet/modeling/architectures/cascade_rcnn.py, Apache-2.0. Changed: as in mask_rcnn.py; masks are predicted once, in the
final boxes, as the original does.
"""

from __future__ import annotations

from typing import Any

import paddle

from rayseg.models.backbones.resnet import ResNet
from rayseg.models.blocks.fpn import FPN
from rayseg.models.blocks.roi_align import RoIAlign
from rayseg.models.instance.mask_rcnn import MaskRCNN, check_classes, pyramid_mask_head, pyramid_rpn
from rayseg.models.instance.rcnn_cascade_head import CascadeHead
from rayseg.models.instance.rcnn_mask_head import MaskHead
from rayseg.models.instance.rpn import RPNHead


class CascadeMaskRCNN(MaskRCNN):
    """Mask R-CNN with a `CascadeHead`; only the order of the parts and the loss differ."""

    def __init__(self, backbone: ResNet, neck: FPN, rpn_head: RPNHead, bbox_head: CascadeHead, mask_head: MaskHead) -> None:
        super().__init__(backbone, neck, rpn_head, bbox_head, mask_head)
        # Published weights list the neck after the box head.
        del self.neck, self.mask_head
        self.neck, self.mask_head = neck, mask_head

    def loss(self, inputs: dict[str, paddle.Tensor], targets: dict[str, Any], **options: Any) -> dict[str, paddle.Tensor]:
        """See `InstanceNetwork.loss`; `options` are those of `rcnn_loss.cascade_mask_rcnn_loss`."""
        from rayseg.models.instance.rcnn_loss import cascade_mask_rcnn_loss

        return cascade_mask_rcnn_loss(self, inputs, targets, **options)


def build_cascade_mask_rcnn_fpn(backbone: ResNet, num_classes: int = 80, *, aligned: bool = True) -> CascadeMaskRCNN:
    """Cascade Mask R-CNN on a pyramid; see `build_mask_rcnn_fpn`."""
    check_classes(num_classes)
    neck = FPN(backbone.channels_out)
    roi_extractor = RoIAlign(7, neck.strides[:-1], aligned=aligned)
    return CascadeMaskRCNN(
        backbone,
        neck,
        pyramid_rpn(neck, train_keep=2000),
        CascadeHead(neck.channels_out[0], 1024, roi_extractor, num_classes=num_classes),
        pyramid_mask_head(neck, num_classes, aligned=aligned),
    )
