"""Objects of one image: which rows are kept, and their boxes, classes and masks under one index.

PaddleX filters masks by score alone and then reads them by their place in a list that has lost its degenerate boxes
as well, so after one such box every later mask belongs to another object. Here one index is made first and everything
is taken with it. How a mask is computed is for the other files of this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances
from rayseg.rle import Rle


def finish_boxes(
    spec: ModelSpec,
    raw: Raw,
    threshold: float,
    edges: np.ndarray,
    masks: Callable[[np.ndarray], Sequence[Rle]],
) -> Instances:
    """Objects whose score exceeds the threshold, boxes clipped to the image.

    Args:
        raw: `bbox` float32 (m, 6) begins with class and score.
        edges: float32 (m, 4): x0, y0, x1, y1 in original pixels, not clipped.
        masks: index of the rows to keep, int64 (k,) -> their k full-image masks.

    Raises:
        ModelError: a class id without a label.
    """
    bbox = raw.arrays["bbox"]
    boxes = clip_boxes(edges, raw.original)
    keep = kept_rows(bbox[:, 0], bbox[:, 1], boxes, threshold)
    class_ids = bbox[keep, 0].astype(np.int32)
    check_classes(spec, class_ids)
    return Instances(raw.original, boxes[keep], bbox[keep, 1], class_ids, tuple(masks(keep)))


def check_classes(spec: ModelSpec, class_ids: np.ndarray) -> None:
    """Raise ModelError for a class id without a label."""
    if len(class_ids) and class_ids.max() >= len(spec.labels):
        raise ModelError(f"{spec.name} found class {class_ids.max()}, its inference.yml has {len(spec.labels)} labels")


def kept_rows(class_ids: np.ndarray, scores: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
    """Index of the rows to keep: int64 (k,); score above the threshold, class not negative, box not degenerate."""
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return np.flatnonzero((scores > threshold) & (class_ids > -1) & real)


def clip_boxes(boxes: np.ndarray, size: Size) -> np.ndarray:
    """The part of each box inside the image, float32 (n, 4); width or height is 0 when there is none."""
    limits = np.asarray([size.width, size.height] * 2, dtype=np.float32)
    return np.clip(boxes, 0, limits)
