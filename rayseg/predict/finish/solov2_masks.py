"""Masks of SOLOv2: soft ones at a quarter of the input cut to what matters, and from those the full ones as RLE.

PaddleX's program enlarges a mask of probabilities to the network's input, cuts off the padding, resizes the rest to the
image and compares with 0.5. Both steps are linear and treat rows and columns alike, so the pixels of any window are
`rows @ soft @ columns.T`, as in masks.py. SOLOv2 predicts no boxes: an object's box is what its mask covers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayseg import rle
from rayseg.geometry import Size, Window
from rayseg.predict.finish.masks import STRIP_PIXELS, linear_taps
from rayseg.rle import Rle

THRESHOLD = 0.5
STRIDE = 4
"""From the network's input to the soft masks."""
REACH = 2
"""A full-size pixel is made of soft pixels that lie at most so far apart."""


@dataclass(frozen=True, eq=False)
class SoftMask:
    """The part of one soft mask that decides which full-size pixels are set.

    Attributes:
        window: where it lies, in soft pixels.
        soft: float32 (window.height, window.width), probabilities.
    """

    window: Window
    soft: np.ndarray


def cut_soft_mask(soft: np.ndarray) -> SoftMask:
    """The surroundings of the pixels above the threshold: full-size pixels elsewhere cannot be set.

    Args:
        soft: float32 (h, w), probabilities at a quarter of the network's input.
    """
    found = extent(soft > THRESHOLD)
    if found.empty:
        return SoftMask(found, soft[found.slices])
    grown = Window(found.x0 - REACH, found.y0 - REACH, found.x1 + REACH, found.y1 + REACH).clip(Size(*soft.shape))
    return SoftMask(grown, soft[grown.slices])


def finish_soft_mask(mask: SoftMask, soft_size: Size, resized: Size, original: Size) -> tuple[Window, Rle]:
    """The full-image mask and the smallest window that holds it; see `enlarge_soft_mask`."""
    inside, pixels = enlarge_soft_mask(mask, soft_size, resized, original)
    return inside, rle.encode_in_window(pixels, inside, original)


def enlarge_soft_mask(mask: SoftMask, soft_size: Size, resized: Size, original: Size) -> tuple[Window, np.ndarray]:
    """The smallest window of the image that holds the full-size mask, and the mask there, bool (height, width).

    The window is empty for a mask without pixels.

    Args:
        soft_size: of the whole soft mask.
        resized: the top left part of the network's input that shows the image.
        original: of the image.
    """
    rows = _Axis(soft_size.height, resized.height, original.height)
    columns = _Axis(soft_size.width, resized.width, original.width)
    y0, y1 = rows.reached_from(mask.window.y0, mask.window.y1)
    x0, x1 = columns.reached_from(mask.window.x0, mask.window.x1)
    window = Window(x0, y0, x1, y1)
    hard = _pixels(mask, window, rows, columns)
    tight = extent(hard)
    return tight.shift(window.x0, window.y0) if not tight.empty else Window(0, 0, 0, 0), hard[tight.slices]


def extent(mask: np.ndarray) -> Window:
    """The smallest window that holds every pixel set of a bool (H, W); empty at the origin when there is none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Window(0, 0, 0, 0)
    return Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def to_size(mask: np.ndarray, size: Size) -> np.ndarray:
    """A mask (H', W') brought to another size, the nearest pixel for each; itself when it has that size."""
    if mask.shape == size.hw:
        return mask
    rows, columns = (
        (np.arange(wanted) * 2 + 1) * given // (2 * wanted) for given, wanted in zip(mask.shape, size.hw, strict=True)
    )
    return mask[rows[:, None], columns]


class _Axis:
    """Rows or columns: how each pixel of the image is made of soft pixels, by way of the network's input."""

    def __init__(self, soft: int, resized: int, original: int) -> None:
        near, far, share = linear_taps(resized, original, range(original))
        first, second, part = linear_taps(soft, soft * STRIDE, range(resized))
        self.taps = [(first[near], (1 - share) * (1 - part[near])), (second[near], (1 - share) * part[near])]
        self.taps += [(first[far], share * (1 - part[far])), (second[far], share * part[far])]
        self.lowest, self.highest = first[near], second[far]

    def reached_from(self, start: int, stop: int) -> tuple[int, int]:
        """Pixels of the image made of soft pixels [start, stop) alone, but for those it ends with at the border."""
        inside = np.flatnonzero((self.lowest >= start) & (self.highest < stop))
        return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)

    def matrix(self, start: int, stop: int, used: Window, *, upright: bool) -> np.ndarray:
        """float32 (stop - start, k): what pixels [start, stop) take from the k soft rows or columns of a window."""
        low, high = (used.y0, used.y1) if upright else (used.x0, used.x1)
        found = np.zeros((stop - start, high - low), dtype=np.float32)
        index = np.arange(stop - start)
        for pixel, weight in self.taps:
            found[index, pixel[start:stop] - low] += weight[start:stop]
        return found


def _pixels(mask: SoftMask, window: Window, rows: _Axis, columns: _Axis) -> np.ndarray:
    """The full-size mask inside a window, bool (height, width), in memory of the window and one strip."""
    transposed = np.zeros((window.width, window.height), dtype=bool)
    if window.empty:
        return transposed.T
    half = rows.matrix(window.y0, window.y1, mask.window, upright=True) @ mask.soft
    step = max(1, STRIP_PIXELS // window.height)
    for start in range(window.x0, window.x1, step):
        stop = min(start + step, window.x1)
        right = columns.matrix(start, stop, mask.window, upright=False)
        np.greater(right @ half.T, THRESHOLD, out=transposed[start - window.x0 : stop - window.x0])
    return transposed.T
