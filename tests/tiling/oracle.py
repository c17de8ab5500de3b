"""Random scenes, predictors that see them perfectly but for their tile's edges, and slow, obvious answers."""

from __future__ import annotations

import cv2
import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from rayseg import rle
from rayseg.geometry import Size, Window
from rayseg.tiling.fragments import Fragment, to_table
from rayseg.tiling.grid import Grid
from rayseg.tiling.objects import to_objects

N_CLASSES = 3


@st.composite
def grids(draw, scene, *, least_overlap=1):
    """Any grid over a scene, of one tile to about fifty: narrow overlaps and such that three tiles share; shifted or not."""
    side = max(scene.hw)
    step, overlap = draw(st.integers(side // 7 + 1, side + 1)), draw(st.integers(least_overlap, side))
    tile = step + overlap
    shift = draw(st.tuples(st.integers(-9, 9), st.integers(-9, 9)))
    return Grid(scene, tile, overlap, shift)


@st.composite
def scenes(draw):
    """int (H, W): 0 is nothing, k > 0 is object k, of class k modulo 3. They touch, wind, enclose one another, fall to pieces."""
    height, width = draw(st.integers(1, 28)), draw(st.integers(1, 28))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["cells", "rivers", "rings", "dust", "comb", "full"]))
    y, x = np.mgrid[:height, :width]
    if kind == "cells":  # a mosaic, every neighbour touching
        seeds = rng.uniform(0, 1, (rng.integers(1, 12), 2)) * [height, width]
        near = ((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2).argmin(axis=-1)
        return np.where(rng.random(len(seeds))[near] < 0.8, near + 1, 0)
    if kind == "rivers":
        ids = np.zeros((height, width), dtype=int)
        for k in range(1, rng.integers(2, 6)):
            at = rng.integers(0, [height, width])
            for _ in range(rng.integers(1, 120)):
                ids[tuple(at)] = k
                at = np.clip(at + rng.integers(-1, 2, 2), 0, [height - 1, width - 1])
        return ids
    if kind == "rings":
        distance = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)).astype(int)
        return (distance // 2 + 1) * (distance % 4 < 3)
    if kind == "dust":
        return rng.integers(0, rng.integers(2, 8), (height, width))
    if kind == "comb":
        return np.where((x % 4 < 2) | (y == rng.integers(0, height)), 1, np.where(x % 4 == 2, 2, 0))
    return np.ones((height, width), dtype=int)


def pieces(mask, connectivity):
    """Connected pieces of a mask; connectivity 4 or 8, or 0 for the mask as it is."""
    if connectivity == 0:
        return [mask] if mask.any() else []
    n, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)
    return [labels == k for k in range(1, n)]


def seen(ids, tile, connectivity):
    """What a perfect predictor reports of one tile: every object cut by the tile, whole or piece by piece."""
    view = ids[tile.window.slices]
    out = []
    for k in np.unique(view[view > 0]).tolist():
        out += [
            fragment(tile.index, k % N_CLASSES, score(k), mask, tile.window.x0, tile.window.y0)
            for mask in pieces(view == k, connectivity)
        ]
    return out


def score(k):
    return 0.5 + (k % 7) / 16  # exact in float32


def fragment(tile, class_id, score_, mask, x0=0, y0=0):
    window, tight = tight_mask(mask)
    return Fragment(tile, class_id, score_, window.shift(x0, y0), rle.encode(tight))


def tight_mask(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return window, mask[window.slices]


def fragments(ids, grid, connectivity=0) -> pa.Table:
    return to_table(f for tile in grid for f in seen(ids, tile, connectivity))


def truth(ids, grid, connectivity=0):
    """The objects that can be known, as a sorted list of (class, score, window, counts).

    A predictor that reports connected pieces can know connected objects. One that knows which pieces are one object can tell
    so wherever one tile sees them, or a chain of tiles that share pixels of it.
    """
    out = []
    for k in np.unique(ids[ids > 0]).tolist():
        known = pieces(ids == k, connectivity) if connectivity else linked_by_tiles(ids == k, grid)
        for mask in known:
            window, tight = tight_mask(mask)
            out.append((k % N_CLASSES, score(k), window, rle.encode(tight)))
    return sorted(out, key=repr)


def linked_by_tiles(mask, grid):
    parts = []
    for tile in grid:
        part = np.zeros_like(mask)
        part[tile.window.slices] = mask[tile.window.slices]
        apart = [other for other in parts if not (other & part).any()]
        joined = np.any([part, *(other for other in parts if (other & part).any())], axis=0)
        parts = [*apart, *([joined] if joined.any() else [])]
    return parts


def found(*tables):
    """Stitched objects, comparable with `truth`."""
    objects = [o for table in tables for o in to_objects(table)]
    for o in objects:
        assert o.tiles == tuple(sorted(set(o.tiles)))
        assert o.n_fragments >= len(o.tiles)
    return sorted(((o.class_id, o.score, o.window, o.mask) for o in objects), key=repr)


def size_of(ids):
    return Size(*ids.shape)
