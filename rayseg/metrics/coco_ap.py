"""Average precision and recall from matches, as COCO defines them; equal to pycocotools to the last bit.

Curves are taken over all images at once, so matches of all shards are added up first. Matching is coco_match.py's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rayseg.metrics.coco_match import AREAS_PX, IOUS, ClassMatches, Matches, match_image
from rayseg.metrics.coco_rows import Id, Kind, Names, Regions, Row, annotated, found

RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETS = (1, 10, 100)
"""COCO's own limits."""


@dataclass(frozen=True)
class ClassAp:
    """Scores of one class, as in `ApScores`, each for the largest number of detections."""

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar: float
    objects: int
    """Annotated objects, without crowds."""


@dataclass(frozen=True)
class ApScores:
    """COCO scores in [0, 1]. NaN: nothing to find (no ground truth of that class or size); 0.0: nothing was found.

    All but `recall_at` are for the largest number of detections an image that was asked for.
    """

    ap: float
    """Mean over classes and over the IoU thresholds 0.50, 0.55 ... 0.95."""
    ap50: float
    ap75: float
    ap_small: float
    """Objects up to 32^2 pixels."""
    ap_medium: float
    ap_large: float
    """Objects from 96^2 pixels."""
    ar_small: float
    """Mean over classes and thresholds of the highest recall."""
    ar_medium: float
    ar_large: float
    recall_at: Mapping[int, float]
    """Each of `max_dets` -> COCO's average recall with that many detections an image."""
    per_class: Mapping[Id, ClassAp]
    """Category id -> scores of that class alone; every category of the ground truth has an entry."""

    @property
    def ar(self) -> float:
        """Average recall for the largest number of detections."""
        return self.recall_at[max(self.recall_at)]


def check_limits(max_dets: Iterable[int]) -> tuple[int, ...]:
    """Numbers of detections an image, ascending.

    Raises:
        ValueError: there is none, or one is below 1.
    """
    asked = tuple(max_dets)
    limits = tuple(sorted({int(n) for n in asked}))
    if not limits or limits[0] < 1:
        raise ValueError(f"max_dets must be one or more numbers >= 1, got {asked}")
    return limits


def limits_up_to(most: int) -> tuple[int, ...]:
    """COCO's limits below `most`, and `most`: every AP is for that many detections an image."""
    return (*(limit for limit in MAX_DETS if limit < min(most, MAX_DETS[-1])), most)


def match_rows(ground_truth: Row, detections: Iterable[Row], *, kind: Kind, limit: int) -> Matches:
    """Matches of all images of a COCO dict; see `coco_rows` for the rows.

    Raises:
        DatasetError: a row refers to something unknown or cannot be compared.
    """
    names = Names.of(ground_truth)
    wanted, given = names.by_image("annotation", ground_truth["annotations"]), names.by_image("detection", detections)
    out: dict[Id, Mapping[Id, ClassMatches]] = {}
    for image_id, size in names.sizes.items():
        if image_id in wanted or image_id in given:
            truth: Regions = annotated(wanted.get(image_id, []), size, kind)
            ours = found(given.get(image_id, []), size, kind)
            out |= match_image(image_id, truth, ours, limit=limit).images
    return Matches(limit, out)


def ap_scores(matches: Matches, categories: Sequence[Id], *, max_dets: Sequence[int] = MAX_DETS) -> ApScores:
    """Scores of all images matched.

    Args:
        categories: all category ids of the ground truth.
        max_dets: the largest must be the limit that was matched with.

    Raises:
        ValueError: it is not.
    """
    limits = check_limits(max_dets)
    if limits[-1] != matches.limit:
        raise ValueError(f"matched with at most {matches.limit} objects an image, asked for scores with {limits[-1]}")
    categories = in_order(categories)
    precision, recall = curves(matches, categories, limits)
    best, most = precision[..., -1], recall[..., -1]
    objects = {c: sum(int(image[c].objects[0]) for image in matches.images.values() if c in image) for c in categories}
    return ApScores(
        **_by_size_and_iou(best),
        ar_small=_mean(most[..., 1]),
        ar_medium=_mean(most[..., 2]),
        ar_large=_mean(most[..., 3]),
        recall_at={limit: _mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)},
        per_class={
            c: ClassAp(**_by_size_and_iou(best[:, :, [k]]), ar=_mean(most[:, k, 0]), objects=objects[c])
            for k, c in enumerate(categories)
        },
    )


