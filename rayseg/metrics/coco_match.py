"""Which found object is which annotated one, as COCO's evaluation decides it: image by image, at ten IoUs and four sizes.

The rules are those of pycocotools' COCOeval, whose loops over IoUs, sizes and objects are done for all IoUs and sizes at
once here; tests compare every number with COCOeval's. One deviation: an annotation with id 0 counts like any other, where
COCOeval takes its match for none. Matches of disjoint images add up, in any order and on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from rayseg.metrics.coco_rows import Id, Regions

IOUS = np.linspace(0.5, 0.95, 10)
AREAS_PX = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
"""All, small, medium, large; both ends belong to it."""
_HIGHEST_IOU = 1 - 1e-10


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """What became of the objects of one class found in one image, best first.

    Attributes:
        scores: float64 (D,).
        matched: bool (A, T, D), one entry for each size of AREAS_PX and each of IOUS: it is an annotated object.
        ignored: bool (A, T, D), it counts neither as right nor as wrong: its counterpart is a crowd or of another size, or it
            has none and is of another size itself.
        objects: int64 (A,), annotated objects that count.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of some images; `a + b` are those of both.

    Attributes:
        limit: most objects of one class in one image that were looked at.
        images: image id -> category id -> matches. Classes that an image neither has nor seems to have are not there.
    """

    limit: int
    images: Mapping[Id, Mapping[Id, ClassMatches]] = field(default_factory=dict)

    def __add__(self, other: Matches) -> Matches:
        return Matches.join([self, other])

    @staticmethod
    def join(parts: Sequence[Matches]) -> Matches:
        """The sum of one or more, in time of their images.

        Raises:
            ValueError: no part, parts of different limits, or an image that is in two of them.
        """
        limits = {part.limit for part in parts}
        if len(limits) != 1:
            raise ValueError(f"can join matches of one limit of objects an image, got {sorted(limits)}")
        images: dict[Id, Mapping[Id, ClassMatches]] = {}
        for part in parts:
            twice = images.keys() & part.images.keys()
            if twice:
                raise ValueError(f"{len(twice)} images were scored twice, such as {min(twice, key=str)!r}")
            images |= part.images
        return Matches(limits.pop(), images)


def match_image(image_id: Id, annotated: Regions, found: Regions, *, limit: int) -> Matches:
    """Match the objects of one image.

    Args:
        annotated, found: both masks or both boxes.
        limit: objects of each class beyond the best so many do not exist.
    """
    wanted, given = _by_class(annotated), _by_class(found)
    none: list[int] = []
    return Matches(
        limit,
        {image_id: {c: _match(annotated, wanted.get(c, none), found, given.get(c, none), limit) for c in {**wanted, **given}}},
    )


def _by_class(regions: Regions) -> dict[Id, list[int]]:
    out: dict[Id, list[int]] = {}
    for index, category in enumerate(regions.categories):
        out.setdefault(category, []).append(index)
    return out


def _match(annotated: Regions, wanted: list[int], found: Regions, given: list[int], limit: int) -> ClassMatches:
    assert annotated.crowd is not None and found.scores is not None
    given = [given[i] for i in np.argsort(-found.scores[given], kind="mergesort")[:limit]]
    crowd, low, high = annotated.crowd[wanted], *np.asarray(AREAS_PX).T[:, :, None]
    outside = (annotated.areas[wanted] < low) | (annotated.areas[wanted] > high)
    ignored = crowd | outside
    ious = _ious(annotated, wanted, found, given, crowd)
    matched, onto_ignored = _greedy(ious, ignored, crowd)
    outside = (found.areas[given] < low) | (found.areas[given] > high)
    return ClassMatches(
        scores=found.scores[given],
        matched=matched,
        ignored=onto_ignored | (~matched & outside[:, None]),
        objects=np.count_nonzero(~ignored, axis=1),
    )


def _ious(annotated: Regions, wanted: list[int], found: Regions, given: list[int], crowd: np.ndarray) -> np.ndarray:
    """float64 (D, G); of a crowd, the share of the found object that lies in it."""
    if not wanted or not given:
        return np.zeros((len(given), len(wanted)))
    ours, theirs = ([r.shapes[i] for i in rows] for r, rows in ((found, given), (annotated, wanted)))
    return np.asarray(coco_mask.iou(ours, theirs, crowd.astype(np.uint8).tolist()))


def _greedy(ious: np.ndarray, ignored: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each found object, best first, the nearest annotated one that is free.

    Objects that count come before ignored ones however near those are; of equally near ones the last is taken; a crowd is
    never used up.

    Args:
        ious: (D, G).
        ignored: bool (A, G), for each size.
        crowd: bool (G,).

    Returns:
        bool (A, T, D) twice: has a counterpart; it is an ignored one.
    """
    at_least = np.minimum(IOUS, _HIGHEST_IOU)[:, None]
    free = np.ones((len(ignored), len(IOUS), ious.shape[1]), dtype=bool)
    matched = np.zeros((*free.shape[:2], len(ious)), dtype=bool)
    onto_ignored = np.zeros_like(matched)
    for index, row in enumerate(ious):
        near = np.flatnonzero(row >= at_least[0])[::-1]  # the last first: argmax takes the first of equals
        if near.size == 0:
            continue
        ignorable = ignored[:, None, near]
        candidates = (row[near] >= at_least) & (free[..., near] | crowd[near])
        counting = candidates & ~ignorable
        counts = counting.any(axis=-1, keepdims=True)
        candidates = np.where(counts, counting, candidates)
        best = np.where(candidates, row[near], -1.0).argmax(axis=-1)
        hit = candidates.any(axis=-1)
        size, iou = np.nonzero(hit)
        free[size, iou, near[best[hit]]] = False
        matched[..., index] = hit
        onto_ignored[..., index] = hit & ~counts[..., 0]
    return matched, onto_ignored
