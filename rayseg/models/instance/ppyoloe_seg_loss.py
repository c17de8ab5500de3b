"""The training loss of PP-YOLOE_seg: varifocal, GIoU, distribution focal and mask terms over assigned anchors.

Papers: Zhang et al., "VarifocalNet", CVPR 2021, equation 2, for the class term; Li et al., "Generalized Focal Loss",
2020, equation 3, for the distances; Bolya et al., "YOLACT", 2019, for masks inside the box. Code: PaddleDetection,
ppdet/modeling/heads/ppyoloe_ins_head.py, Apache-2.0.
Changed: boxes are brought to mask pixels by the true input size (the original has 640 written in) and the number of
prototypes is free; masks are picked for positive anchors only, never for all of them; a batch without objects has a
finite loss that still reaches every output; the mask term has its own weight, which the original borrows from the GIoU
term.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F

from rayseg.geometry import Size
from rayseg.models.blocks.boxes import boxes_from_distances, distances_to_sides, giou_loss
from rayseg.models.instance.ppyoloe_seg_assign import Assignment, assign_atss, assign_task_aligned
from rayseg.models.instance.ppyoloe_seg_head import PPYOLOESegHead, RawOutputs
from rayseg.models.normalise import over_workers

Targets = dict[str, paddle.Tensor]


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts in the total."""

    class_: float = 1.0
    giou: float = 2.5
    distances: float = 0.5
    mask: float = 2.5


def ppyoloe_seg_loss(
    head: PPYOLOESegHead,
    raw: RawOutputs,
    targets: Targets,
    *,
    input_size: Size,
    use_atss: bool = False,
    weights: LossWeights | None = None,
) -> dict[str, paddle.Tensor]:
    """Assign anchors to objects and add up the terms.

    Args:
        head: that made `raw`; only its fixed projection is used.
        raw: undecoded outputs.
        targets: see `PPYOLOESeg.loss`.
        input_size: of the images, which relates boxes to prototypes.
        use_atss: assign by position instead of by prediction.
        weights: of the terms in the total.

    Returns:
        Scalars `loss`, `loss_cls`, `loss_iou`, `loss_dfl`, `loss_mask` and `loss_l1` (reported, not part of the total).
    """
    weights = weights or LossWeights()
    points = raw.points / raw.strides
    boxes = boxes_from_distances(points, head.mean_distances(raw.distributions))
    assigned = _assign(raw, boxes, targets, num_classes=head.num_classes, use_atss=use_atss)

    normalizer = over_workers(assigned.scores.sum(), least=1.0)
    loss_cls = _varifocal(raw.scores, assigned, head.num_classes) / normalizer
    positive = paddle.nonzero((assigned.labels != head.num_classes).flatten()).flatten()
    if positive.shape[0] == 0:
        nothing = _zero_through(raw, boxes)
        terms = {"loss_iou": nothing, "loss_dfl": nothing, "loss_mask": nothing, "loss_l1": nothing}
    else:
        terms = _positive_terms(head, raw, boxes, assigned, positive, normalizer)
        terms["loss_mask"] = _mask_term(raw, assigned, positive, targets["gt_segm"], input_size) / normalizer
    total = (
        weights.class_ * loss_cls
        + weights.giou * terms["loss_iou"]
        + weights.distances * terms["loss_dfl"]
        + weights.mask * terms["loss_mask"]
    )
    return {"loss": total, "loss_cls": loss_cls, **terms}


def _assign(raw: RawOutputs, boxes: paddle.Tensor, targets: Targets, *, num_classes: int, use_atss: bool) -> Assignment:
    images, anchors = raw.scores.shape[:2]
    if targets["gt_bbox"].shape[1] == 0:
        return Assignment(
            labels=paddle.full([images, anchors], num_classes, dtype="int64"),
            boxes=paddle.zeros([images, anchors, 4]),
            scores=paddle.zeros([images, anchors, num_classes]),
            objects=paddle.zeros([images, anchors], dtype="int64"),
        )
    pixel_boxes = boxes.detach() * raw.strides
    truth = (targets["gt_class"], targets["gt_bbox"], targets["pad_gt_mask"])
    if use_atss:
        return assign_atss(pixel_boxes, raw.points, raw.strides, raw.level_sizes, *truth, num_classes=num_classes)
    return assign_task_aligned(raw.scores.detach(), pixel_boxes, raw.points, *truth)


def _varifocal(
    scores: paddle.Tensor, assigned: Assignment, num_classes: int, *, alpha: float = 0.75, gamma: float = 2.0
) -> paddle.Tensor:
    """Cross entropy against the target scores; background counts by its own score, so easy background hardly counts."""
    is_class = F.one_hot(assigned.labels, num_classes + 1)[..., :-1]
    weight = alpha * scores.pow(gamma) * (1 - is_class) + assigned.scores * is_class
    return F.binary_cross_entropy(scores, assigned.scores, weight=weight, reduction="sum")


