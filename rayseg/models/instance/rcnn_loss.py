"""The training loss of the R-CNN networks: proposals, boxes and masks, each learned from what the one before found.

Papers: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.2; He et al., "Mask R-CNN", ICCV 2017, section 3; Cai and
Vasconcelos, "Cascade R-CNN", CVPR 2018, section 4. Code: PaddleDetection, ppdet/modeling/architectures/mask_rcnn.py and
cascade_rcnn.py, Apache-2.0. Changed: see rcnn_terms.py, which has the terms.
Which anchors and regions count is decided in rcnn_targets.py. Chance has a part in nothing but the sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import paddle

from rayseg.models.blocks.box_coding import has_area
from rayseg.models.instance.rcnn_cascade_head import CascadeHead
from rayseg.models.instance.rcnn_heads import BBoxHead
from rayseg.models.instance.rcnn_mask_head import MaskHead
from rayseg.models.instance.rcnn_targets import (
    Objects,
    RegionRules,
    Regions,
    Sampler,
    label_regions,
    objects_of,
    sample_regions,
    take_random,
)
from rayseg.models.instance.rcnn_terms import MaskTruth, Terms, box_terms, joined, mask_term, proposal_terms
from rayseg.models.instance.rpn import RPNHead

Inputs = dict[str, paddle.Tensor]
Targets = dict[str, paddle.Tensor]

STAGE_OVERLAPS = (0.5, 0.6, 0.7)
"""What makes a region stand for an object in each stage of a cascade."""


class RcnnNetwork(Protocol):
    """What the losses need of a network, besides its box head."""

    num_classes: int
    rpn_head: RPNHead
    mask_head: MaskHead

    def features(self, image: paddle.Tensor) -> list[paddle.Tensor]:
        """Maps [N, C, H, W] that the heads read."""
        ...


class OneStageNetwork(RcnnNetwork, Protocol):
    """One that looks at each region once."""

    bbox_head: BBoxHead


class CascadeNetwork(RcnnNetwork, Protocol):
    """One whose box stages refine one another's boxes."""

    bbox_head: CascadeHead


class _Start(NamedTuple):
    """What every box stage begins with: feature maps, objects and sampled regions of each image, terms so far."""

    features: list[paddle.Tensor]
    objects: list[Objects]
    regions: list[Regions]
    terms: Terms


def mask_rcnn_loss(
    network: OneStageNetwork,
    inputs: Inputs,
    targets: Targets,
    *,
    sampler: Sampler = take_random,
    proposals: Sequence[paddle.Tensor] | None = None,
    rules: RegionRules | None = None,
) -> Terms:
    """The loss of a network with one box stage.

    Args:
        network: in training mode.
        inputs: see `rayseg.models.network.InstanceNetwork.forward`.
        targets: see `rayseg.models.network.InstanceNetwork.loss`. Where there is also `gt_poly`, for each image a list of
            objects in the order of `gt_bbox`, each a list of polygons in pixels of `image`, masks are learned from it
            instead of `gt_segm`.
        sampler: picks anchors and regions. The default draws from paddle's generator, so `paddle.seed` repeats a run.
        proposals: float32 [K, 4] for each image, K >= 1, instead of those the network makes.
        rules: which regions count.

    Returns:
        Scalars `loss_rpn_cls`, `loss_rpn_reg`, `loss_bbox_cls`, `loss_bbox_reg`, `loss_mask`, and `loss`, their sum.
    """
    start = _start(network, inputs, targets, sampler=sampler, proposals=proposals, rules=rules or RegionRules())
    features, objects, regions, terms = start
    head = network.bbox_head
    found = head(features, *joined(regions))
    terms |= box_terms(found, regions, objects, background=network.num_classes, weights=head.weights)
    shared = found.roi_features if network.mask_head.share_box_features else None
    terms["loss_mask"] = mask_term(network.mask_head, features, regions, objects, MaskTruth.of(inputs, targets), shared=shared)
    return {"loss": paddle.add_n(list(terms.values())), **terms}


def cascade_mask_rcnn_loss(
    network: CascadeNetwork,
    inputs: Inputs,
    targets: Targets,
    *,
    sampler: Sampler = take_random,
    proposals: Sequence[paddle.Tensor] | None = None,
    rules: RegionRules | None = None,
) -> Terms:
    """The loss of a cascade; masks are learned in the regions of its first stage.

    Args:
        network: in training mode.
        inputs: this and all others as for `mask_rcnn_loss`.
        rules: for the first stage; later ones keep every region, and ask for more overlap.

    Returns:
        Scalars `loss_rpn_cls`, `loss_rpn_reg`, `loss_bbox_cls_stage0`, `loss_bbox_reg_stage0` and so on, divided by the
        number of stages, `loss_mask`, and `loss`, their sum.
    """
    start = _start(network, inputs, targets, sampler=sampler, proposals=proposals, rules=rules or RegionRules())
    features, objects, regions, terms = start
    head, stages = network.bbox_head, len(STAGE_OVERLAPS)
    for stage in range(stages):
        rois, counts = joined(regions)
        found = head.stage(stage, features, rois, counts)
        weights = head.weights[stage]
        stage_terms = box_terms(found, regions, objects, background=network.num_classes, weights=weights)
        terms |= {f"{name}_stage{stage}": value / stages for name, value in stage_terms.items()}
        if stage + 1 < stages:
            moved = head.refine(stage, found.deltas, rois, counts, inputs["im_shape"])
            overlap = STAGE_OVERLAPS[stage + 1]
            regions = _relabelled(moved, counts, objects, num_classes=network.num_classes, overlap=overlap)
    terms["loss_mask"] = mask_term(
        network.mask_head, features, start.regions, objects, MaskTruth.of(inputs, targets), shared=None
    )
    return {"loss": paddle.add_n(list(terms.values())), **terms}


def _start(
    network: RcnnNetwork,
    inputs: Inputs,
    targets: Targets,
    *,
    sampler: Sampler,
    proposals: Sequence[paddle.Tensor] | None,
    rules: RegionRules,
) -> _Start:
    features = network.features(inputs["image"])
    objects = objects_of(targets)
    predicted = network.rpn_head.predict(features)
    terms = proposal_terms(predicted, objects, sampler=sampler)
    if proposals is None:
        rois, counts = network.rpn_head.proposals(predicted, inputs["im_shape"], network.rpn_head.train_limits)
        proposals = rois.split(counts.tolist())
    regions = [
        sample_regions(rois, known, num_classes=network.num_classes, rules=rules, sampler=sampler)
        for rois, known in zip(proposals, objects, strict=True)
    ]
    return _Start(features, objects, regions, terms)


def _relabelled(
    boxes: paddle.Tensor, counts: paddle.Tensor, objects: list[Objects], *, num_classes: int, overlap: float
) -> list[Regions]:
    """The regions of a later stage: those boxes [R, 4] that still have an area."""
    rules = RegionRules(overlap=overlap)
    return [
        label_regions(_with_area(some), known, num_classes=num_classes, rules=rules)
        for some, known in zip(boxes.split(counts.tolist()), objects, strict=True)
    ]


def _with_area(boxes: paddle.Tensor) -> paddle.Tensor:
    """Those boxes that have an area; the first where none has, so that every image keeps a region."""
    rows = paddle.nonzero(has_area(boxes)).flatten()
    return paddle.gather(boxes, rows) if rows.shape[0] else boxes[:1]
