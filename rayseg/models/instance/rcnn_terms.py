"""The terms that the losses of the R-CNN networks are sums of.

Papers: Ren et al., "Faster R-CNN", NeurIPS 2015, equation 1; He et al., "Mask R-CNN", ICCV 2017, section 3, for the mask
of the right class only. Code: PaddleDetection, ppdet/modeling/proposal_generator/rpn_head.py, heads/bbox_head.py and
heads/mask_head.py, Apache-2.0.
Changed: where masks use features of the box head, each image uses its own (the original takes those of the first image
for all images of a batch); an image without objects does not thin the mask term of the others; a batch without objects
has a finite loss that still reaches every parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F

from rayseg.geometry import Size
from rayseg.models.blocks.box_coding import Weights, encode_boxes
from rayseg.models.instance.rcnn_heads import BoxPredictions
from rayseg.models.instance.rcnn_mask_head import MaskHead
from rayseg.models.instance.rcnn_mask_targets import from_bitmaps, from_polygons
from rayseg.models.instance.rcnn_targets import AnchorRules, Objects, Regions, Sampler, sample_anchors
from rayseg.models.instance.rpn import RpnPredictions
from rayseg.polygons import Polygons

Terms = dict[str, paddle.Tensor]

ANCHOR_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class MaskTruth:
    """The masks of a batch: polygons where there are any, else bitmaps."""

    image_size: Size
    """Of the network's input, whose pixels boxes and polygons are in."""
    bitmaps: paddle.Tensor | None
    """[N, G, h, w], 0 or 1."""
    polygons: Sequence[Sequence[Polygons]] | None
    """Image by image, object by object."""

    @classmethod
    def of(cls, inputs: dict[str, paddle.Tensor], targets: dict[str, paddle.Tensor]) -> MaskTruth:
        """See `rcnn_loss.mask_rcnn_loss` for both."""
        height, width = inputs["image"].shape[-2:]
        return cls(Size(height=int(height), width=int(width)), targets.get("gt_segm"), targets.get("gt_poly"))

    def inside(self, boxes: paddle.Tensor, slots: paddle.Tensor, *, image: int, resolution: int) -> np.ndarray:
        """The part of an object in each region of one image: [K, 4] and [K] -> float32 [K, resolution, resolution]."""
        rois, object_of = boxes.numpy(), slots.numpy()
        if self.polygons is not None:
            return from_polygons(self.polygons[image], rois, object_of, resolution=resolution)
        assert self.bitmaps is not None, "targets have neither gt_segm nor gt_poly"
        # Only the masks that are needed leave the device.
        used, row = np.unique(object_of, return_inverse=True)
        bitmaps = paddle.gather(self.bitmaps[image], paddle.to_tensor(used)).numpy()
        return from_bitmaps(bitmaps, rois, row, image_size=self.image_size, resolution=resolution)


def proposal_terms(predicted: RpnPredictions, objects: list[Objects], *, sampler: Sampler) -> Terms:
    """Cross entropy and distance of sampled anchors, over the number of anchors that are sampled at most."""
    rules, images = AnchorRules(), len(objects)
    anchors = paddle.concat(predicted.anchors)
    logits = paddle.concat([x.transpose([0, 2, 3, 1]).reshape([images, -1]) for x in predicted.scores], axis=1)
    deltas = paddle.concat([x.transpose([0, 2, 3, 1]).reshape([images, -1, 4]) for x in predicted.deltas], axis=1)
    chosen = [sample_anchors(anchors, known.boxes, rules=rules, sampler=sampler) for known in objects]
    positive, negative = (
        rows_of_batch([getattr(some, kind) for some in chosen], [len(anchors)] * images) for kind in ("positive", "negative")
    )
    is_object = paddle.concat([paddle.ones([len(positive)]), paddle.zeros([len(negative)])])
    found = paddle.gather(logits.flatten(), paddle.concat([positive, negative]))
    cls = F.binary_cross_entropy_with_logits(found, is_object, reduction="sum")
    most = rules.per_image * images
    if len(positive) == 0:
        return {"loss_rpn_cls": cls / most, "loss_rpn_reg": 0.0 * deltas.mean()}
    truth = paddle.concat([paddle.gather(known.boxes, some.objects) for some, known in zip(chosen, objects, strict=True)])
    wanted = encode_boxes(paddle.gather(anchors, positive % len(anchors)), truth, ANCHOR_WEIGHTS)
    reg = (paddle.gather(deltas.flatten(0, 1), positive) - wanted).abs().sum()
    return {"loss_rpn_cls": cls / most, "loss_rpn_reg": reg / most}


