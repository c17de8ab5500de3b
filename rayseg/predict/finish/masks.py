"""Masks of objects from prototypes, each inside its own box, straight to RLE; never a full canvas.

PaddleX's program for PP-YOLOE_seg makes a mask at the size of the prototypes, enlarges it to the network's input,
sets what lies outside the box to zero, enlarges that to the original image and compares with 0.5. Every step after
the sigmoid is linear and treats rows and columns alike, so the pixels of any window are `rows @ mask @ columns.T`,
with two thin matrices that hold both enlargements and the box. We make those for the pixels of the box alone. Which
objects are kept is decided elsewhere (finish/instance.py).
"""

from __future__ import annotations

import numpy as np

from rayseg import rle
from rayseg.geometry import Box, Size, Window
from rayseg.rle import Rle

STRIP_PIXELS = 1 << 19
"""A mask is computed in strips of columns of about this many pixels (2 MB of float32)."""


def lean_masks(
    coefficients: np.ndarray,
    prototypes: np.ndarray,
    boxes_net_xyxy: np.ndarray,
    input_size: Size,
    original: Size,
    *,
    resized: Size | None = None,
) -> list[Rle]:
    """Full-image masks of all objects of one image.

    A mask is cut to its box as PaddleX cuts it: edges in original pixels, clipped to the image, rounded half to even,
    right and bottom exclusive. A box that rounds to nothing has an empty mask.

    Args:
        coefficients: float32 (n, P), weights of the prototypes.
        prototypes: float32 (P, h, w).
        boxes_net_xyxy: float32 (n, 4), pixels of the network's input.
        input_size: of the network's input, padding included.
        original: of the image the masks are for.
        resized: the top left part of the input that shows the image; None when there is no padding.

    Returns:
        n masks in the order of the boxes.
    """
    resized = resized or input_size
    rows = _Axis(prototypes.shape[1], input_size.height, resized.height, original.height)
    columns = _Axis(prototypes.shape[2], input_size.width, resized.width, original.width)
    import cv2  # reading a model directory needs no OpenCV

    # A box is then a few whole rows, read without a copy.
    planes = cv2.transpose(prototypes.reshape(len(prototypes), -1)).reshape(*prototypes.shape[1:], -1)
    edges = boxes_in_original(boxes_net_xyxy, resized, original).astype(np.float64)
    windows = [Box(*ends).clip(original).rounded_window() for ends in edges.tolist()]
    inside = (
        _mask_in_window(weights, planes, box, window, rows, columns)
        for weights, box, window in zip(coefficients, boxes_net_xyxy, windows, strict=True)
    )
    return rle.encode_many(zip(inside, windows, strict=True), original)


def boxes_in_original(boxes_net_xyxy: np.ndarray, resized: Size, original: Size) -> np.ndarray:
    """Boxes in pixels of the original image, not clipped: float32 (n, 4) divided by resized / original in float32."""
    scale = np.asarray([resized.width / original.width, resized.height / original.height], dtype=np.float32)
    return boxes_net_xyxy / np.tile(scale, 2)


class _Axis:
    """Rows or columns: how each pixel of the original is made of prototype pixels, by way of the network's input."""

    def __init__(self, prototype: int, net: int, resized: int, original: int) -> None:
        # The whole input is enlarged by the image's scale and then cut, so padding is enlarged and falls off.
        enlarged = round(net * original / resized)
        first, second, part = linear_taps(prototype, net, range(net))
        near, far, share = linear_taps(net, enlarged, range(original))
        self.lowest, self.highest = first[near], second[far]
        self.taps = []  # pixel of the input, of the prototype, and weight
        for pixel, weight in ((near, 1 - share), (far, share)):
            self.taps += [(pixel, first[pixel], weight * (1 - part[pixel])), (pixel, second[pixel], weight * part[pixel])]

    def matrix(self, start: int, stop: int, box_start: float, box_stop: float) -> tuple[np.ndarray, slice]:
        """float32 (stop - start, k): what original pixels [start, stop) take from each prototype pixel of the slice.

        Pixels of the network's input whose index is outside [box_start, box_stop) count as zero.
        """
        used = slice(int(self.lowest[start]), int(self.highest[stop - 1]) + 1)
        matrix = np.zeros((stop - start, used.stop - used.start), dtype=np.float32)
        flat, first = matrix.reshape(-1), np.arange(stop - start) * matrix.shape[1] - used.start
        for pixel, place, weight in self.taps:
            inside = (pixel[start:stop] >= box_start) & (pixel[start:stop] < box_stop)
            flat[first + place[start:stop]] += weight[start:stop] * inside
        return matrix, used


def linear_taps(size_in: int, size_out: int, wanted: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear interpolation with pixel centres at +0.5: for each output its two inputs and the share of the second.

    Paddle's rule for `align_corners=False, align_mode=0`: the ratio is float32, positions before the first centre
    clamp to it.
    """
    ratio = float(np.float32(size_in) / np.float32(size_out))
    position = np.clip(ratio * (np.arange(wanted.start, wanted.stop) + 0.5) - 0.5, 0, size_in - 1)
    first = position.astype(np.int64)
    return first, np.minimum(first + 1, size_in - 1), (position - first).astype(np.float32)


def _mask_in_window(
    weights: np.ndarray, planes: np.ndarray, box: np.ndarray, window: Window, rows: _Axis, columns: _Axis
) -> np.ndarray:
    """The mask inside its window, bool (height, width), in memory of the window and one strip."""
    transposed = np.zeros((window.width, window.height), dtype=bool)
    if window.empty:
        return transposed.T
    left, used_rows = rows.matrix(window.y0, window.y1, box[1], box[3])
    step = max(1, STRIP_PIXELS // window.height)
    for start in range(window.x0, window.x1, step):
        stop = min(start + step, window.x1)
        right, used_columns = columns.matrix(start, stop, box[0], box[2])
        soft = _sigmoid(planes[used_rows, used_columns] @ weights)
        np.greater(right @ (left @ soft).T, 0.5, out=transposed[start - window.x0 : stop - window.x0])
    return transposed.T


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5
