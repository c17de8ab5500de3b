"""Fragments: objects as seen in one tile, and the table they travel in until their tiles are stitched.

A fragment's mask fills only its own bounding window, in scene pixels, so that it costs the same in a tile of any scene.
Who writes the table to disk, and beside which ledger, is the pipeline's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayseg.geometry import Size, Window
from rayseg.results import Instances
from rayseg.rle import Rle
from rayseg.tiling.grid import Grid, Tile
from rayseg.tiling.groups import expand
from rayseg.tiling.runs import Runs, decode, encode

FRAGMENTS = pa.schema(
    [
        pa.field("tile", pa.int64(), nullable=False),
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("x0", pa.int64(), nullable=False),
        pa.field("y0", pa.int64(), nullable=False),
        pa.field("x1", pa.int64(), nullable=False),
        pa.field("y1", pa.int64(), nullable=False),
        pa.field("rle_counts", pa.string(), nullable=False),
    ]
)

WINDOW = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Fragment:
    """An object as seen in one tile.

    Attributes:
        tile: number of the tile in its grid.
        score: in [0, 1].
        window: the smallest that holds the mask, in scene pixels.
        mask: of the window's size.
    """

    tile: int
    class_id: int
    score: float
    window: Window
    mask: Rle

    def __post_init__(self) -> None:
        if self.window.empty or self.mask.size != Size(self.window.height, self.window.width):
            raise ValueError(f"a mask of {self.mask.size} does not fill {self.window}")
        if not 0 <= self.score <= 1:
            raise ValueError(f"score {self.score} of a fragment in tile {self.tile} is not in [0, 1]")


def fragments_of(tile: Tile, found: Instances, *, factor: int = 1, valid: np.ndarray | None = None) -> pa.Table:
    """What a predictor found in one tile, as rows of the fragments table.

    Args:
        found: in pixels of the tile; may be larger than the tile's window on the right and below, where a small scene was
            padded. Pixels there are cut off. Objects without a pixel are left out.
        factor: how many pixels of the scene a pixel of the result is wide and high, for tiles that were seen coarser.
        valid: bool (H, W) of the tile's window; pixels without data are cut off. None where all have some.

    Raises:
        ValueError: the result is smaller than the tile, or `valid` is of another size.
    """
    size = Size(tile.window.height, tile.window.width)
    if found.size.height * factor < size.height or found.size.width * factor < size.width:
        raise ValueError(f"a result of {found.size} times {factor} does not cover tile {tile.index} of {size}")
    if valid is not None and valid.shape != size.hw:
        raise ValueError(f"a mask of valid pixels of shape {valid.shape} is not one of tile {tile.index} of {size}")
    n = len(found)
    counts = pa.array([mask.counts.decode("ascii") for mask in found.masks], pa.string())
    whole = np.tile(np.asarray([0, 0, found.size.width, found.size.height], dtype=np.int64), (n, 1))
    inside = np.tile(np.asarray([0, 0, size.width, size.height], dtype=np.int64), (n, 1))
    runs = decode(counts, whole)
    runs = (runs if factor == 1 else runs.enlarge(factor)).clip(inside)
    if valid is not None:
        runs = _cut(runs, valid)
    runs = Runs(runs.item, runs.x + tile.window.x0, runs.y0 + tile.window.y0, runs.y1 + tile.window.y0)
    kept = np.unique(runs.item)
    runs = Runs(np.searchsorted(kept, runs.item), runs.x, runs.y0, runs.y1)
    windows = runs.windows(len(kept))
    return fragments_table(
        np.full(len(kept), tile.index), found.class_ids[kept], found.scores[kept], windows, encode(runs, windows)
    )


def _cut(runs: Runs, valid: np.ndarray) -> Runs:
    """The parts of runs that lie on valid pixels."""
    edges = np.zeros((valid.shape[1], valid.shape[0] + 2), dtype=np.int8)
    edges[:, 1:-1] = valid.T
    change = np.diff(edges, axis=1)  # (W, H + 1)
    x, begin = np.nonzero(change == 1)
    end = np.nonzero(change == -1)[1]
    first = np.searchsorted(x, np.arange(valid.shape[1] + 1))
    run, piece = expand(first[runs.x], first[runs.x + 1])
    y0, y1 = np.maximum(runs.y0[run], begin[piece]), np.minimum(runs.y1[run], end[piece])
    keep = y0 < y1
    return Runs(runs.item[run][keep], runs.x[run][keep], y0[keep], y1[keep])


def fragments_table(tile: np.ndarray, class_id: np.ndarray, score: np.ndarray, windows: np.ndarray, counts: pa.Array) -> pa.Table:
    """The fragments table from its columns; `windows` is (n, 4): x0, y0, x1, y1."""
    window = {name: pa.array(windows[:, i], pa.int64()) for i, name in enumerate(WINDOW)}
    columns = {
        "tile": pa.array(tile, pa.int64()),
        "class_id": pa.array(class_id, pa.int32()),
        "score": pa.array(score, pa.float32()),
    }
    return pa.table({**columns, **window, "rle_counts": counts}, schema=FRAGMENTS)


def to_table(fragments: Iterable[Fragment]) -> pa.Table:
    """Rows of the fragments table, in the order given."""
    rows = list(fragments)
    windows = np.asarray([[f.window.x0, f.window.y0, f.window.x1, f.window.y1] for f in rows], dtype=np.int64).reshape(-1, 4)
    return fragments_table(
        np.asarray([f.tile for f in rows], dtype=np.int64),
        np.asarray([f.class_id for f in rows], dtype=np.int32),
        np.asarray([f.score for f in rows], dtype=np.float32),
        windows,
        pa.array([f.mask.counts.decode("ascii") for f in rows], pa.string()),
    )


def from_table(table: pa.Table) -> list[Fragment]:
    """The fragments of a table, in its order."""
    return [
        Fragment(
            row["tile"], row["class_id"], row["score"], window := Window(*(row[name] for name in WINDOW)), mask_in(window, row)
        )
        for row in table.to_pylist()
    ]


def mask_in(window: Window, row: dict[str, str]) -> Rle:
    """The mask of one row of a table, of its window's size."""
    return Rle(Size(window.height, window.width), row["rle_counts"].encode("ascii"))