def in_order(ids: Iterable[Id]) -> tuple[Id, ...]:
    """Ids as COCOeval orders them; numbers come before text. Equal scores of two images keep this order."""
    return tuple(sorted(ids, key=lambda i: (isinstance(i, str), i)))


def curves(matches: Matches, categories: Sequence[Id], limits: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Precision at each of RECALLS, and the highest recall; -1 where there is no ground truth.

    Returns:
        float64 (T, R, K, A, M) and (T, K, A, M): IoU, recall, class, size, limit.
    """
    shape = (len(categories), len(AREAS_PX), len(limits))
    precision = -np.ones((len(IOUS), len(RECALLS), *shape))
    recall = -np.ones((len(IOUS), *shape))
    by_class: dict[Id, list[ClassMatches]] = {}
    for image_id in in_order(matches.images):
        for category, found_there in matches.images[image_id].items():
            by_class.setdefault(category, []).append(found_there)
    for k, category in enumerate(categories):
        for m, limit in enumerate(limits):
            if category in by_class:
                precision[:, :, k, :, m], recall[:, k, :, m] = _curves_of(by_class[category], limit)
    return precision, recall


def _curves_of(parts: list[ClassMatches], limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one class: (T, R, A) and (T, A)."""
    scores = np.concatenate([p.scores[:limit] for p in parts])
    order = np.argsort(-scores, kind="mergesort")
    matched, ignored = (
        np.concatenate([getattr(p, name)[..., :limit] for p in parts], axis=-1)[..., order] for name in ("matched", "ignored")
    )
    objects = np.sum([p.objects for p in parts], axis=0)
    precision = -np.ones((len(IOUS), len(RECALLS), len(AREAS_PX)))
    recall = -np.ones((len(IOUS), len(AREAS_PX)))
    for a in np.flatnonzero(objects):
        right = np.cumsum(matched[a] & ~ignored[a], axis=1).astype(float)
        wrong = np.cumsum(~matched[a] & ~ignored[a], axis=1).astype(float)
        reached = right / objects[a]
        precise = right / (wrong + right + np.spacing(1))
        precise = np.maximum.accumulate(precise[:, ::-1], axis=1)[:, ::-1]  # the best at this recall or a higher one
        recall[:, a] = reached[:, -1] if scores.size else 0.0
        for t in range(len(IOUS)):
            place = np.searchsorted(reached[t], RECALLS, side="left")
            there = place < scores.size
            precision[t, :, a] = 0.0
            precision[t, there, a] = precise[t, place[there]]
    return precision, recall


def _by_size_and_iou(precision: np.ndarray) -> dict[str, float]:
    """From precision (T, R, K, A)."""
    overall = precision[..., 0]
    return {
        "ap": _mean(overall),
        "ap50": _mean(overall[0]),
        "ap75": _mean(overall[5]),
        "ap_small": _mean(precision[..., 1]),
        "ap_medium": _mean(precision[..., 2]),
        "ap_large": _mean(precision[..., 3]),
    }


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def score_rows(ground_truth: Row, detections: Iterable[Row], *, kind: Kind, max_dets: Iterable[int]) -> ApScores:
    """`match_rows`, then `ap_scores`."""
    limits = check_limits(max_dets)
    matches = match_rows(ground_truth, detections, kind=kind, limit=limits[-1])
    return ap_scores(matches, [category["id"] for category in ground_truth["categories"]], max_dets=limits)
