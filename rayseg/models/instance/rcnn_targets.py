"""What the R-CNN networks learn from: which anchors and which regions stand for which object, and which of them count.

Papers: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.2, for the anchors; Girshick, "Fast R-CNN", ICCV 2015,
section 2.3, for the regions; Cai and Vasconcelos, "Cascade R-CNN", CVPR 2018, for later stages. Code: PaddleDetection,
ppdet/modeling/proposal_generator/target.py, Apache-2.0.
Changed: overlaps are computed for a few objects at a time, so that hundreds of objects and a quarter of a million
anchors need tens of megabytes rather than gigabytes; regions are encoded only where they are learned from.
As in that code, and unlike in the paper, anchors that leave the image count too.
What masks inside regions look like is in rcnn_mask_targets.py, the terms of the loss are in rcnn_loss.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import paddle

from rayseg.models.blocks.boxes import pairwise_iou

OBJECTS_AT_ONCE = 32


class Sampler(Protocol):
    """Picks what is learned from when there is more than enough."""

    def __call__(self, candidates: paddle.Tensor, count: int) -> paddle.Tensor:
        """`count` of the candidates int64 [K], or all of them where there are fewer; none twice."""
        ...


def take_random(candidates: paddle.Tensor, count: int) -> paddle.Tensor:
    """Any of them, each equally likely; drawn from paddle's generator, so that `paddle.seed` repeats a run."""
    found = candidates.shape[0]
    return candidates if found <= count else paddle.gather(candidates, paddle.randperm(found)[:count])


def take_first(candidates: paddle.Tensor, count: int) -> paddle.Tensor:
    """The first ones: no chance involved, for tests."""
    return candidates[:count]


class Objects(NamedTuple):
    """The objects of one image, without padding.

    Attributes:
        boxes: float32 [G, 4], xyxy in input pixels.
        classes: int64 [G].
        slots: int64 [G], where each stands in the padded targets.
    """

    boxes: paddle.Tensor
    classes: paddle.Tensor
    slots: paddle.Tensor


class Matches(NamedTuple):
    """The best object of each of L boxes.

    Attributes:
        objects: int64 [L]; of equal ones the first, 0 where nothing overlaps.
        overlaps: float32 [L], with that object.
        is_best: bool [L]: no box overlaps some object, not necessarily this one, more than this does.
    """

    objects: paddle.Tensor
    overlaps: paddle.Tensor
    is_best: paddle.Tensor


class SampledAnchors(NamedTuple):
    """The anchors of one image that are learned from.

    Attributes:
        positive: int64 [P], indices of those that stand for an object.
        negative: int64 [M], indices of those that stand for background.
        objects: int64 [P], the object of each positive one.
    """

    positive: paddle.Tensor
    negative: paddle.Tensor
    objects: paddle.Tensor


class Regions(NamedTuple):
    """The regions of one image that are learned from.

    Attributes:
        boxes: float32 [R, 4], xyxy in input pixels; no gradient passes through them.
        labels: int64 [R], class of the object, or `num_classes` for background.
        objects: int64 [R], the object that overlaps most; means nothing for background.
    """

    boxes: paddle.Tensor
    labels: paddle.Tensor
    objects: paddle.Tensor


@dataclass(frozen=True)
class AnchorRules:
    """How anchors are chosen."""

    positive_overlap: float = 0.7
    """An anchor with at least that much overlap stands for the object, and so does an object's best one."""
    negative_overlap: float = 0.3
    """An anchor with less than that stands for background; what lies between does not count."""
    per_image: int = 256
    positive_fraction: float = 0.5
    """At most so many of them stand for objects."""


@dataclass(frozen=True)
class RegionRules:
    """How regions are chosen. Below the overlap a region is background."""

    overlap: float = 0.5
    per_image: int = 512
    positive_fraction: float = 0.25