def windows_of(table: pa.Table) -> np.ndarray:
    """Windows of the rows of a table, int64 (n, 4): x0, y0, x1, y1."""
    return np.stack([table[name].to_numpy() for name in WINDOW], axis=1).astype(np.int64)


def masks_of(table: pa.Table) -> pa.Array:
    """The compressed masks of a table in one piece."""
    return pa.concat_arrays(
        [chunk.cast(pa.large_string()) for chunk in table["rle_counts"].chunks] or [pa.array([], pa.large_string())]
    )


def check(grid: Grid, table: pa.Table) -> None:
    """Refuse fragments that cannot be of a grid.

    Raises:
        ValueError: another schema, a tile the grid does not have, or a window that leaves its tile.
    """
    if not table.schema.equals(FRAGMENTS):
        raise ValueError(f"fragments have columns {table.schema.names}, or types, other than those of FRAGMENTS")
    tiles, windows = table["tile"].to_numpy(), windows_of(table)
    if (wrong := np.flatnonzero((tiles < 0) | (tiles >= len(grid)))).size:
        raise ValueError(f"fragment {int(wrong[0])} is of tile {int(tiles[wrong[0]])}; the grid has {len(grid)} tiles")
    around = grid.windows(tiles)
    inside = (windows[:, :2] >= around[:, :2]).all(axis=1) & (windows[:, 2:] <= around[:, 2:]).all(axis=1)
    if not (inside & (windows[:, 2:] > windows[:, :2]).all(axis=1)).all():
        i = int(np.argmin(inside & (windows[:, 2:] > windows[:, :2]).all(axis=1)))
        raise ValueError(
            f"fragment {i} of tile {int(tiles[i])} lies at {windows[i].tolist()}, outside the tile's {around[i].tolist()}; "
            "were the fragments made with another grid?"
        )
