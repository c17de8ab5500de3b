"""Objects of one image: which rows are kept, and their boxes, classes and masks under one index.

PaddleX filters masks by score alone and then reads them by their place in a list that has lost its degenerate boxes
as well, so after one such box every later mask belongs to another object. Here one index is made first and everything
is taken with it. How a mask is computed is masks.py's.
"""

from __future__ import annotations

import numpy as np

from rayseg import rle
from rayseg.errors import ModelError
from rayseg.geometry import Box, Size
from rayseg.predict.finish.masks import boxes_in_original, lean_masks
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances
from rayseg.rle import Rle


def finish_instance(spec: ModelSpec, raw: Raw, *, threshold: float) -> Instances:
    """Objects whose score exceeds the threshold, boxes clipped to the image, masks cut to their boxes.

    Raises:
        ModelError: a class id without a label.
        ValueError: the threshold is below `raw.min_score`.
    """
    if threshold < raw.min_score:
        raise ValueError(f"threshold {threshold} is below {raw.min_score}, the score these outputs were already cut at")
    bbox = raw.arrays["bbox"]
    edges = bbox[:, 2:]
    if spec.flavour == "lean":
        edges = boxes_in_original(edges, raw.resized, raw.original)
    boxes = clip_boxes(edges, raw.original)
    keep = kept_rows(bbox[:, 0], bbox[:, 1], boxes, threshold)
    class_ids = bbox[keep, 0].astype(np.int32)
    if len(keep) and class_ids.max() >= len(spec.labels):
        raise ModelError(f"{spec.name} found class {class_ids.max()}, its inference.yml has {len(spec.labels)} labels")
    masks = _lean(raw, keep) if spec.flavour == "lean" else _paddlex(raw, keep, boxes)
    return Instances(raw.original, boxes[keep], bbox[keep, 1], class_ids, tuple(masks))


def kept_rows(class_ids: np.ndarray, scores: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
    """Index of the rows to keep: int64 (k,); score above the threshold, class not negative, box not degenerate."""
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return np.flatnonzero((scores > threshold) & (class_ids > -1) & real)


def clip_boxes(boxes: np.ndarray, size: Size) -> np.ndarray:
    """The part of each box inside the image, float32 (n, 4); width or height is 0 when there is none."""
    limits = np.asarray([size.width, size.height] * 2, dtype=np.float32)
    return np.clip(boxes, 0, limits)


def _lean(raw: Raw, keep: np.ndarray) -> list[Rle]:
    if not len(keep):
        return []
    arrays = raw.arrays
    return lean_masks(
        arrays["coefficients"][keep],
        arrays["prototypes"],
        arrays["bbox"][keep, 2:],
        raw.network,
        raw.original,
        resized=raw.resized,
    )


def _paddlex(raw: Raw, keep: np.ndarray, boxes: np.ndarray) -> list[Rle]:
    """Masks as the program made them; where it cut the size off instead of rounding it, the rest is no object's."""
    bits, width = raw.arrays["mask_bits"], int(raw.arrays["mask_width"][0])
    made = Size(min(bits.shape[1], raw.original.height), min(width, raw.original.width))
    found = []
    for i in keep:
        window = Box(*boxes[i].tolist()).rounded_window().clip(made)
        rows = np.unpackbits(bits[i, window.y0 : window.y1], axis=1, count=width)
        found.append(rle.encode_in_window(rows[:, window.x0 : window.x1], window, raw.original))
    return found
