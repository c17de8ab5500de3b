"""The nine published networks of the R-CNN family: which backbone, which heads.

Their weights were trained with aligned RoIAlign (see blocks/roi_align.py).
`num_classes` is without background.
"""

from __future__ import annotations

from rayseg.models.backbones.resnet import ResNet
from rayseg.models.instance.cascade_mask_rcnn import CascadeMaskRCNN, build_cascade_mask_rcnn_fpn
from rayseg.models.instance.mask_rcnn import MaskRCNN, build_mask_rcnn_c4, build_mask_rcnn_fpn

SSLD_LR_MULTS = (0.05, 0.05, 0.1, 0.15)
"""Distilled backbones learn slower, the earlier the stage."""


def maskrcnn_resnet50(num_classes: int = 80, *, aligned: bool = True) -> MaskRCNN:
    """MaskRCNN-ResNet50, without a pyramid."""
    return build_mask_rcnn_c4(num_classes, aligned=aligned)


def maskrcnn_resnet50_fpn(num_classes: int = 80, *, aligned: bool = True) -> MaskRCNN:
    """MaskRCNN-ResNet50-FPN."""
    return build_mask_rcnn_fpn(ResNet(50), num_classes, aligned=aligned)


def maskrcnn_resnet50_vd_fpn(num_classes: int = 80, *, aligned: bool = True) -> MaskRCNN:
    """MaskRCNN-ResNet50-vd-FPN."""
    return build_mask_rcnn_fpn(ResNet(50, variant="d"), num_classes, aligned=aligned)


def maskrcnn_resnet50_vd_ssldv2_fpn(num_classes: int = 80, *, aligned: bool = True) -> MaskRCNN:
    """MaskRCNN-ResNet50-vd-SSLDv2-FPN: its backbone was distilled."""
    return build_mask_rcnn_fpn(ResNet(50, variant="d", lr_mults=SSLD_LR_MULTS), num_classes, aligned=aligned)


def maskrcnn_resnet101_fpn(num_classes: int = 80, *, aligned: bool = True) -> MaskRCNN:
    """MaskRCNN-ResNet101-FPN."""
    return build_mask_rcnn_fpn(ResNet(101), num_classes, aligned=aligned)


def maskrcnn_resnet101_vd_fpn(num_classes: int = 80, *, aligned: bool = True) -> MaskRCNN:
    """MaskRCNN-ResNet101-vd-FPN."""
    return build_mask_rcnn_fpn(ResNet(101, variant="d"), num_classes, aligned=aligned)


def maskrcnn_resnext101_vd_fpn(num_classes: int = 80, *, aligned: bool = True) -> MaskRCNN:
    """MaskRCNN-ResNeXt101-vd-FPN, 64 groups of 4 channels."""
    return build_mask_rcnn_fpn(ResNet(101, variant="d", groups=64, base_width=4), num_classes, aligned=aligned)


def cascade_maskrcnn_resnet50_fpn(num_classes: int = 80, *, aligned: bool = True) -> CascadeMaskRCNN:
    """Cascade-MaskRCNN-ResNet50-FPN."""
    return build_cascade_mask_rcnn_fpn(ResNet(50), num_classes, aligned=aligned)


def cascade_maskrcnn_resnet50_vd_ssldv2_fpn(num_classes: int = 80, *, aligned: bool = True) -> CascadeMaskRCNN:
    """Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN: its backbone was distilled."""
    backbone = ResNet(50, variant="d", lr_mults=SSLD_LR_MULTS)
    return build_cascade_mask_rcnn_fpn(backbone, num_classes, aligned=aligned)