def _positive_terms(
    head: PPYOLOESegHead,
    raw: RawOutputs,
    boxes: paddle.Tensor,
    assigned: Assignment,
    positive: paddle.Tensor,
    normalizer: paddle.Tensor,
) -> dict[str, paddle.Tensor]:
    """The terms on boxes. `positive` int64 [K] indexes anchors of all images, flattened."""
    points = raw.points / raw.strides
    wanted = assigned.boxes / raw.strides
    box_weight = _rows(assigned.scores, positive).sum(-1)
    found_boxes, wanted_boxes = _rows(boxes, positive), _rows(wanted, positive)
    distances = distances_to_sides(points, wanted).clip(0, head.bins - 1 - 0.01)
    logits = _rows(raw.distributions, positive).reshape([-1, 4, head.bins])
    focal = _distribution_focal(logits, _rows(distances, positive))
    return {
        "loss_iou": (giou_loss(found_boxes, wanted_boxes) * box_weight).sum() / normalizer,
        "loss_dfl": (focal * box_weight).sum() / normalizer,
        "loss_l1": F.l1_loss(found_boxes, wanted_boxes),
    }


def _distribution_focal(logits: paddle.Tensor, distances: paddle.Tensor) -> paddle.Tensor:
    """Cross entropy against the two bins around each distance: [K, 4, bins] and [K, 4] -> [K], mean over the sides."""
    lower = distances.floor().astype("int64")
    weight_upper = distances - lower.astype(distances.dtype)
    log_p = F.log_softmax(logits, axis=-1)
    at_lower = paddle.take_along_axis(log_p, lower.unsqueeze(-1), axis=-1).squeeze(-1)
    at_upper = paddle.take_along_axis(log_p, lower.unsqueeze(-1) + 1, axis=-1).squeeze(-1)
    return -(at_lower * (1 - weight_upper) + at_upper * weight_upper).mean(-1)


def _mask_term(
    raw: RawOutputs, assigned: Assignment, positive: paddle.Tensor, gt_segm: paddle.Tensor, input_size: Size
) -> paddle.Tensor:
    """Sum over positive anchors of the mean cross entropy inside the object's box, at the size of the prototypes."""
    height, width = raw.prototypes.shape[-2:]
    to_unit = paddle.to_tensor([1 / input_size.width, 1 / input_size.height] * 2, dtype="float32")
    to_pixels = paddle.to_tensor([width, height, width, height], dtype="float32")
    truth = _to_prototype_size(gt_segm, height, width)
    anchors = raw.scores.shape[1]
    image_of = positive // anchors
    total = paddle.zeros([])
    for image in range(raw.scores.shape[0]):
        rows = positive[image_of == image]
        if rows.shape[0] == 0:
            continue
        unit_boxes = _rows(assigned.boxes, rows) * to_unit
        share = (unit_boxes[:, 2] - unit_boxes[:, 0]) * (unit_boxes[:, 3] - unit_boxes[:, 1])
        logits = _rows(raw.coefficients, rows) @ raw.prototypes[image].flatten(1)
        wanted = paddle.gather(truth[image], assigned.objects.flatten()[rows]).flatten(1)
        inside = _inside(unit_boxes * to_pixels, height, width).flatten(1)
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, weight=inside, reduction="none")
        total = total + (entropy.mean(-1) / share).sum()
    return total


def _to_prototype_size(gt_segm: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """Every (H / height)-th pixel of the masks, as float32 [N, G, height, width]; nearest neighbour for odd ratios."""
    found_h, found_w = gt_segm.shape[-2:]
    if found_h % height == 0 and found_w % width == 0:
        # Thinned before the cast: 250 masks of 640 x 640 are 100 MB as bytes and 400 MB as floats.
        return gt_segm[:, :, :: found_h // height, :: found_w // width].astype("float32")
    return F.interpolate(gt_segm.astype("float32"), size=[height, width], mode="nearest")


def _inside(boxes: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """1 where a pixel's index lies in [x0, x1) and [y0, y1): [K, 4] -> float32 [K, height, width]."""
    x0, y0, x1, y1 = (edge.unsqueeze(-1) for edge in boxes.split(4, axis=-1))
    xs = paddle.arange(width, dtype="float32")
    ys = paddle.arange(height, dtype="float32").unsqueeze(-1)
    return ((xs >= x0) & (xs < x1) & (ys >= y0) & (ys < y1)).astype("float32")


def _rows(x: paddle.Tensor, rows: paddle.Tensor) -> paddle.Tensor:
    """Rows of [N, A, C] by flat index over images and anchors -> [K, C]."""
    return paddle.gather(x.flatten(0, 1), rows)


def _zero_through(raw: RawOutputs, boxes: paddle.Tensor) -> paddle.Tensor:
    """0, with a path to every output, so that no parameter is without a gradient when a batch has no objects."""
    return (boxes.mean() + raw.distributions.mean() + raw.coefficients.mean() + raw.prototypes.mean()) * 0.0
