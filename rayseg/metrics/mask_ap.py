"""Mask average precision as COCO defines it, from memory to a frozen value.

The matching and the curves are pycocotools' own `COCOeval`; this file feeds it copies, keeps it quiet and averages its arrays,
because `COCOeval.summarize` looks up 100 detections an image whatever was asked for. It runs no network and reads no file.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rayseg.errors import DatasetError


@dataclass(frozen=True)
class MaskAP:
    """COCO scores in [0, 1]. NaN: nothing to find (no ground truth of that class or size); 0.0: nothing was found."""

    ap: float
    """Mean over classes and over the IoU thresholds 0.50, 0.55 ... 0.95."""
    ap50: float
    ap75: float
    ap_small: float
    """Objects up to 32^2 pixels."""
    ap_medium: float
    ap_large: float
    """Objects from 96^2 pixels."""
    per_class: Mapping[int, float]
    """Category id -> `ap` of that class alone; every category of the ground truth has an entry."""
    recall_at: Mapping[int, float]
    """Each of `max_dets` -> COCO's average recall with that many detections an image."""


def mask_ap(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    *,
    max_dets: Sequence[int] = (1, 10, 100),
) -> MaskAP:
    """Score detections against COCO instance annotations; neither argument is changed.

    Every AP uses the largest of `max_dets`; set it above the number of objects an image can hold.

    Args:
        ground_truth: a COCO dict with `images` (id, height, width), `categories` and `annotations`. `segmentation` is polygons or
            RLE; a missing `area` is counted from the mask, a missing `iscrowd` is 0. Annotation ids do not matter.
        detections: dicts with `image_id`, `category_id`, `score` and `segmentation`, the RLE of the whole image. Images without
            detections need no entry.
        max_dets: how many of the best-scored detections of one class count in one image, one or more numbers >= 1.

    Raises:
        DatasetError: a row refers to an unknown image or category, its mask has another size than its image, or its score
            is not finite.
        ValueError: `max_dets` is empty or holds a number below 1.
    """
    limits = sorted({int(n) for n in max_dets})
    if not limits or limits[0] < 1:
        raise ValueError(f"max_dets must be one or more numbers >= 1, got {tuple(max_dets)}")
    truth = _truth(ground_truth)
    found = _found(detections, truth)
    category_ids = sorted(c["id"] for c in truth["categories"])
    if not category_ids or not truth["images"]:
        return _nothing_to_find(category_ids, limits)
    precision, recall = _curves(truth, found, limits)
    return _scores(precision, recall, category_ids, limits)


def _truth(ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    """Our own copy, deep enough for what COCOeval writes into it, with ids counted from 1.

    COCOeval marks a match by the id of the object and reads 0 as "no match", so an annotation with id 0 would never count.
    """
    images = [dict(image) for image in ground_truth["images"]]
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in images}
    categories = [dict(category) for category in ground_truth["categories"]]
    known = {category["id"] for category in categories}
    annotations = []
    for number, row in enumerate(ground_truth["annotations"], start=1):
        _check_row("annotation", number - 1, row, sizes, known)
        rle = _as_rle(row["segmentation"], sizes[row["image_id"]])
        _check_size("annotation", number - 1, rle, sizes[row["image_id"]])
        area = float(row["area"]) if "area" in row else float(coco_mask.area(rle))
        annotations.append(
            {
                "id": number,
                "image_id": row["image_id"],
                "category_id": row["category_id"],
                "segmentation": rle,
                "area": area,
                "iscrowd": int(row.get("iscrowd", 0)),
            }
        )
    return {"images": images, "categories": categories, "annotations": annotations}


def _found(detections: Iterable[Mapping[str, Any]], truth: Mapping[str, Any]) -> dict[str, Any]:
    """Detections as the COCO dict that COCOeval wants, one annotation each."""
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in truth["images"]}
    known = {category["id"] for category in truth["categories"]}
    annotations = []
    for number, row in enumerate(detections, start=1):
        _check_row("detection", number - 1, row, sizes, known)
        score = float(row["score"])
        if not math.isfinite(score):
            raise DatasetError(f"detection {number - 1} has score {score}; scores must be finite. Did training diverge?")
        rle = dict(row["segmentation"])
        _check_size("detection", number - 1, rle, sizes[row["image_id"]])
        annotations.append(
            {
                "id": number,
                "image_id": row["image_id"],
                "category_id": row["category_id"],
                "segmentation": rle,
                "score": score,
                "area": float(coco_mask.area(rle)),
                "iscrowd": 0,
            }
        )
    return {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}


def _check_row(kind: str, index: int, row: Mapping[str, Any], sizes: Mapping[Any, tuple[int, int]], categories: set[Any]) -> None:
    if row["image_id"] not in sizes:
        raise DatasetError(
            f"{kind} {index} is on image {row['image_id']!r}, which the ground truth does not list. "
            "Score against the images that were predicted."
        )
    if row["category_id"] not in categories:
        raise DatasetError(
            f"{kind} {index} has category {row['category_id']!r}; the ground truth knows {sorted(categories)}. "
            "Map class ids to category ids before scoring."
        )


def _check_size(kind: str, index: int, rle: Mapping[str, Any], size: tuple[int, int]) -> None:
    # pycocotools compares masks of different sizes to an IoU of -1 without a word.
    if tuple(int(n) for n in rle["size"]) != size:
        raise DatasetError(f"{kind} {index} has a mask of size {tuple(rle['size'])} on an image of {size} (height, width)")


def _as_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Compressed RLE of polygons, of uncompressed or of compressed RLE."""
    if isinstance(segmentation, list):
        parts = coco_mask.frPyObjects(segmentation, *size)
        return dict(coco_mask.merge(parts))
    if isinstance(segmentation["counts"], list):
        return dict(coco_mask.frPyObjects(segmentation, *segmentation["size"]))
    return dict(segmentation)


def _curves(truth: dict[str, Any], found: dict[str, Any], limits: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Precision (IoU, recall step, class, area range, limit) and recall (IoU, class, area range, limit); -1 = no ground truth."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_as_coco(truth), _as_coco(found), "segm")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _as_coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _scores(precision: np.ndarray, recall: np.ndarray, category_ids: list[int], limits: list[int]) -> MaskAP:
    """Means over what has ground truth. Order of the axes as in `_curves`; COCO's area ranges are all, small, medium, large."""
    by_area = precision[..., -1]
    overall = by_area[..., 0]
    return MaskAP(
        ap=_mean(overall),
        ap50=_mean(overall[0]),
        ap75=_mean(overall[5]),
        ap_small=_mean(by_area[..., 1]),
        ap_medium=_mean(by_area[..., 2]),
        ap_large=_mean(by_area[..., 3]),
        per_class={cid: _mean(overall[:, :, k]) for k, cid in enumerate(category_ids)},
        recall_at={limit: _mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)},
    )


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def _nothing_to_find(category_ids: list[int], limits: list[int]) -> MaskAP:
    nan = math.nan
    return MaskAP(nan, nan, nan, nan, nan, nan, dict.fromkeys(category_ids, nan), dict.fromkeys(limits, nan))
