"""Mask AP of a network on a COCO set, image by image, prepared and finished by the functions that predicting uses.

The network is one in this process (`forward_lean`), as in the middle of training; how masks are scored is
metrics/mask_ap.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

from rayseg.datasets.coco import CocoInstances
from rayseg.datasets.sample import Sample
from rayseg.geometry import Size
from rayseg.metrics.mask_ap import MaskAP, mask_ap
from rayseg.predict.finish.instance import clip_boxes, kept_rows
from rayseg.predict.finish.masks import boxes_in_original, lean_masks
from rayseg.predict.preprocess import CUBIC, Normalize, Permute, Resize

MAX_DETS = (10, 100, 300)
"""Detections per image that count; COCO's 100 would cap the recall of crowded microscope images."""
UNIT_RANGE = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def evaluate(
    model: nn.Layer,
    dataset: CocoInstances,
    *,
    input_px: int,
    score_threshold: float = 0.0,
    samples: Sequence[Sample] | None = None,
    max_dets: Sequence[int] = MAX_DETS,
) -> MaskAP:
    """Mask AP of a network with `forward_lean`, which must be in eval mode.

    Args:
        dataset: its images and the masks to find.
        input_px: side of the network's square input.
        score_threshold: objects must exceed it. AP needs them all; a small threshold saves time while training.
        samples: the dataset's samples in order, where they are in memory already.
        max_dets: see `mask_ap`; every AP uses the largest.
    """
    found: list[dict[str, Any]] = []
    for entry, sample in zip(dataset.images, samples if samples is not None else dataset, strict=True):
        for row in detect(model, sample.image, input_px=input_px, score_threshold=score_threshold):
            category_id = dataset.category_ids[row.pop("class_id")]
            found.append(row | {"image_id": entry.image_id, "category_id": category_id})
    return mask_ap(dataset.ground_truth, found, max_dets=max_dets)


def detect(model: nn.Layer, image: np.ndarray, *, input_px: int, score_threshold: float = 0.0) -> list[dict[str, Any]]:
    """Objects of one uint8 (H, W, 3) RGB image, best first: dicts with class_id, score and segmentation (COCO RLE)."""
    original, network = Size(*image.shape[:2]), Size(input_px, input_px)
    for step in (Resize(network, interpolation=CUBIC), UNIT_RANGE, Permute()):
        image = step.apply(image)
    with paddle.no_grad():
        rows, _, weights, prototypes = (out.numpy() for out in model.forward_lean(paddle.to_tensor(image[None])))
    boxes = clip_boxes(boxes_in_original(rows[:, 2:], network, original), original)
    keep = kept_rows(rows[:, 0], rows[:, 1], boxes, score_threshold)
    masks = lean_masks(weights[keep], prototypes[0], rows[keep, 2:], network, original)
    return [
        {"class_id": int(class_id), "score": float(score), "segmentation": mask.to_coco()}
        for (class_id, score), mask in zip(rows[keep, :2], masks, strict=True)
    ]
