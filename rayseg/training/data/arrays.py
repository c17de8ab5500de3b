"""A sample as a handful of flat arrays, which travel between processes and through Ray Data without a class of ours.

Masks are eight pixels a byte, one after another, each cut to its window.
"""

from __future__ import annotations

import numpy as np

from rayseg.datasets.sample import Patch, Sample, SemanticSample
from rayseg.geometry import Window

Arrays = dict[str, np.ndarray]


def pack(sample: Sample, scale: tuple[float, float]) -> Arrays:
    """Everything a batch needs of one image.

    Args:
        scale: size of the picture / size of what it shows, of height and width.

    Returns:
        image uint8 (H, W, 3); scale_factor float32 (2,); windows int32 (G, 4), xyxy; classes int64 (G,); bits uint8 (B,).
    """
    flat = [patch.bits.ravel() for patch in sample.masks]
    return {
        "image": sample.image,
        "scale_factor": np.asarray(scale, dtype=np.float32),
        "windows": sample.boxes_xyxy.astype(np.int32),
        "classes": sample.classes.astype(np.int64),
        "bits": np.packbits(np.concatenate(flat) if flat else np.empty(0, dtype=bool)),
    }


def pack_labels(sample: SemanticSample) -> Arrays:
    """image uint8 (H, W, 3) and labels uint8 (H, W)."""
    return {"image": sample.image, "labels": sample.labels}


def unpack_masks(arrays: Arrays) -> list[Patch]:
    """The masks of `pack`."""
    windows = [Window(*row) for row in arrays["windows"].reshape(-1, 4).tolist()]
    areas = [window.height * window.width for window in windows]
    flat = np.unpackbits(arrays["bits"], count=sum(areas)).view(bool)
    parts = np.split(flat, np.cumsum(areas)[:-1]) if windows else []
    return [Patch(w, part.reshape(w.height, w.width)) for w, part in zip(windows, parts, strict=True)]
