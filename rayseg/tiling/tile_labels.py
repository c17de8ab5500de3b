"""What a semantic model said of one tile, and the table it is stored in until the scene is put together.

A pixel that only one tile of the grid sees is decided by that tile, so its label is all that is kept of it. With blending, the
probabilities of the pixels that other tiles see as well are kept beside it, a byte for each class. Reading them back gives
`labels.blended_bands` what it needs to come to the same map as from all probabilities. Bytes are stored as they are: Parquet's
zstd does better on label maps than on differences of neighbours, and nearly as well on probabilities. Files, and the order in
which their rows are read, are left to others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from rayseg.errors import ConfigError
from rayseg.geometry import Window
from rayseg.results import SemanticMap
from rayseg.tiling.grid import Axis, Grid
from rayseg.tiling.labels import label_dtype

TILE_LABELS = pa.schema(
    [
        pa.field("tile", pa.int64(), nullable=False),
        pa.field("labels", pa.large_binary(), nullable=False),
        pa.field("shared", pa.large_binary()),
    ]
)
"""One row a tile. `labels` is the label map (h, w) of the tile's window, uint8, or uint16 with the lower byte first. `shared` is
uint8 (n_classes, n), in 255ths, of the n pixels that other tiles see too, in reading order; null where nothing is blended."""


def tile_labels_table(
    grid: Grid,
    index: int,
    labels: np.ndarray | None = None,
    *,
    probabilities: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    void: int = 255,
) -> pa.Table:
    """One tile as one row of TILE_LABELS, from its labels or, where tiles are blended, from its probabilities.

    All arrays may be larger than the tile on the right and below, where it was padded.

    Args:
        index: number of the tile.
        labels: integers (h, w), each below `void`.
        probabilities: uint8 (n_classes, h, w) in 255ths. A pixel where all are 0 gets no label.
        valid: bool (h, w), False where the scene has no data, which gets no label either; None where there is data everywhere.
        void: label of those without; up to 255 labels take 8 bits, above it 16.

    Raises:
        ConfigError: there are more classes than `void` leaves room for.
        ValueError: labels and probabilities are both given or both not, an array is of another type or does not cover the tile,
            or a label is not below `void`.
    """
    dtype = label_dtype(void)
    nowhere = np.zeros(grid.tile_size.hw, dtype=bool) if valid is None else ~_cut(valid, "valid", np.bool_, grid, index)
    if probabilities is not None and labels is None:
        if not 1 <= len(probabilities) <= void:
            raise ConfigError(f"{len(probabilities)} classes leave no room for the void label {void}; classes are 0 to void - 1")
        known = _cut(probabilities, "probabilities", np.uint8, grid, index)
        nowhere |= ~known.any(axis=0)
        out = SemanticMap.from_probabilities(known).labels.astype(dtype)
        seen = _seen_by_others(grid, index)
        among = known[:, seen]
        among[:, nowhere[seen]] = 0
        shared = among.tobytes()
    elif labels is not None and probabilities is None:
        known = np.where(nowhere, 0, _cut(labels, "labels", np.integer, grid, index))
        least, most = int(known.min()), int(known.max())
        if least < 0 or most >= void:
            raise ValueError(f"tile {index} has labels {least} to {most}, where {void} is void; classes are below it")
        out, shared = known.astype(dtype), None
    else:
        raise ValueError(f"tile {index}: give either its labels or its probabilities, from which its labels follow")
    out[nowhere] = void
    stored = out.astype(_stored_as(out.itemsize), copy=False).tobytes()
    columns: tuple[list[Any], ...] = ([index], [stored], [shared])
    return pa.table([pa.array(one, field.type) for one, field in zip(columns, TILE_LABELS, strict=True)], schema=TILE_LABELS)


def read_labels(row: pa.Table | pa.RecordBatch, grid: Grid) -> np.ndarray:
    """The label map of one tile, as `labels.centre_bands` takes it.

    Args:
        row: one row of TILE_LABELS.
        grid: the one it was stored with.

    Returns:
        uint8 or uint16 (h, w); not to be written to.

    Raises:
        ValueError: there is another number of rows, or the tile is not of this grid.
    """
    index, size = _tile_of(row, grid), grid.tile_size
    stored = row["labels"][0].as_buffer()
    if stored.size not in (size.pixels, 2 * size.pixels):
        raise ValueError(f"tile {index} was stored with {stored.size} bytes of labels, not as a tile of {size} pixels")
    return np.frombuffer(stored, dtype=_stored_as(stored.size // size.pixels)).reshape(size.hw)


def read_probabilities(row: pa.Table | pa.RecordBatch, grid: Grid, n_classes: int) -> np.ndarray:
    """The probabilities of one tile, as `labels.blended_bands` takes them.

    Args:
        row: one row of TILE_LABELS, stored from probabilities.
        grid: the one it was stored with.

    Returns:
        float32 (n_classes, h, w). Where no other tile sees the pixel, 1 for its label and 0 for the rest; 0 for all where it
        has none.

    Raises:
        ValueError: as for `read_labels`; the row was stored without probabilities, or with those of other classes.
    """
    index, labels = _tile_of(row, grid), read_labels(row, grid)
    seen, stored = _seen_by_others(grid, index), row["shared"][0].as_buffer()
    if stored is None:
        raise ValueError(f"tile {index} was stored without probabilities; blending needs them, the centre rule does not")
    n = int(np.count_nonzero(seen))
    if stored.size != n_classes * n:
        raise ValueError(f"tile {index} was stored with {stored.size} probabilities, not with {n_classes} for each of {n} pixels")
    out = np.empty((n_classes, *labels.shape), dtype=np.float32)
    np.equal(labels, np.arange(n_classes)[:, None, None], out=out, casting="unsafe")
    out[:, seen] = np.frombuffer(stored, dtype=np.uint8).reshape(n_classes, n) / np.float32(255)
    return out


def _seen_by_others(grid: Grid, index: int) -> np.ndarray:
    """Pixels of a tile that other tiles see too, bool (h, w). The rest is a rectangle, or nothing."""
    row, column = divmod(index, len(grid.columns))
    (y0, y1), (x0, x1) = _alone(grid.rows, row), _alone(grid.columns, column)
    seen = np.ones(grid.tile_size.hw, dtype=bool)
    seen[Window(x0, y0, x1, y1).slices] = False
    return seen


def _alone(axis: Axis, k: int) -> tuple[int, int]:
    """The interval of tile k that no other tile along this side holds, in pixels of the tile."""
    start = int(axis.starts[k])
    first = int(axis.stops[k - 1]) - start if k > 0 else 0
    stop = int(axis.starts[k + 1]) - start if k + 1 < len(axis) else axis.length
    first = max(first, 0)
    return first, max(first, stop)


def _tile_of(row: pa.Table | pa.RecordBatch, grid: Grid) -> int:
    if row.num_rows != 1:
        raise ValueError(f"expected the row of one tile, got {row.num_rows} rows")
    index = int(row["tile"][0].as_py())
    if not 0 <= index < len(grid):
        raise ValueError(f"tile {index} is not of this grid, which has {len(grid)} tiles")
    return index


def _cut(array: np.ndarray, what: str, kind: Any, grid: Grid, index: int) -> np.ndarray:
    """The part of the last two axes that is the tile, of a type below `kind` in numpy's tree."""
    (height, width), shape = grid.tile_size.hw, array.shape
    rank = 3 if what == "probabilities" else 2
    if len(shape) != rank or shape[-2] < height or shape[-1] < width or not np.issubdtype(array.dtype, kind):
        raise ValueError(
            f"{what} {array.dtype} {shape} of tile {index}: expected {kind.__name__} values that cover {height} x {width} pixels"
        )
    return array[..., :height, :width]


def _stored_as(itemsize: int) -> np.dtype:
    return np.dtype("u1" if itemsize == 1 else "<u2")