def box_terms(
    found: BoxPredictions, regions: list[Regions], objects: list[Objects], *, background: int, weights: Weights
) -> Terms:
    """Cross entropy over all regions; distance of those that stand for objects, over the number of all regions."""
    labels = paddle.concat([some.labels for some in regions])
    cls = F.cross_entropy(found.logits, labels)
    rows = [_positive(some, background) for some in regions]
    positive = rows_of_batch(rows, [len(some.labels) for some in regions])
    if len(positive) == 0:
        return {"loss_bbox_cls": cls, "loss_bbox_reg": 0.0 * found.deltas.mean()}
    boxes = paddle.concat([paddle.gather(some.boxes, r) for some, r in zip(regions, rows, strict=True)])
    truth = paddle.concat(
        [
            paddle.gather(known.boxes, paddle.gather(some.objects, r))
            for some, known, r in zip(regions, objects, rows, strict=True)
        ]
    )
    deltas = paddle.gather(found.deltas, positive).reshape([len(positive), -1, 4])
    per_class = deltas.shape[1] > 1
    own = _of_class(deltas, paddle.gather(labels, positive)) if per_class else deltas[:, 0]
    reg = (own - encode_boxes(boxes, truth, weights)).abs().sum() / len(labels)
    return {"loss_bbox_cls": cls, "loss_bbox_reg": reg}


def mask_term(
    head: MaskHead,
    features: list[paddle.Tensor],
    regions: list[Regions],
    objects: list[Objects],
    truth: MaskTruth,
    *,
    shared: paddle.Tensor | None,
) -> paddle.Tensor:
    """Mean cross entropy of the mask of the right class, over all cells of all regions that stand for objects.

    Args:
        shared: features of all regions from the box head, [R, C, s, s]; None where masks have their own.
    """
    rows = [_positive(some, head.num_classes) for some in regions]
    nothing = sum(len(r) for r in rows) == 0
    if nothing:
        # One region, counting nothing, keeps the head a part of the loss.
        rows[0] = paddle.zeros([1], dtype="int64")
    chosen = [Regions(*(paddle.gather(column, r) for column in some)) for some, r in zip(regions, rows, strict=True)]
    if shared is None:
        logits = head.logits(head.features(features, *joined(chosen)))
    else:
        logits = head.logits(paddle.gather(shared, rows_of_batch(rows, [len(some.labels) for some in regions])))
    if nothing:
        return 0.0 * logits.mean()
    resolution = int(logits.shape[-1])
    wanted = [
        truth.inside(some.boxes, paddle.gather(known.slots, some.objects), image=image, resolution=resolution)
        for image, (some, known) in enumerate(zip(chosen, objects, strict=True))
        if len(some.labels)
    ]
    own = _of_class(logits, paddle.concat([some.labels for some in chosen]))
    return F.binary_cross_entropy_with_logits(own, paddle.to_tensor(np.concatenate(wanted)))


def joined(regions: list[Regions]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Boxes of all images [R, 4] and how many each has, int32 [N]."""
    counts = paddle.to_tensor([len(some.boxes) for some in regions], dtype="int32")
    return paddle.concat([some.boxes for some in regions]), counts


def rows_of_batch(rows: Sequence[paddle.Tensor], counts: Sequence[int]) -> paddle.Tensor:
    """Rows of each image -> rows of the images put one after another; `counts` says how many rows each image has."""
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    return paddle.concat([some + start for some, start in zip(rows, starts, strict=True)])


def _positive(regions: Regions, background: int) -> paddle.Tensor:
    """Rows of the regions that stand for objects."""
    return paddle.nonzero(regions.labels != background).flatten()


def _of_class(values: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    """What is said about each row's own class: [K, C, ...] and [K] -> [K, ...]."""
    count, classes = values.shape[:2]
    return paddle.gather(values.flatten(0, 1), paddle.arange(count) * classes + labels)
