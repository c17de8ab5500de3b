"""A label map of a whole scene from the predictions of its tiles, handed out band by band from the top.

By the centre rule each pixel gets the label of the tile in whose core it lies. By blending it gets the class with the greatest
mean probability over the tiles that see it, weighted so that a tile counts less towards its edges and the weights of every
pixel sum to 1. Memory is that of one row of tiles: one band of labels, and for blending the probabilities of the strip that
the row shares with the next one. Writing the bands to a file is left to others; regions are cut out of them in regions.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from rayseg.errors import ConfigError
from rayseg.geometry import Window
from rayseg.tiling.grid import Axis, Grid


@dataclass(frozen=True, eq=False)
class Band:
    """Finished rows of a scene's label map.

    Attributes:
        window: full width of the scene; bands follow one another without gap.
        labels: uint8 or uint16 (window.height, window.width).
    """

    window: Window
    labels: np.ndarray


def centre_bands(grid: Grid, tiles: Iterable[np.ndarray | None], *, void: int = 255) -> Iterator[Band]:
    """The label map by the centre rule.

    Args:
        tiles: labels (h, w) of every tile in the order of the grid, None for a tile that could not be predicted. May be
            larger than a tile on the right and below, where it was padded.
        void: label of pixels no tile in charge could tell; up to 255 the map is uint8, above it is uint16.

    Raises:
        ValueError: a label map is smaller than its tile, has labels beyond the type, or tiles are missing at the end.
    """
    dtype, waiting = label_dtype(void), iter(tiles)
    for row in range(len(grid.rows)):
        top, bottom = grid.rows.borders[row : row + 2].tolist()
        out = np.full((bottom - top, grid.scene.width), void, dtype=dtype)
        for tile in grid.row(row):
            labels = _next(waiting, tile.index, len(grid))
            if labels is None:
                continue
            _check_size(labels.shape, grid, tile.index)
            inside = tile.core.shift(-tile.window.x0, -tile.window.y0)
            core = labels[inside.slices]
            if core.min() < 0 or core.max() > np.iinfo(dtype).max:
                raise ValueError(f"tile {tile.index} has label {int(core.max())}; set `void` above 255 for a map of 16 bits")
            out[:, tile.core.x0 : tile.core.x1] = core
        yield Band(Window(0, top, grid.scene.width, bottom), out)
    _no_more(waiting, len(grid))


def blended_bands(grid: Grid, tiles: Iterable[np.ndarray | None], *, n_classes: int, void: int = 255) -> Iterator[Band]:
    """The label map by blended probabilities.

    Args:
        tiles: probabilities float (n_classes, h, w) of every tile in the order of the grid, None for a tile that could not
            be predicted. May be larger than a tile on the right and below, where it was padded.
        void: label of pixels that no tile saw, or whose probabilities are all 0.

    Raises:
        ValueError: probabilities do not cover their tile or have another number of classes, or tiles are missing at the end.
    """
    if not 1 <= n_classes <= void:
        raise ConfigError(f"{n_classes} classes leave no room for the void label {void}; classes are 0 to void - 1")
    dtype, waiting = label_dtype(void), iter(tiles)
    rows, columns, width = grid.rows, grid.columns, grid.scene.width
    down, across = blend_weights(rows, grid.overlap_px), blend_weights(columns, grid.overlap_px)
    y_stop, x_stop = np.append(rows.starts[1:], grid.scene.height), np.append(columns.starts[1:], width)
    # What rows so far know of the rows below: read and rewritten in place, columns from left to right.
    below = np.zeros((n_classes, int((rows.stops - y_stop).max()), width), dtype=np.float32)
    known = 0
    for row in range(len(rows)):
        done = int(y_stop[row] - rows.starts[row])
        left = rows.length - done
        out = np.empty((done, width), dtype=dtype)
        beside = np.zeros((n_classes, rows.length, 0), dtype=np.float32)
        for column in range(len(columns)):
            index = row * len(columns) + column
            block = np.zeros((n_classes, rows.length, columns.length), dtype=np.float32)
            block[:, :, : beside.shape[2]] = beside
            probabilities = _next(waiting, index, len(grid))
            if probabilities is not None:
                if probabilities.ndim != 3 or len(probabilities) != n_classes:
                    raise ValueError(f"tile {index} has probabilities {probabilities.shape}, expected ({n_classes}, h, w)")
                _check_size(probabilities.shape[1:], grid, index)
                weight = down[row][:, None] * across[column]
                block += probabilities[:, : rows.length, : columns.length] * weight
            x0, x1 = int(columns.starts[column]), int(x_stop[column])
            ready = block[:, :, : x1 - x0]
            ready[:, :known] += below[:, :known, x0:x1]
            out[:, x0:x1] = _labels(ready[:, :done], void)
            below[:, :left, x0:x1] = ready[:, done:]
            beside = block[:, :, x1 - x0 :]
        known = left
        yield Band(Window(0, int(rows.starts[row]), width, int(y_stop[row])), out)
    _no_more(waiting, len(grid))


def blend_weights(axis: Axis, overlap_px: int) -> np.ndarray:
    """Weight of each tile at each of its pixels along one side, float32 (n_tiles, length).

    Linear towards the tile's inner edges over the width of the overlap, then scaled so that the weights of all tiles that see
    a pixel sum to 1. The weight of a pixel is the product of those along both sides, and these sum to 1 too.
    """
    place = np.arange(axis.length) + 0.5
    extent = int(axis.borders[-1])
    total = np.zeros(extent)
    weights = np.empty((len(axis), axis.length))
    for k, start in enumerate(axis.starts.tolist()):
        before = place if start > 0 else np.inf
        after = axis.length - place if start + axis.length < extent else np.inf
        weights[k] = np.minimum(np.minimum(before, after), max(overlap_px, 1))
        total[start : start + axis.length] += weights[k]
    for k, start in enumerate(axis.starts.tolist()):
        weights[k] /= total[start : start + axis.length]
    return weights.astype(np.float32)


def void_of(n_classes: int) -> int:
    """The label of pixels without one: the last of 8 bits, or of 16 where the classes need them."""
    return 255 if n_classes <= 255 else 65535


def label_dtype(void: int) -> type[np.uint8 | np.uint16]:
    """Of a label map: 8 bits where the void label fits them, else 16.

    Raises:
        ConfigError: it fits neither.
    """
    if not 0 < void <= 65535:
        raise ConfigError(f"void label {void} does not fit a map of 8 or 16 bits; choose 255 or 65535")
    return np.uint8 if void <= 255 else np.uint16


def _labels(probabilities: np.ndarray, void: int) -> np.ndarray:
    return np.where(probabilities.max(axis=0) > 0, probabilities.argmax(axis=0), void)


def _next(tiles: Iterator[np.ndarray | None], index: int, n_tiles: int) -> np.ndarray | None:
    try:
        return next(tiles)
    except StopIteration:
        raise ValueError(f"predictions end before tile {index} of {n_tiles}; hand over None for a tile that failed") from None


def _no_more(tiles: Iterator[np.ndarray | None], n_tiles: int) -> None:
    if next(tiles, _no_more) is not _no_more:
        raise ValueError(f"more predictions than the {n_tiles} tiles of the grid")


def _check_size(shape: tuple[int, ...], grid: Grid, index: int) -> None:
    if len(shape) != 2 or shape[0] < grid.rows.length or shape[1] < grid.columns.length:
        raise ValueError(f"prediction of shape {shape} does not cover tile {index} of {grid.tile_size}")
