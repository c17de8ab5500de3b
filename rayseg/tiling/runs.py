"""Many masks at once, as vertical runs of pixels in numpy arrays: what seams are searched and objects are joined with.

An item is one mask of many; what an item stands for (a fragment, a fragment's part in a strip, an object) is the caller's
business. Coordinates are scene pixels. Everything here costs time and memory of the runs, never of a canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayseg.rle_packing import pack_edges
from rayseg.tiling.groups import expand, first_of_each

_FIVE_BITS, _MORE, _SIGN, _ASCII = 0x1F, 0x20, 0x10, 48


@dataclass(frozen=True, eq=False)
class Runs:
    """Vertical runs [y0, y1) of pixels at column x, sorted by (item, x, y0); runs of one item do not overlap.

    Attributes:
        item, x, y0, y1: int64 (n,).
    """

    item: np.ndarray
    x: np.ndarray
    y0: np.ndarray
    y1: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    @property
    def lengths(self) -> np.ndarray:
        """Pixels of each run."""
        return self.y1 - self.y0

    def areas(self, n_items: int) -> np.ndarray:
        """Pixels of each item, int64 (n_items,)."""
        return sums(self.item, self.lengths, n_items)

    def select(self, keep: np.ndarray) -> Runs:
        """The runs of one bool vector."""
        return Runs(self.item[keep], self.x[keep], self.y0[keep], self.y1[keep])

    def take(self, items: np.ndarray) -> Runs:
        """The runs of some items, any of them several times; item i of the answer is `items[i]`."""
        starts = np.searchsorted(self.item, items, "left")
        which, index = expand(starts, np.searchsorted(self.item, items, "right"))
        return Runs(which, self.x[index], self.y0[index], self.y1[index])

    def clip(self, windows: np.ndarray) -> Runs:
        """The part of each item inside its window, int64 (n_items, 4)."""
        x0, top, x1, bottom = windows[self.item].T
        y0, y1 = np.maximum(self.y0, top), np.minimum(self.y1, bottom)
        return Runs(self.item, self.x, y0, y1).select((y0 < y1) & (self.x >= x0) & (self.x < x1))

    def enlarge(self, factor: int) -> Runs:
        """The same masks with every pixel grown to factor x factor pixels."""
        run = np.repeat(np.arange(len(self)), factor)
        x = self.x[run] * factor + np.tile(np.arange(factor), len(self))
        order = np.lexsort((self.y0[run], x, self.item[run]))
        run = run[order]
        return Runs(self.item[run], x[order], self.y0[run] * factor, self.y1[run] * factor)

    def windows(self, n_items: int) -> np.ndarray:
        """The smallest window of each item, int64 (n_items, 4); zeros where an item has no pixel."""
        out = np.zeros((n_items, 4), dtype=np.int64)
        first = first_of_each(self.item)
        if first.size:
            items = self.item[first]
            out[items, 0] = self.x[first]
            out[items, 2] = self.x[np.concatenate([first[1:], [len(self)]]) - 1] + 1
            out[items, 1] = np.minimum.reduceat(self.y0, first)
            out[items, 3] = np.maximum.reduceat(self.y1, first)
        return out


def union(item: np.ndarray, x: np.ndarray, y0: np.ndarray, y1: np.ndarray) -> Runs:
    """Runs in any order, overlapping or not, as the runs of their pixels; those that touch within a column become one."""
    if not item.size:
        return Runs(item, x, y0, y1)
    order = np.lexsort((y0, x, item))
    item, x, y0, y1 = item[order], x[order], y0[order], y1[order]
    top = y0.min()
    span = y1.max() - top + 1
    column = np.cumsum(np.concatenate([[0], (np.diff(item) != 0) | (np.diff(x) != 0)])) * span
    reach = np.maximum.accumulate(column + y1 - top)
    first = np.flatnonzero(np.concatenate([[True], (column + y0 - top)[1:] > reach[:-1]]))
    last = np.concatenate([first[1:], [item.size]]) - 1
    return Runs(item[first], x[first], y0[first], reach[last] - column[last] + top)


def meet(a: Runs, b: Runs, items_a: np.ndarray, items_b: np.ndarray, *, dx: int = 0) -> tuple[np.ndarray, ...]:
    """Where pairs of items share rows of a column.

    Args:
        items_a, items_b: int64 (n,), pair i is item items_a[i] of `a` and items_b[i] of `b`.
        dx: compare column x of `a` with column x + dx of `b`.

    Returns:
        Number of the pair, run of `a`, run of `b`, and shared rows, one entry for each two runs that meet.
    """
    starts = np.searchsorted(a.item, items_a, "left")
    pair, run = expand(starts, np.searchsorted(a.item, items_a, "right"))
    if not run.size or not len(b):
        return tuple(np.empty(0, dtype=np.int64) for _ in range(4))
    left, top = min(a.x.min() + dx, b.x.min()), min(a.y0.min(), b.y0.min())
    width, height = max(a.x.max() + dx, b.x.max()) - left + 1, max(a.y1.max(), b.y1.max()) - top + 1
    column = (b.item * width + b.x - left) * height - top
    target = (items_b[pair] * width + a.x[run] + dx - left) * height - top
    first = np.searchsorted(column + b.y1, target + a.y0[run], "right")
    found, other = expand(first, np.searchsorted(column + b.y0, target + a.y1[run], "left"))
    pair, run = pair[found], run[found]
    return pair, run, other, np.minimum(a.y1[run], b.y1[other]) - np.maximum(a.y0[run], b.y0[other])


def decode(counts: pa.Array, windows: np.ndarray) -> Runs:
    """Masks from COCO's compressed strings, each as large as its window.

    Args:
        counts: string (n,); the packing is told at rayseg.rle.run_lengths.
        windows: int64 (n, 4), x0, y0, x1, y1.

    Raises:
        ValueError: a string is cut short or does not fill its window.
    """
    item, place, value = _run_lengths(counts)
    width, height = windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]
    filled = sums(item, value, len(windows))
    if (wrong := np.flatnonzero((filled != width * height) | (sums(item, value < 0, len(windows)) > 0))).size:
        i = int(wrong[0])
        raise ValueError(f"mask {i} has {int(filled[i])} pixels, its window is {width[i]} x {height[i]}; was it cut short?")
    stop = _sum_within(value, item)
    ones = (place % 2 == 1) & (value > 0)
    item, start, stop = item[ones], (stop - value)[ones], stop[ones]
    tall = height[item]
    first, last = start // tall, (stop - 1) // tall
    run, x = expand(first, last + 1)
    y0 = np.where(x == first[run], start[run] - x * tall[run], 0)
    y1 = np.where(x == last[run], stop[run] - x * tall[run], tall[run])
    item = item[run]
    return Runs(item, x + windows[item, 0], y0 + windows[item, 1], y1 + windows[item, 1])


def encode(runs: Runs, windows: np.ndarray) -> pa.Array:
    """COCO's compressed strings of masks, each as large as its window: the bytes of pycocotools.

    Args:
        runs: of items 0 to n - 1, inside their windows.
        windows: int64 (n, 4), x0, y0, x1, y1.
    """
    tall = windows[runs.item, 3] - windows[runs.item, 1]
    start = (runs.x - windows[runs.item, 0]) * tall + runs.y0 - windows[runs.item, 1]
    pixels = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])
    n_edges = 2 * np.bincount(runs.item, minlength=len(windows))
    text, ends = pack_edges(np.stack([start, start + runs.lengths], axis=1).reshape(-1), n_edges, pixels)
    found = pa.Array.from_buffers(pa.large_string(), len(windows), [None, pa.py_buffer(ends), pa.py_buffer(text)])
    return found.cast(pa.string())


def areas(counts: pa.Array) -> np.ndarray:
    """Pixels of each mask, int64 (n,), from COCO's compressed strings."""
    item, place, value = _run_lengths(counts)
    return sums(item, np.where(place % 2 == 1, value, 0), len(counts))


