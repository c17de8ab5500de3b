"""Connected regions of one class in a label map that arrives band by band: a lake that crosses tiles is one region.

A region is handed out as soon as a band ends without it. Memory is that of the runs of the regions still open, so a class that
covers everything, as a background does, is best skipped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
import pyarrow as pa

from rayseg.errors import ConfigError
from rayseg.tiling.groups import components
from rayseg.tiling.labels import Band
from rayseg.tiling.objects import objects_table
from rayseg.tiling.runs import Runs, encode, meet, union


def class_regions(
    bands: Iterable[Band], *, skip: Collection[int] = (), connectivity: int = 8, min_px: int = 1
) -> Iterator[pa.Table]:
    """The regions of a label map, as rows of the objects table without scores: one table for each band and one at the end.

    Args:
        bands: from the top, without gap.
        skip: labels that are no regions: the void label, the background.
        connectivity: 8 joins pixels by corners too, 4 by sides only.
        min_px: regions with fewer pixels are left out.

    Raises:
        ValueError: a band does not begin where the one before ended.
    """
    if connectivity not in (4, 8):
        raise ConfigError(f"connectivity {connectivity}: pixels hang together by sides (4) or by sides and corners (8)")
    reach = 1 if connectivity == 8 else 0
    open_, names = _NONE, np.empty(0, dtype=np.int64)  # runs of the open regions with class as item; the region of each
    bottom: int | None = None
    for band in bands:
        if bottom is not None and band.window.y0 != bottom:
            raise ValueError(f"a band begins at row {band.window.y0}, the one before ended at row {bottom}")
        fresh = _runs(band, skip)
        n_open = int(names.max(initial=-1)) + 1
        edges = [_beside(fresh, reach, n_open)]
        edges += [_below(open_, names, fresh, band.window.y0, dx, n_open) for dx in range(-reach, reach + 1)]
        root = components(n_open + len(fresh), *(np.concatenate(ends) for ends in zip(*edges, strict=True)))
        names = root[np.concatenate([names, n_open + np.arange(len(fresh))])]
        runs = _both(open_, fresh)
        bottom = band.window.y1
        going_on = np.zeros(n_open + len(fresh), dtype=bool)
        going_on[names[runs.y1 == bottom]] = True
        waits = going_on[names]
        yield _table(runs.select(~waits), names[~waits], min_px)
        order = np.argsort(runs.item[waits], kind="stable")  # `meet` wants classes in order
        kept = runs.select(waits)
        open_ = Runs(kept.item[order], kept.x[order], kept.y0[order], kept.y1[order])
        names = np.unique(names[waits][order], return_inverse=True)[1]
    yield _table(open_, names, min_px)


_NONE = Runs(*(np.empty(0, dtype=np.int64) for _ in range(4)))


def _runs(band: Band, skip: Collection[int]) -> Runs:
    """Vertical runs of equal labels, the label as item."""
    height = band.window.height
    flat = np.ascontiguousarray(band.labels.T)
    begins = np.ones(flat.shape, dtype=bool)
    begins[:, 1:] = flat[:, 1:] != flat[:, :-1]
    start = np.flatnonzero(begins)
    label = flat.reshape(-1)[start].astype(np.int64)
    stop = np.append(start[1:], flat.size)
    keep = np.flatnonzero(~np.isin(label, list(skip)))
    keep = keep[np.argsort(label[keep], kind="stable")]
    x, y0 = start[keep] // height, start[keep] % height + band.window.y0
    return Runs(label[keep], x + band.window.x0, y0, y0 + (stop - start)[keep])


def _beside(runs: Runs, reach: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of one class in neighbouring columns that touch."""
    labels = np.unique(runs.item)
    wide = Runs(runs.item, runs.x, runs.y0 - reach, runs.y1 + reach)
    _, left, right, _ = meet(wide, runs, labels, labels, dx=1)
    return left + offset, right + offset


def _below(open_: Runs, names: np.ndarray, fresh: Runs, y: int, dx: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """Open regions and the runs that go on with them in the first row of a new band."""
    last = open_.y1 == y
    above = Runs(open_.item[last], open_.x[last], open_.y0[last] * 0 + y, open_.y1[last] * 0 + y + 1)
    labels = np.unique(above.item)
    _, run, other, _ = meet(above, fresh, labels, labels, dx=dx)
    return names[last][run], other + offset


def _both(a: Runs, b: Runs) -> Runs:
    return Runs(*(np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("item", "x", "y0", "y1")))


def _table(runs: Runs, names: np.ndarray, min_px: int) -> pa.Table:
    """Finished regions, in the order of their upper left corners."""
    n_regions = len(np.unique(names))
    names = np.unique(names, return_inverse=True)[1]
    label = np.zeros(n_regions, dtype=np.int64)
    label[names] = runs.item
    merged = union(names, runs.x, runs.y0, runs.y1)
    windows, area = merged.windows(n_regions), merged.areas(n_regions)
    order = np.lexsort((label, windows[:, 0], windows[:, 1]))
    order = order[area[order] >= min_px]
    merged, windows = merged.take(order), windows[order]
    ones, none = np.ones(len(order), dtype=np.int32), np.zeros(len(order) + 1, dtype=np.int32)
    tiles = (none, np.empty(0, dtype=np.int64))
    return objects_table(label[order], None, windows, area[order], encode(merged, windows), ones, tiles)
