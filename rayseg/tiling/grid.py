"""How a scene is cut: tiles that overlap, and cores that do not.

A tile is what a network sees of the scene. Its core is the part it is the authority for: the cores of all tiles partition
the scene, and a border between two cores runs through the middle of what their tiles share. Tiles start every
`tile_px - overlap_px` pixels; one that would stick out is moved inwards, so that all tiles of a scene are of one size (that
of the scene where the scene is smaller than a tile). Padding a tile for its network and reading its pixels live elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rayseg.errors import ConfigError
from rayseg.geometry import Size, Window


@dataclass(frozen=True)
class Tile:
    """One tile of a grid. `window` and `core` are in scene pixels, the core inside the window."""

    index: int
    row: int
    column: int
    window: Window
    core: Window


@dataclass(frozen=True)
class Axis:
    """The tiles of a grid along one side of the scene, as the intervals they are.

    Attributes:
        starts: int64 (n,), first pixel of each tile, rising.
        length: of every tile.
        borders: int64 (n + 1,), from 0 to the end of the scene: core k is [borders[k], borders[k + 1]).
    """

    starts: np.ndarray
    length: int
    borders: np.ndarray

    @classmethod
    def cut(cls, extent: int, tile_px: int, overlap_px: int, shift_px: int) -> Axis:
        """Tiles of one side. A shifted grid has a first tile that would start before the scene; it is moved to 0."""
        length, step = min(tile_px, extent), tile_px - overlap_px
        first = shift_px % step - step if shift_px % step else 0
        starts = np.unique(np.clip(np.arange(first, extent - length + step, step), 0, extent - length))
        middles = (starts[1:] + starts[:-1] + length) // 2
        return cls(starts, length, np.concatenate([[0], middles, [extent]]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def stops(self) -> np.ndarray:
        """int64 (n,), the pixel after the last of each tile."""
        return self.starts + self.length

    def meeting(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First tile, and the one after the last, that hold a pixel of each interval [start, stop)."""
        return np.searchsorted(self.stops, start, "right"), np.searchsorted(self.starts, stop, "left")

    def owner(self, position: np.ndarray) -> np.ndarray:
        """The tile in whose core each position lies."""
        return np.searchsorted(self.borders, position, "right") - 1


@dataclass(frozen=True)
class Grid:
    """The tiles of one scene, numbered row by row from 0.

    Attributes:
        scene: its size; may be smaller than a tile.
        tile_px: side of a tile.
        overlap_px: what neighbours share, at least; tiles that were moved inwards share more.
        shift_px: (x, y) by which the grid is moved; changes where seams lie, and should change nothing else.
    """

    scene: Size
    tile_px: int
    overlap_px: int
    shift_px: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.tile_px < 1:
            raise ConfigError(f"tile_px is {self.tile_px}; a tile needs at least one pixel")
        if not 0 <= self.overlap_px < self.tile_px:
            raise ConfigError(
                f"overlap_px is {self.overlap_px} with tiles of {self.tile_px} px; it must be at least 0 and less than a tile"
            )

    @cached_property
    def columns(self) -> Axis:
        """The tiles from left to right."""
        return Axis.cut(self.scene.width, self.tile_px, self.overlap_px, self.shift_px[0])

    @cached_property
    def rows(self) -> Axis:
        """The tiles from top to bottom."""
        return Axis.cut(self.scene.height, self.tile_px, self.overlap_px, self.shift_px[1])

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        return (self.tile(index) for index in range(len(self)))

    @property
    def tile_size(self) -> Size:
        """Of every tile."""
        return Size(self.rows.length, self.columns.length)

    def tile(self, index: int) -> Tile:
        """One tile by its number.

        Raises:
            IndexError: the grid has no such tile.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of a grid of {len(self)} tiles")
        row, column = divmod(index, len(self.columns))
        x0, y0 = int(self.columns.starts[column]), int(self.rows.starts[row])
        (cx0, cx1), (cy0, cy1) = self.columns.borders[column : column + 2], self.rows.borders[row : row + 2]
        window = Window(x0, y0, x0 + self.columns.length, y0 + self.rows.length)
        return Tile(index, row, column, window, Window(int(cx0), int(cy0), int(cx1), int(cy1)))

    def row(self, row: int) -> list[Tile]:
        """The tiles of one row, from left to right."""
        return [self.tile(row * len(self.columns) + column) for column in range(len(self.columns))]

    def neighbours(self, index: int) -> list[int]:
        """The other tiles that share pixels with one tile, diagonal ones among them, in order."""
        window = self.tile(index).window
        r0, r1 = self.rows.meeting(np.asarray(window.y0), np.asarray(window.y1))
        c0, c1 = self.columns.meeting(np.asarray(window.x0), np.asarray(window.x1))
        found = (r * len(self.columns) + c for r in range(int(r0), int(r1)) for c in range(int(c0), int(c1)))
        return [other for other in found if other != index]

    def strip(self, first: int, second: int) -> Window:
        """What two tiles share; empty where they share nothing."""
        a, b = self.tile(first).window, self.tile(second).window
        x0, y0 = max(a.x0, b.x0), max(a.y0, b.y0)
        return Window(x0, y0, max(x0, min(a.x1, b.x1)), max(y0, min(a.y1, b.y1)))

    def windows(self, tiles: np.ndarray) -> np.ndarray:
        """Windows of many tiles, int64 (n, 4): x0, y0, x1, y1."""
        y0, x0 = self.rows.starts[tiles // len(self.columns)], self.columns.starts[tiles % len(self.columns)]
        return np.stack([x0, y0, x0 + self.columns.length, y0 + self.rows.length], axis=1)

    def cores(self, tiles: np.ndarray) -> np.ndarray:
        """Cores of many tiles, int64 (n, 4): x0, y0, x1, y1."""
        row, column = tiles // len(self.columns), tiles % len(self.columns)
        x, y = self.columns.borders, self.rows.borders
        return np.stack([x[column], y[row], x[column + 1], y[row + 1]], axis=1)
