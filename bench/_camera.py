"""JPEGs as cameras make them, and what a job makes of one, whole and with `--scaled-decode`."""

from __future__ import annotations

import cv2
import numpy as np

from rayseg import images
from rayseg.geometry import Size
from rayseg.predict.prepare import Prepared, first_size, prepare
from rayseg.predict.spec import ModelSpec


def photograph(height: int, width: int) -> bytes:
    """A JPEG of about 0.25 bytes a pixel, as photographs have: noise, blurred, in several scales."""
    rng = np.random.default_rng(0)
    image = np.zeros((height, width, 3), np.float32)
    for scale in (4, 16, 64):
        coarse = rng.uniform(0, 85, (height // scale + 1, width // scale + 1, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return jpeg(image, quality=90)


def jpeg(bgr: np.ndarray, *, quality: int) -> bytes:
    """Values beyond 0 to 255 are cut."""
    return cv2.imencode(".jpg", np.clip(bgr, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def ready(spec: ModelSpec, data: bytes, *, scaled: bool, original: Size | None = None) -> Prepared:
    """A JPEG decoded and resized as a job does it.

    Args:
        original: size that results shall have; None is the JPEG's.
    """
    header = images.jpeg_header(data)
    assert header is not None
    size = Size(header.height, header.width)
    factor = images.reduction(size.hw, first_size(spec, size).hw) if scaled else 1
    return prepare(spec, images.decode(data, reduce=factor), original=original or size)
