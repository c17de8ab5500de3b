"""Masks of objects from the small masks of the R-CNN family, each inside its own box, straight to RLE.

PaddleX's program samples the small mask on a grid over the whole image, pixel centres at +0.5, and compares with 0.5;
beyond the mask's border cells count as 0, so no pixel outside the box can reach that. A pixel's value is the bilinear
mean of four cells, which treats rows and columns alike: the pixels of any window are `rows @ mask @ columns.T`, with two
thin matrices. We make those for the pixels of the box alone. Which objects are kept is instance.py's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rayseg import rle
from rayseg.geometry import Box, Size, Window
from rayseg.rle import Rle

THRESHOLD = np.float32(0.5)
"""A pixel at or above it belongs to the object."""
STRIP_PIXELS = 1 << 19
"""A mask is computed in strips of columns of about this many pixels (2 MB of float32)."""


def pasted_masks(probabilities: np.ndarray, boxes_xyxy: np.ndarray, size: Size) -> list[Rle]:
    """Full-image masks of all objects of one image, in memory of one box and one strip.

    A mask is cut to its box as PaddleX cuts it: edges rounded half to even, right and bottom exclusive. A box that
    rounds to nothing has an empty mask.

    Args:
        probabilities: float32 (n, s, s), over the box.
        boxes_xyxy: float32 (n, 4), pixels of the image, clipped to it.
        size: of the image.

    Returns:
        n masks in the order of the boxes.
    """
    windows = [Box(*box).rounded_window() for box in boxes_xyxy.tolist()]
    inside = (_in_window(*one) for one in zip(probabilities, boxes_xyxy, windows, strict=True))
    return rle.encode_many(zip(inside, windows, strict=True), size)


def _in_window(mask: np.ndarray, box: np.ndarray, window: Window) -> np.ndarray:
    """The enlarged mask, bool (height, width)."""
    transposed = np.zeros((window.width, window.height), dtype=bool)
    if window.empty:
        return transposed.T
    rows = _shares(window.y0, window.y1, box[1], box[3], mask.shape[0]) @ mask
    for start, stop in _strips(window):
        columns = _shares(start, stop, box[0], box[2], mask.shape[1])
        np.greater_equal(columns @ rows.T, THRESHOLD, out=transposed[start - window.x0 : stop - window.x0])
    return transposed.T


def _strips(window: Window) -> Iterator[tuple[int, int]]:
    """Columns [start, stop) of the window, a strip at a time."""
    step = max(1, STRIP_PIXELS // window.height)
    for start in range(window.x0, window.x1, step):
        yield start, min(start + step, window.x1)


def _shares(first: int, last: int, start: np.float32, stop: np.float32, cells: int) -> np.ndarray:
    """What pixels [first, last) take of each of `cells` cells between start and stop: float32 (last - first, cells)."""
    centres = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    # In float32 and in the order in which the program rounds: to [-1, 1] first, then to cells.
    unit = (centres - start) / (stop - start) * 2 - 1
    cell = ((unit + 1) * cells - 1) / 2
    return np.maximum(1 - np.abs(cell[:, None] - np.arange(cells, dtype=np.float32)), 0)
