"""Masks from coarse logits: cut to what an object's box needs, and enlarged inside the box, straight to RLE.

PaddleX's program for Mask-RT-DETR enlarges each mask from a quarter of the network's input to the image, keeps what is
above 0 (probability 0.5), and PaddleX then cuts it to the object's box. A pixel is made of four coarse ones around it, so
the part of the coarse mask under the box, with its border, is all that has to be kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rayseg import rle
from rayseg.geometry import Box, Size, Window
from rayseg.predict.finish.instance import clip_boxes
from rayseg.predict.finish.masks import linear_taps
from rayseg.rle import Rle

STRIP_PIXELS = 1 << 16
"""A mask is enlarged in strips of columns of about this many pixels: two arrays of them stay in a core's own cache."""


@dataclass(frozen=True, eq=False)
class CoarsePart:
    """The part of a coarse mask that decides which pixels inside a box are set.

    Attributes:
        window: where it lies, in coarse pixels.
        logits: float32 (window.height, window.width); above 0 belongs to the object.
    """

    window: Window
    logits: np.ndarray


class CoarseGrid:
    """How the pixels of an image are made of the pixels of a coarse mask that covers it.

    Args:
        coarse: size of the whole coarse mask.
        original: of the image.
    """

    def __init__(self, coarse: Size, original: Size) -> None:
        self.original = original
        self._rows = linear_taps(coarse.height, original.height, range(original.height))
        self._columns = linear_taps(coarse.width, original.width, range(original.width))

    def cut(self, logits: np.ndarray, window: Window) -> CoarsePart:
        """What of a coarse mask, float32 (h, w), the pixels of a window of the image are made of."""
        if window.empty:
            return CoarsePart(Window(0, 0, 0, 0), logits[:0, :0])
        (near_y, far_y, _), (near_x, far_x, _) = self._rows, self._columns
        used = Window(
            int(near_x[window.x0]),
            int(near_y[window.y0]),
            int(far_x[window.x1 - 1]) + 1,
            int(far_y[window.y1 - 1]) + 1,
        )
        return CoarsePart(used, logits[used.slices])

    def enlarge(self, part: CoarsePart, window: Window) -> Rle:
        """The full-image mask, empty outside the window the part was cut for; memory of the window."""
        return self.enlarge_many([(part, window)])[0]

    def enlarge_many(self, parts: Iterable[tuple[CoarsePart, Window]]) -> list[Rle]:
        """`enlarge` of each, in memory of one window at a time."""
        return rle.encode_many(((self._pixels(part, window), window) for part, window in parts), self.original)

    def _pixels(self, part: CoarsePart, window: Window) -> np.ndarray:
        """bool (window.height, window.width)."""
        if window.empty:
            return np.zeros((window.height, window.width), dtype=bool)
        rows, columns = (
            (near[start:stop] - first, far[start:stop] - first, share[start:stop])
            for (near, far, share), start, stop, first in (
                (self._rows, window.y0, window.y1, part.window.y0),
                (self._columns, window.x0, window.x1, part.window.x0),
            )
        )
        import cv2  # reading a model directory needs no OpenCV

        return _above_zero(cv2.transpose(_between(part.logits, rows)), columns).T  # numpy takes four times as long to turn it


def windows_of(boxes_xyxy: np.ndarray, original: Size) -> list[Window]:
    """The pixels PaddleX leaves of masks: boxes clipped to the image, edges rounded half to even; empty if reversed.

    Args:
        boxes_xyxy: float32 (n, 4), pixels of the original image.
    """
    clipped = clip_boxes(boxes_xyxy, original)
    clipped[:, 2:] = np.maximum(clipped[:, 2:], clipped[:, :2])
    return [Box(*edges).rounded_window().clip(original) for edges in clipped.astype(np.float64).tolist()]


def _between(values: np.ndarray, taps: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Rows interpolated between the rows of `values`."""
    near, far, share = taps
    found, other = values[near], values[far]
    found *= (1 - share)[:, None]
    other *= share[:, None]
    found += other
    return found


def _above_zero(values: np.ndarray, taps: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """`_between(values, taps) > 0`, in memory of the result and one strip."""
    found = np.empty((len(taps[0]), values.shape[1]), dtype=bool)
    step = max(1, STRIP_PIXELS // values.shape[1])
    for start in range(0, len(found), step):
        strip = slice(start, start + step)
        near, far, share = taps
        np.greater(_between(values, (near[strip], far[strip], share[strip])), 0, out=found[strip])
    return found