def sums(item: np.ndarray, value: np.ndarray, n_items: int) -> np.ndarray:
    """Sum of whole numbers for each item, exact: int64 (n_items,). Items are sorted."""
    out = np.zeros(n_items, dtype=np.int64)
    first = first_of_each(item)
    if first.size:
        out[item[first]] = np.add.reduceat(value.astype(np.int64), first)
    return out


def _run_lengths(counts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uncompressed counts of many strings: the item, the place within it, and the count."""
    counts = counts.cast(pa.large_string())
    _, at, data = counts.buffers()
    offset = np.frombuffer(at, dtype=np.int64)[counts.offset : counts.offset + len(counts) + 1] if at else np.zeros(1, np.int64)
    size = int(offset[-1] - offset[0])
    byte = np.frombuffer(data, dtype=np.uint8)[int(offset[0]) : int(offset[-1])] if size else np.empty(0, np.uint8)
    offset = offset - offset[0]
    code = byte.astype(np.int64) - _ASCII
    ends = np.flatnonzero((code & _MORE) == 0)
    so_far = np.searchsorted(ends, offset)  # numbers before each string
    whole = (offset == 0) | (np.concatenate([[-1], ends])[so_far] == offset - 1)
    if not whole.all():
        raise ValueError(f"mask {max(int(np.argmin(whole)) - 1, 0)} ends in the middle of a number; its string was cut short")
    starts = np.concatenate([[0], ends[:-1] + 1])[: ends.size]
    groups = ends - starts + 1
    if groups.size and groups.max() > 12:
        raise ValueError("a mask has a run of more than 2^60 pixels; its string is damaged")
    shift = 5 * (np.arange(size) - np.repeat(starts, groups))
    value = np.add.reduceat((code & _FIVE_BITS) << shift, starts) if ends.size else np.empty(0, dtype=np.int64)
    value -= np.where(code[ends] & _SIGN, np.int64(1) << (5 * groups), 0)
    item = np.repeat(np.arange(len(offset) - 1), np.diff(so_far))
    place = np.arange(ends.size) - np.repeat(so_far[:-1], np.diff(so_far))
    # From the fourth on, a count is stored as its difference to the one two before: sums over odd and over even places.
    odd, even = np.where(place % 2 == 1, value, 0), np.where((place % 2 == 0) & (place > 0), value, 0)
    undone = np.where(place % 2 == 1, _sum_within(odd, item), _sum_within(even, item))
    return item, place, np.where(place == 0, value, undone)


def _sum_within(value: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Running sum that starts anew with each item."""
    total = np.cumsum(value)
    first = first_of_each(item)
    before = (total - value)[first]
    return total - np.repeat(before, np.diff(np.concatenate([first, [item.size]])))