def objects_of(targets: dict[str, paddle.Tensor]) -> list[Objects]:
    """The objects of each image; see `rayseg.models.network.InstanceNetwork.loss` for `targets`."""
    out = []
    for boxes, classes, real in zip(targets["gt_bbox"], targets["gt_class"], targets["pad_gt_mask"], strict=True):
        slots = paddle.nonzero(real.flatten() > 0).flatten()
        classes = classes.flatten().astype("int64")
        out.append(Objects(paddle.gather(boxes, slots), paddle.gather(classes, slots), slots))
    return out


def match(boxes: paddle.Tensor, truth: paddle.Tensor) -> Matches:
    """Find the object of each box: [L, 4] and [G, 4] -> [L]. A box or object without area matches nothing."""
    count = int(boxes.shape[0])
    objects = paddle.zeros([count], dtype="int64")
    overlaps = paddle.zeros([count])
    is_best = paddle.zeros([count], dtype="bool")
    if count == 0:
        return Matches(objects, overlaps, is_best)
    for start in range(0, int(truth.shape[0]), OBJECTS_AT_ONCE):
        some = pairwise_iou(truth[start : start + OBJECTS_AT_ONCE].unsqueeze(0), boxes.unsqueeze(0))[0]
        highest, which = some.max(0), some.argmax(0) + start
        better = highest > overlaps
        objects = paddle.where(better, which, objects)
        overlaps = paddle.where(better, highest, overlaps)
        is_best = is_best | ((some > 0) & (some == some.max(1, keepdim=True))).any(0)
    return Matches(objects, overlaps, is_best)


def sample_anchors(anchors: paddle.Tensor, truth: paddle.Tensor, *, rules: AnchorRules, sampler: Sampler) -> SampledAnchors:
    """Choose the anchors of one image: [A, 4] of all levels and boxes of its objects [G, 4]."""
    found = match(anchors, truth)
    is_positive = (found.overlaps >= rules.positive_overlap) | found.is_best
    is_negative = (found.overlaps < rules.negative_overlap) & ~found.is_best
    positive, negative = _sample(is_positive, is_negative, rules.per_image, rules.positive_fraction, sampler)
    return SampledAnchors(positive, negative, paddle.gather(found.objects, positive))


def sample_regions(
    proposals: paddle.Tensor, objects: Objects, *, num_classes: int, rules: RegionRules, sampler: Sampler
) -> Regions:
    """Choose the regions of one image from proposals [K, 4] and its objects' own boxes; those for objects come first."""
    every = label_regions(paddle.concat([proposals, objects.boxes]), objects, num_classes=num_classes, rules=rules)
    is_background = every.labels == num_classes
    positive, negative = _sample(~is_background, is_background, rules.per_image, rules.positive_fraction, sampler)
    chosen = paddle.concat([positive, negative])
    return Regions(*(paddle.gather(column, chosen) for column in every))


def label_regions(boxes: paddle.Tensor, objects: Objects, *, num_classes: int, rules: RegionRules) -> Regions:
    """Say what each region [R, 4] of one image stands for, and keep all of them, as later stages of a cascade do."""
    boxes = boxes.detach()
    found = match(boxes, objects.boxes)
    background = paddle.full([int(boxes.shape[0])], num_classes, dtype="int64")
    if len(objects.boxes) == 0:
        return Regions(boxes, background, found.objects)
    classes = paddle.gather(objects.classes, found.objects)
    return Regions(boxes, paddle.where(found.overlaps >= rules.overlap, classes, background), found.objects)


def _sample(
    is_positive: paddle.Tensor, is_negative: paddle.Tensor, count: int, fraction: float, sampler: Sampler
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """At most `count` indices; at most `fraction` of them positive, filled up with negative ones."""
    positive = sampler(paddle.nonzero(is_positive).flatten(), int(count * fraction))
    negative = sampler(paddle.nonzero(is_negative).flatten(), count - int(positive.shape[0]))
    return positive, negative
