"""Average precision of a list of detections against a COCO dict, for masks and for boxes: one call, one frozen value.

Scoring shard by shard is coco_ap.py's and coco_match.py's. Nothing here runs a network or reads a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayseg.metrics.coco_ap import MAX_DETS, ApScores, score_rows

__all__ = ["ApScores", "box_ap", "mask_ap"]


def mask_ap(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    *,
    max_dets: Sequence[int] = MAX_DETS,
) -> ApScores:
    """Score masks against COCO instance annotations; neither argument is changed.

    Every AP uses the largest of `max_dets`; set it above the number of objects an image can hold.

    Args:
        ground_truth: a COCO dict with `images` (id, height, width), `categories` and `annotations`. `segmentation` is polygons or
            RLE; a missing `area` is counted from the mask, a missing `iscrowd` is 0. Annotation ids do not matter.
        detections: dicts with `image_id`, `category_id`, `score` and `segmentation`, the RLE of the whole image. Images without
            detections need no entry. Their size is that of the mask; pycocotools takes the box's where a row has both.
        max_dets: how many of the best-scored detections of one class count in one image, one or more numbers >= 1.

    Raises:
        DatasetError: a row refers to an unknown image or category, its mask has another size than its image, or its score
            is not finite.
        ValueError: `max_dets` is empty or holds a number below 1.
    """
    return score_rows(ground_truth, detections, kind="mask", max_dets=max_dets)


def box_ap(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    *,
    max_dets: Sequence[int] = MAX_DETS,
) -> ApScores:
    """Score boxes: as `mask_ap`, with `bbox` (x, y, width, height) on both sides. Annotations may lack a mask; one without
    `bbox` has that of its mask."""
    return score_rows(ground_truth, detections, kind="box", max_dets=max_dets)
