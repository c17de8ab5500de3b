"""Samples whose pixels say where they come from."""

from __future__ import annotations

import cv2
import numpy as np

from rayseg.datasets.sample import Sample, SemanticSample, tight_patch
from rayseg.geometry import Size


def coordinate_image(size: Size) -> np.ndarray:
    """uint8 (H, W, 3): column, row, and 200 everywhere. For sides up to 250."""
    rows, columns = np.mgrid[: size.height, : size.width]
    return np.stack([columns, rows, np.full(size.hw, 200)], axis=2).astype(np.uint8)


def discs(seed: int, *, height: int = 70, width: int = 90, spacing: int = 24) -> Sample:
    """White discs that do not touch, on black: the image itself says where the objects are."""
    rng = np.random.default_rng(seed)
    patches = []
    for x in range(14, width - 10, spacing):
        for y in range(14, height - 10, spacing):
            canvas = np.zeros((height, width), np.uint8)
            cv2.circle(canvas, (x, y), int(rng.integers(4, 10)), 1, -1)
            patches.append(tight_patch(canvas))
    image = np.zeros((height, width, 3), np.uint8)
    for patch in patches:
        image[patch.window.slices][patch.bits] = 255
    return Sample(image, tuple(patches), np.arange(len(patches)), f"discs {seed}")


def stripes(size: Size) -> SemanticSample:
    """Labels are the column, in an image that has the column in red."""
    image = coordinate_image(size)
    return SemanticSample(image, image[..., 0].copy(), "stripes")
