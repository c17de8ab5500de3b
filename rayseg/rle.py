"""Masks <-> COCO run-length encoding, without a full canvas where an object fills only its box.

COCO counts runs column by column, starting with zeros; the compressed form is pycocotools' own ASCII string, so every COCO
tool reads it. A mask inside a window becomes a full-image RLE in time and memory of the window, never of the image; many
masks are packed at once, since an image has a hundred small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from rayseg.geometry import Size, Window
from rayseg.rle_packing import pack_edges

_EDGES_AT_ONCE = 1 << 15  # packing takes some 50 bytes for each, and is fastest where that stays in a core's cache
_BLOCK = 256
_COCO_AT_ONCE = 255  # more masks make pycocotools 2.0 with numpy 2 raise an OverflowError: it puts their number into a uint8
_RUNS_AT_MOST = 1 << 20  # of a label map in one go, which takes some 60 bytes for each


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
    return encode_many([(mask, window)], size)[0]


def encode_many(masks: Iterable[tuple[np.ndarray, Window]], size: Size) -> list[Rle]:
    """`encode_in_window` of each; several times as fast for many, in memory of one window and of the runs of some masks.

    Args:
        masks: each with its window; asked for one after the other.
        size: of the image.

    Raises:
        ValueError: as there.
    """
    found: list[Rle] = []
    edges: list[np.ndarray] = []
    waiting = 0
    for mask, window in masks:
        edges.append(_edges(mask, window, size))
        waiting += len(edges[-1])
        if waiting > _EDGES_AT_ONCE:
            found += _rles(edges, size)
            edges, waiting = [], 0
    return found + _rles(edges, size)


def encode_classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Rle]]:
    """A mask for each class of a label map, from one look at its pixels where it is no noise.

    Args:
        labels: unsigned integers (H, W).

    Returns:
        The classes that occur, in order, int64 (k,); the smallest box around the pixels of each, int64 (k, 4): x0, y0,
        x1, y1; the masks.
    """
    size = Size(*labels.shape)
    turned = np.empty((size.width, size.height), dtype=labels.dtype)
    _turn(labels, turned)
    flat = turned.reshape(-1)
    changes = flat[1:] != flat[:-1]
    if np.count_nonzero(changes) > _RUNS_AT_MOST:
        return _class_by_class(labels)
    start = np.concatenate([[0], np.flatnonzero(changes) + 1])
    stop = np.append(start[1:], size.pixels)
    label = flat[start]
    classes = np.flatnonzero(np.bincount(label))
    order = np.argsort(label, kind="stable")
    edges = np.stack([start[order], stop[order]], axis=1)
    first = np.searchsorted(label[order], classes)
    masks: list[Rle] = []
    for some in _groups(np.split(edges, first[1:]), _EDGES_AT_ONCE):
        masks += _rles([own.reshape(-1) for own in some], size)
    return classes, _boxes(edges[:, 0], edges[:, 1], first, size.height), masks


def areas(masks: Sequence[Rle]) -> np.ndarray:
    """Number of pixels set in each, int64 (n,)."""
    coco = [mask.to_coco() for mask in masks]
    found = [coco_mask.area(coco[i : i + _COCO_AT_ONCE]) for i in range(0, len(coco), _COCO_AT_ONCE)]
    return np.concatenate([np.empty(0, dtype=np.int64), *found], dtype=np.int64, casting="unsafe")


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


def _edges(mask: np.ndarray, window: Window, size: Size) -> np.ndarray:
    """Where runs of ones begin and end, in turn, in flat column-major positions of the image."""
    if mask.shape != (window.height, window.width):
        raise ValueError(f"mask of shape {mask.shape} does not fill {window}")
    if window.clip(size) != window:
        raise ValueError(f"{window} leaves the image of {size}")
    tall = window.height + 1  # a zero below each column ends every run there
    flat = np.zeros(1 + window.width * tall, dtype=bool)
    _turn(mask, flat[1:].reshape(window.width, tall)[:, :-1])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    edges += edges // tall * (size.height - tall)
    edges += window.x0 * size.height + window.y0
    return edges


def _turn(source: np.ndarray, out: np.ndarray) -> None:
    """out[:] = source.T, block by block: each then fits into a cache, which makes large ones four times as fast."""
    for y in range(0, source.shape[0], _BLOCK):
        for x in range(0, source.shape[1], _BLOCK):
            out[x : x + _BLOCK, y : y + _BLOCK] = source[y : y + _BLOCK, x : x + _BLOCK].T


def _rles(edges: Sequence[np.ndarray], size: Size) -> list[Rle]:
    """Masks of one image from the edges of each."""
    if not edges:
        return []
    text, ends = pack_edges(np.concatenate(edges), np.asarray([len(some) for some in edges]), np.full(len(edges), size.pixels))
    return [Rle(size, text[a:b]) for a, b in pairwise(ends.tolist())]


def _class_by_class(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Rle]]:
    """`encode_classes` in memory of one mask, for label maps that are noise."""
    classes, boxes, masks = np.unique(labels).astype(np.int64), [], []
    for class_id in classes:
        mask = labels == class_id
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        masks.append(encode(mask))
    return classes, np.asarray(boxes, dtype=np.int64), masks


def _boxes(start: np.ndarray, stop: np.ndarray, first: np.ndarray, height: int) -> np.ndarray:
    """The smallest box around each group of runs, of which `first` are the first: int64 (k, 4)."""
    left, top = np.divmod(start, height)
    right, bottom = np.divmod(stop - 1, height)
    turns = left != right  # such a run reaches the lowest row of one column and the highest of the next
    top[turns], bottom[turns] = 0, height - 1
    low, high = np.minimum.reduceat, np.maximum.reduceat
    return np.stack([low(left, first), low(top, first), high(right, first) + 1, high(bottom, first) + 1], axis=1)


def _groups(parts: Iterable[np.ndarray], most: int) -> Iterator[list[np.ndarray]]:
    """Neighbours that together have no more than `most` elements, or are one."""
    group: list[np.ndarray] = []
    for part in parts:
        if group and sum(some.size for some in group) + part.size > most:
            yield group
            group = []
        group.append(part)
    yield group
