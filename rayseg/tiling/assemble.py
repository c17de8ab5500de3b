"""From fragments that are known to be one object to that object: which pixels count, its score, and what is dropped.

Pixels. A tile is trusted in its core: a pixel belongs to the object if the tile in whose core it lies says so. Where that tile
contributed nothing to the object, any fragment with the pixel will do. But where one tile saw the object whole – its fragment
ends at no cut edge, all of the object lies in that tile, and it has most of the object's pixels – that fragment is taken as
it is, since a mask in one piece beats one pieced together.

Score. The mean over the object's pixels of the score of the tile that decided each. The greatest score would grow with the
number of tiles an object is seen in; a plain mean would let a sliver count as much as a full view.

Dropped. An object is left out if each of its fragments is cut by its tile's edge and lies wholly outside its tile's core: that
is the end of something which the tiles in charge saw better and did not report. Where one of those tiles is absent, it stays.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayseg.tiling.fragments import FRAGMENTS, masks_of, windows_of
from rayseg.tiling.grid import Grid
from rayseg.tiling.groups import expand, first_of_each
from rayseg.tiling.objects import objects_table
from rayseg.tiling.runs import Runs, areas, decode, encode, union
from rayseg.tiling.seams import cut_edges

# A fragment that was not cut stands for the whole object if it has at least this share of the object's pixels.
WHOLE_SHARE = 0.8

_ALL = [(name, "ascending") for name in FRAGMENTS.names]


def in_order(table: pa.Table) -> np.ndarray:
    """Row numbers that sort fragments by all they have, so that no result depends on the order in which they came."""
    return table.append_column("row", pa.array(np.arange(len(table)))).sort_by(_ALL)["row"].to_numpy()


def assemble(grid: Grid, table: pa.Table, group: np.ndarray, absent: np.ndarray) -> tuple[pa.Table, int]:
    """Objects from fragments.

    Args:
        table: rows of the fragments table, all that these objects have, sorted as `in_order` says.
        group: int64 (n,), equal for the fragments of one object.
        absent: numbers of tiles that could not be predicted.

    Returns:
        Rows of the objects table, and how many fragments were dropped.
    """
    _, group, sizes = np.unique(group, return_inverse=True, return_counts=True)
    good = np.zeros(len(sizes), dtype=bool)
    good[group[~_strays(grid, table, absent)]] = True
    alone, kept = sizes[group] == 1, good[group]
    parts = [unchanged(table.filter(pa.array(alone & kept)))]
    if (several := ~alone & kept).any():
        parts.append(_joined(grid, table.filter(pa.array(several)), group[several]))
    return pa.concat_tables(parts), int((~kept).sum())


def unchanged(table: pa.Table) -> pa.Table:
    """Objects that are one fragment each.

    Raises:
        ValueError: a fragment without pixels.
    """
    n, counts = len(table), masks_of(table)
    tiles, area = (np.arange(n + 1), table["tile"].to_numpy()), areas(counts)
    if not area.all():
        i = int(np.argmin(area))
        raise ValueError(f"a fragment of tile {tiles[1][i]} at {windows_of(table)[i].tolist()} has no pixel; leave it out")
    scores, ones = table["score"].to_numpy(), np.ones(n, dtype=np.int32)
    return objects_table(table["class_id"].to_numpy(), scores, windows_of(table), area, counts, ones, tiles)


def _strays(grid: Grid, table: pa.Table, absent: np.ndarray) -> np.ndarray:
    """Fragments that are cut and lie where other tiles are in charge, bool (n,)."""
    tile, windows = table["tile"].to_numpy(), windows_of(table)
    core = grid.cores(tile)
    outside = (windows[:, :2] >= core[:, 2:]).any(axis=1) | (windows[:, 2:] <= core[:, :2]).any(axis=1)
    stray = np.asarray(outside & cut_edges(grid, tile, windows).any(axis=1))
    found = np.flatnonzero(stray)
    if found.size and absent.size:
        x0, y0, x1, y1 = windows[found].T
        which, row = expand(grid.rows.owner(y0), grid.rows.owner(y1 - 1) + 1)
        cell, column = expand(grid.columns.owner(x0)[which], grid.columns.owner(x1 - 1)[which] + 1)
        unseen = np.isin(row[cell] * len(grid.columns) + column, absent)
        stray[found[which[cell[unseen]]]] = False
    return stray


def _joined(grid: Grid, table: pa.Table, group: np.ndarray) -> pa.Table:
    """Objects of two fragments and more; `group` is any number, equal within an object."""
    order = np.argsort(group, kind="stable")
    table, group = table.take(pa.array(order)), np.unique(group[order], return_inverse=True)[1]
    tile, score = table["tile"].to_numpy(), table["score"].to_numpy().astype(np.float64)
    first = first_of_each(group)
    masks = decode(masks_of(table), windows_of(table))
    counted = _count(grid, masks, tile, group)
    merged = union(group[counted.item], counted.x, counted.y0, counted.y1)
    windows = merged.windows(len(first))
    weight = counted.areas(len(table)).astype(np.float64)
    mean = np.add.reduceat(weight * score, first) / np.add.reduceat(weight, first)
    mean = np.clip(mean, np.minimum.reduceat(score, first), np.maximum.reduceat(score, first))
    seen = np.unique(group * len(grid) + tile)
    offsets = np.searchsorted(seen // len(grid), np.arange(len(first) + 1))
    n_fragments = np.diff(np.concatenate([first, [len(table)]]))
    class_id = table["class_id"].to_numpy()[first]
    return objects_table(
        class_id, mean, windows, merged.areas(len(first)), encode(merged, windows), n_fragments, (offsets, seen % len(grid))
    )


def _count(grid: Grid, masks: Runs, tile: np.ndarray, group: np.ndarray) -> Runs:
    """The runs of each fragment that count."""
    n, first = len(tile), first_of_each(group)
    pieced = _by_core(grid, masks, tile, group)
    merged = union(group[pieced.item], pieced.x, pieced.y0, pieced.y1)
    area, extent = merged.areas(len(first)), merged.windows(len(first))
    sizes, windows = masks.areas(n), masks.windows(n)
    # The largest fragment of each object that is not cut, if there is one; the first of equals.
    size = np.where(cut_edges(grid, tile, windows).any(axis=1), 0, sizes)
    best = np.lexsort((-size, group))[first]
    around, box = grid.windows(tile[best]), extent
    whole = (box[:, :2] >= around[:, :2]).all(axis=1) & (box[:, 2:] <= around[:, 2:]).all(axis=1)
    whole &= (size[best] > 0) & (size[best] >= WHOLE_SHARE * area)
    entire = np.zeros(n, dtype=bool)
    entire[best[whole]] = True
    # Tiles may disagree by a pixel on either side of a core's border until nothing is left: then everything counts.
    entire |= ((area == 0) & ~whole)[group]
    kept, added = pieced.select(~whole[group[pieced.item]]), masks.select(entire[masks.item])
    columns = [np.concatenate([getattr(kept, name), getattr(added, name)]) for name in ("item", "x", "y0", "y1")]
    order = np.lexsort((columns[2], columns[1], columns[0]))
    return Runs(*(column[order] for column in columns))


def _by_core(grid: Grid, masks: Runs, tile: np.ndarray, group: np.ndarray) -> Runs:
    """Runs cut at the borders of cores, those left out that another tile of the same object decides."""
    run, row = expand(grid.rows.owner(masks.y0), grid.rows.owner(masks.y1 - 1) + 1)
    borders = grid.rows.borders
    y0, y1 = np.maximum(masks.y0[run], borders[row]), np.minimum(masks.y1[run], borders[row + 1])
    item, x = masks.item[run], masks.x[run]
    owner = row * len(grid.columns) + grid.columns.owner(x)
    contributes = np.unique(group * len(grid) + tile)
    wanted = group[item] * len(grid) + owner
    place = np.minimum(np.searchsorted(contributes, wanted), len(contributes) - 1)
    keep = (owner == tile[item]) | (contributes[place] != wanted)
    return Runs(item, x, y0, y1).select(keep)
