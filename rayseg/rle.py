"""Masks <-> COCO run-length encoding, without a full canvas where an object fills only its box.

COCO counts runs column by column, starting with zeros; the compressed form is pycocotools' own ASCII string, so every COCO
tool reads it. A mask inside a window becomes a full-image RLE in time and memory of the window, never of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from rayseg.geometry import Size, Window


@dataclass(frozen=True)
class Rle:
    """One binary mask. `counts` is COCO's compressed string as bytes, for an image of `size`."""

    size: Size
    counts: bytes

    def to_coco(self) -> dict[str, Any]:
        """The dict pycocotools takes; `counts` stays bytes."""
        return {"size": list(self.size.hw), "counts": self.counts}

    @property
    def area(self) -> int:
        """Number of pixels set."""
        return int(coco_mask.area(self.to_coco()))

    @property
    def extent(self) -> Window:
        """A window that holds every pixel set; empty for an empty mask.

        It is the smallest one, but for masks with a run that goes on from one column to the next: full height.
        """
        x, y, width, height = (int(v) for v in coco_mask.toBbox(self.to_coco()))
        return Window(x, y, x + width, y + height)


def encode(mask: np.ndarray) -> Rle:
    """RLE of a full mask.

    Args:
        mask: (H, W), bool or integer; non-zero belongs to the object.
    """
    height, width = mask.shape
    found = coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return Rle(Size(height, width), found["counts"])


def encode_in_window(mask: np.ndarray, window: Window, size: Size) -> Rle:
    """RLE of an image that is empty but for one window.

    Args:
        mask: (window.height, window.width), bool or integer; non-zero belongs to the object.
        window: where the mask lies; must be inside the image.
        size: of the image.

    Returns:
        The same as `encode` of the full canvas.

    Raises:
        ValueError: the mask does not have the window's shape, or the window leaves the image.
    """
    if mask.shape != (window.height, window.width):
        raise ValueError(f"mask of shape {mask.shape} does not fill {window}")
    if window.clip(size) != window:
        raise ValueError(f"{window} leaves the image of {size}")
    if window.width == size.width and window.height == size.height:
        return encode(mask)
    return Rle(size, _compress(_run_lengths(mask, window, size), size))


def decode(rle: Rle) -> np.ndarray:
    """Full mask, bool (H, W), C order."""
    return np.ascontiguousarray(coco_mask.decode(rle.to_coco())).astype(bool)


def decode_window(rle: Rle, window: Window) -> np.ndarray:
    """The part of a mask inside a window, bool (window.height, window.width), in memory of the window.

    Raises:
        ValueError: the window leaves the image.
    """
    if window.clip(rle.size) != window:
        raise ValueError(f"{window} leaves the image of {rle.size}")
    out = np.zeros((window.width, window.height), dtype=bool)
    if window.empty:
        return out.T
    edges = np.cumsum(run_lengths(rle))
    first, last = window.x0 * rle.size.height, window.x1 * rle.size.height
    for start, stop in zip(edges[0::2].tolist(), edges[1::2].tolist(), strict=False):
        if stop <= first:
            continue
        if start >= last:
            break
        _paint(out, max(start, first), min(stop, last), window, rle.size.height)
    return out.T


def run_lengths(rle: Rle) -> np.ndarray:
    """Uncompressed counts, int64: lengths of runs of zeros and ones in turn, column by column, zeros first.

    The packing is that of COCO's maskApi: groups of five bits with a continuation bit, each count from the fourth on stored
    as the difference to the one two before.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for byte in rle.counts:
        bits = byte - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value, shift = 0, 0
    return np.asarray(counts, dtype=np.int64)


def _paint(out: np.ndarray, start: int, stop: int, window: Window, height: int) -> None:
    """Set the pixels of one run, given in flat column-major positions of the image, in a (width, height) window."""
    c0, r0 = divmod(start, height)
    c1, r1 = divmod(stop - 1, height)
    for column in range(c0, c1 + 1):
        top = r0 if column == c0 else 0
        bottom = r1 + 1 if column == c1 else height
        out[column - window.x0, max(top - window.y0, 0) : max(bottom - window.y0, 0)] = True


def _run_lengths(mask: np.ndarray, window: Window, size: Size) -> np.ndarray:
    """Counts of the full image from the pixels of one window."""
    padded = np.zeros((window.width, window.height + 2), dtype=np.int8)
    padded[:, 1:-1] = (mask != 0).T
    column, row = np.nonzero(np.diff(padded, axis=1))
    flat = (column + window.x0) * size.height + row + window.y0
    # A run that reaches the bottom edge and goes on at the top of the next column is one run: its end equals the next start.
    joined = np.flatnonzero(flat[1:-1:2] == flat[2::2]) if flat.size > 2 else np.empty(0, dtype=np.int64)
    flat = np.delete(flat, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    edges = np.concatenate([[0], flat, [size.pixels]])
    counts = np.diff(edges)
    return counts[:-1] if counts[-1] == 0 else counts


def _compress(counts: np.ndarray, size: Size) -> bytes:
    found = coco_mask.frPyObjects({"size": list(size.hw), "counts": counts.tolist()}, *size.hw)
    return bytes(found["counts"])
