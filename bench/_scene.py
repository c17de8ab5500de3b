"""A scene that can be drawn window by window: which objects it has, and which pixels each of them gets.

A row of cells, or a river, is drawn from random numbers of its own, so that any window is the same whatever was drawn before.
Files are left to make_scene.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from rayseg.errors import ConfigError
from rayseg.geometry import Size, Window

SMALLEST_PX, LARGEST_PX, RIVER_PX = 12, 120, 9
N_COLOURS = 255**3
# Shares no factor with 255, so that colours repeat only after 255^3; near the golden section of it, so that the colours of
# neighbouring numbers differ much.
_STRIDE = 10_247_857


@dataclass(frozen=True)
class Scene:
    """What is drawn where.

    Attributes:
        size: of the picture.
        objects_per_mpx: blobs in a million pixels, which gives the side of a cell.
        rivers: the even ones run from left to right, the odd ones from top to bottom.
        frame_px: on every side, where nothing is.
    """

    size: Size
    objects_per_mpx: float = 40.0
    rivers: int = 6
    frame_px: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.objects_per_mpx <= 4000:
            raise ConfigError(
                f"objects_per_mpx is {self.objects_per_mpx}; it lies above 0 and up to 4000, where blobs have 12 px"
            )
        if self.rivers < 0 or self.seed < 0:
            raise ConfigError(f"rivers is {self.rivers} and seed {self.seed}; neither may be negative")
        if self.frame_px < 0 or 2 * self.frame_px >= min(self.size.hw):
            raise ConfigError(
                f"a frame of {self.frame_px} px leaves nothing of a scene of {self.size.width} x {self.size.height}"
            )
        if (count := self.rivers + self.cells[0] * self.cells[1]) >= N_COLOURS:
            raise ConfigError(
                f"{count} objects, and only {N_COLOURS - 1} colours to tell them apart: lower --objects-per-mpx or the size"
            )

    @property
    def inner(self) -> Window:
        """The part inside the frame."""
        return Window(self.frame_px, self.frame_px, self.size.width - self.frame_px, self.size.height - self.frame_px)

    @property
    def cell_px(self) -> float:
        return 1000 / math.sqrt(self.objects_per_mpx)

    @property
    def largest_px(self) -> float:
        """The broadest blob; smaller than a cell where cells are small."""
        return max(SMALLEST_PX, min(LARGEST_PX, 0.9 * self.cell_px))

    @cached_property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the lattice."""
        return math.ceil(self.inner.height / self.cell_px), math.ceil(self.inner.width / self.cell_px)

    def blobs(self, row: int) -> np.ndarray:
        """The blobs of one row of cells, float64 (columns, 6): centre x, y, mean radius, waviness, waves, phase."""
        return _blobs(self, row)

    @cached_property
    def courses(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each river, first and last-plus-one pixel across at every pixel along, int64, over the whole side of the scene.

        Rivers of one direction have bands of their own, so that only crossings are shared.
        """
        return [_course(self, number) for number in range(self.rivers)]


def colours(numbers: np.ndarray) -> np.ndarray:
    """The colours of objects 1, 2, ..., uint8 (n, 3); no band is 0, and no two numbers below 255^3 have the same."""
    code = numbers.astype(np.int64) * _STRIDE % N_COLOURS
    return np.stack([code // 255**2, code // 255 % 255, code % 255], axis=1).astype(np.uint8) + np.uint8(1)


def draw(scene: Scene, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """One window of the scene.

    Returns:
        uint16 (3, h, w), and of each object with a pixel in it int64 (n, 6): number, x0, y0, x1, y1 in scene pixels, pixels.
    """
    canvas = np.zeros((window.height, window.width), dtype=np.int32)  # place in `seen`, plus 1
    seen: list[tuple[int, ...]] = []
    for number, rows, columns in _river_pixels(scene, window):
        free = canvas[rows, columns] == 0
        _put(canvas, seen, number, rows[free], columns[free], window)
    for number, x0, y0, mask in _blob_masks(scene, window):
        left, top = max(x0, window.x0, scene.inner.x0), max(y0, window.y0, scene.inner.y0)
        right, bottom = (
            min(x0 + mask.shape[1], window.x1, scene.inner.x1),
            min(y0 + mask.shape[0], window.y1, scene.inner.y1),
        )
        if left >= right or top >= bottom:
            continue
        under = canvas[top - window.y0 : bottom - window.y0, left - window.x0 : right - window.x0]
        rows, columns = np.nonzero(mask[top - y0 : bottom - y0, left - x0 : right - x0] & (under == 0))
        _put(canvas, seen, number, rows + top - window.y0, columns + left - window.x0, window)
    found = np.asarray(seen, dtype=np.int64).reshape(-1, 6)
    table = np.zeros((len(found) + 1, 3), dtype=np.uint16)
    table[1:] = colours(found[:, 0]).astype(np.uint16) * 257
    return np.stack([table[:, band][canvas] for band in range(3)]), found


def _put(
    canvas: np.ndarray, seen: list[tuple[int, ...]], number: int, rows: np.ndarray, columns: np.ndarray, window: Window
) -> None:
    """Give free pixels to an object."""
    if not rows.size:
        return
    canvas[rows, columns] = len(seen) + 1
    x, y = columns + window.x0, rows + window.y0
    seen.append((number, int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1, rows.size))


def _river_pixels(scene: Scene, window: Window) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number, rows and columns in the window of each river that reaches it."""
    inner = scene.inner
    for k, (first, stop) in enumerate(scene.courses):
        across = k % 2 == 0
        along = (
            (max(window.x0, inner.x0), min(window.x1, inner.x1))
            if across
            else (max(window.y0, inner.y0), min(window.y1, inner.y1))
        )
        low, high = (window.y0, window.y1) if across else (window.x0, window.x1)
        place = np.arange(*along)
        a, b = np.maximum(first[along[0] : along[1]], low), np.minimum(stop[along[0] : along[1]], high)
        reach = np.maximum(b - a, 0)
        if not reach.sum():
            continue
        at = np.repeat(place, reach)
        side = np.arange(reach.sum()) - np.repeat(np.cumsum(reach) - reach, reach) + np.repeat(a, reach)
        rows, columns = (side, at) if across else (at, side)
        yield k + 1, rows - window.y0, columns - window.x0


def _blob_masks(scene: Scene, window: Window) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Number, left, top and whole mask of each blob that may reach a window, in the order of cells."""
    n_rows, n_columns = scene.cells
    reach = scene.largest_px / 2 + 2
    first = math.floor((window.y0 - scene.inner.y0 - reach) / scene.cell_px) - 1
    last = math.ceil((window.y1 - scene.inner.y0 + reach) / scene.cell_px) + 1
    for row in range(max(first, 0), min(last, n_rows)):
        blobs = scene.blobs(row)
        x, y = blobs[:, 0], blobs[:, 1]
        near = (x + reach > window.x0) & (x - reach < window.x1) & (y + reach > window.y0) & (y - reach < window.y1)
        for column in np.flatnonzero(near).tolist():
            # All of a blob is computed for every window, and cut afterwards: its pixels do not depend on the cut.
            yield (1 + scene.rivers + row * n_columns + column, *_blob_mask(*blobs[column].tolist()))


def _blob_mask(x: float, y: float, radius: float, waviness: float, waves: float, phase: float) -> tuple[int, int, np.ndarray]:
    """Left, top, and bool mask of what lies within radius * (1 + waviness * cos(waves * angle + phase)) of the centre."""
    reach = radius * (1 + waviness)
    left, top = math.floor(x - reach), math.floor(y - reach)
    dx = np.arange(left, math.ceil(x + reach) + 1) + 0.5 - x
    dy = (np.arange(top, math.ceil(y + reach) + 1) + 0.5 - y)[:, None]
    limit = radius if not waviness else radius * (1 + waviness * np.cos(waves * np.arctan2(dy, dx) + phase))
    return left, top, dx**2 + dy**2 <= limit**2


@lru_cache(maxsize=256)
def _blobs(scene: Scene, row: int) -> np.ndarray:
    rng = np.random.default_rng([scene.seed, 0, row])
    n = scene.cells[1]
    diameter = SMALLEST_PX * (scene.largest_px / SMALLEST_PX) ** rng.random(n)
    waviness = np.where(rng.random(n) < 0.5, 0.0, 0.3 * rng.random(n))
    waves, phase = rng.integers(2, 6, n).astype(np.float64), rng.uniform(0, 2 * math.pi, n)
    radius = diameter / 2 / (1 + waviness)
    shift = rng.uniform(-0.25, 0.25, (2, n)) * scene.cell_px
    x = scene.inner.x0 + (np.arange(n) + 0.5) * scene.cell_px + shift[0]
    y = scene.inner.y0 + (row + 0.5) * scene.cell_px + shift[1]
    # A quarter of the odd cells: moved against the blob on the left, which stays where it is, until one pixel is shared.
    moved = np.flatnonzero((np.arange(n) % 2 == 1) & (rng.random(n) < 0.25))
    right_of_it = radius[moved - 1] * (1 + waviness[moved - 1] * np.cos(phase[moved - 1]))
    left_of_me = radius[moved] * (1 + waviness[moved] * np.cos(waves[moved] * math.pi + phase[moved]))
    x[moved], y[moved] = x[moved - 1] + right_of_it + left_of_me - 1, y[moved - 1]
    return np.stack([x, y, radius, waviness, waves, phase], axis=1)


def _course(scene: Scene, number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([scene.seed, 1, number])
    across = number % 2 == 0
    length, breadth = (scene.size.width, scene.inner.height) if across else (scene.size.height, scene.inner.width)
    siblings = (scene.rivers + 1) // 2 if across else scene.rivers // 2
    band = breadth / siblings
    middle = scene.frame_px + (number // 2 + 0.5) * band
    place = np.arange(length) + 0.5
    course, slope = np.full(length, middle), np.zeros(length)
    for period, share in ((rng.uniform(2000, 5000), 0.7), (rng.uniform(300, 900), 0.3)):
        # Never steeper than 1 to 1 in all, and never out of its band.
        swing = share * min(0.4 * band, period / (2 * math.pi))
        angle = place * 2 * math.pi / period + rng.uniform(0, 2 * math.pi)
        course += swing * np.sin(angle)
        slope += swing * 2 * math.pi / period * np.cos(angle)
    half = RIVER_PX / 2 * np.sqrt(1 + slope**2)
    low, high = scene.frame_px, scene.frame_px + breadth
    return (
        np.clip(np.rint(course - half), low, high).astype(np.int64),
        np.clip(np.rint(course + half), low, high).astype(np.int64),
    )
