"""The laws of stitching, with a predictor that is perfect but for the edges of its tile."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg import rle
from rayseg.errors import ConfigError
from rayseg.geometry import Size, Window
from rayseg.tiling.fragments import FRAGMENTS, Fragment, to_table
from rayseg.tiling.grid import Grid
from rayseg.tiling.objects import SCENE_OBJECTS, to_objects
from rayseg.tiling.stitch import SeamStats, Stitcher

from . import oracle

KNOWING = st.sampled_from([0, 4, 8])  # objects whole, or their pieces that hang together by sides, or by corners too


@given(st.data(), oracle.scenes(), KNOWING)
def test_stitched_objects_equal_the_true_objects(data, ids, knowing):
    grid = data.draw(oracle.grids(oracle.size_of(ids)))
    part = Stitcher(grid).scene(oracle.fragments(ids, grid, knowing))
    assert oracle.found(part.finished) == oracle.truth(ids, grid, knowing)
    assert len(part.open) == part.stats.dropped == 0


@given(st.data(), oracle.scenes(), KNOWING)
def test_the_order_of_tiles_and_fragments_makes_no_difference(data, ids, knowing):
    grid = data.draw(oracle.grids(oracle.size_of(ids)))
    fragments = oracle.fragments(ids, grid, knowing)
    order = data.draw(st.randoms(use_true_random=False)).sample(range(len(fragments)), len(fragments))
    shuffled = Stitcher(grid).scene(fragments.take(pa.array(order, pa.int64())))
    assert oracle.found(shuffled.finished) == oracle.found(Stitcher(grid).scene(fragments).finished)


@given(st.data(), oracle.scenes(), st.sampled_from([4, 8]))
def test_shifting_the_grid_changes_nothing(data, ids, knowing):
    grid, shifted = (data.draw(oracle.grids(oracle.size_of(ids))) for _ in range(2))
    assert oracle.found(Stitcher(grid).scene(oracle.fragments(ids, grid, knowing)).finished) == oracle.found(
        Stitcher(shifted).scene(oracle.fragments(ids, shifted, knowing)).finished
    )


@given(oracle.scenes(), KNOWING)
def test_one_tile_is_no_tiling(ids, knowing):
    fragments = oracle.fragments(ids, Grid(oracle.size_of(ids), max(ids.shape), 0), knowing)
    objects = Stitcher(Grid(oracle.size_of(ids), max(ids.shape), 0)).scene(fragments).finished
    assert objects.select(FRAGMENTS.names[1:]).to_pylist() == fragments.select(FRAGMENTS.names[1:]).to_pylist()
    assert objects["n_fragments"].to_pylist() == [1] * len(objects) and set(map(tuple, objects["tiles"].to_pylist())) <= {(0,)}


@given(st.data(), oracle.scenes(), KNOWING)
def test_row_by_row_gives_the_same_and_each_object_as_soon_as_no_later_row_can_reach_it(data, ids, knowing):
    grid = data.draw(oracle.grids(oracle.size_of(ids)))
    tables = rows_of(grid, oracle.fragments(ids, grid, knowing))
    parts = list(Stitcher(grid).rows(tables))
    assert oracle.found(*(part.finished for part in parts)) == oracle.truth(ids, grid, knowing)
    for row, part in enumerate(parts[:-1]):
        later = grid.rows.starts[row + 1]
        waiting = {g for g, y1 in zip(part.group.tolist(), part.open["y1"].to_pylist(), strict=True) if y1 > later}
        assert waiting == set(part.group.tolist())
    whole = Stitcher(grid).scene(pa.concat_tables(tables)).stats
    assert sum((part.stats for part in parts), SeamStats()) == whole


@given(st.data(), oracle.scenes(), KNOWING, st.randoms(use_true_random=False))
def test_parts_joined_in_any_order_give_the_same(data, ids, knowing, random):
    grid = data.draw(oracle.grids(oracle.size_of(ids)))
    stitcher, tables = Stitcher(grid), rows_of(grid, oracle.fragments(ids, grid, knowing))
    parts = [stitcher.part(table, row, row + 1) for row, table in enumerate(tables)]
    while len(parts) > 1:
        at = random.randrange(len(parts) - 1)
        parts[at : at + 2] = [stitcher.join(parts[at], parts[at + 1])]
    assert oracle.found(parts[0].finished) == oracle.truth(ids, grid, knowing)
    assert parts[0].stats == stitcher.scene(pa.concat_tables(tables)).stats


@settings(max_examples=50)
@given(st.data(), oracle.scenes())
def test_masks_that_overlap_inside_a_tile_stay_two_objects(data, ids):
    """Two objects of one class on the same ground, one a little larger: each finds its own other half."""
    grid = data.draw(oracle.grids(oracle.size_of(ids)))
    mask = ids == 1
    larger = mask | np.roll(mask, 1, axis=0) | np.roll(mask, -1, axis=1)
    if not mask.any() or len(oracle.linked_by_tiles(mask, grid)) > 1 or len(oracle.linked_by_tiles(larger, grid)) > 1:
        return
    rows, different = [], True
    for tile in grid:
        views = [m[tile.window.slices] for m in (mask, larger)]
        rows += [oracle.fragment(tile.index, 0, 0.5, v, tile.window.x0, tile.window.y0) for v in views if v.any()]
        for other in grid.neighbours(tile.index):
            strip = grid.strip(tile.index, other).slices
            different &= bool((mask[strip] != larger[strip]).any()) or not larger[strip].any()
    if not different:
        return  # inside some strip nothing tells the two apart
    found = Stitcher(grid).scene(to_table(rows)).finished
    assert sorted(found["area_px"].to_pylist()) == [mask.sum(), larger.sum()]


def test_a_river_through_two_hundred_tiles_is_one_object():
    x = np.arange(5000)
    ids = np.zeros((60, 5000), dtype=int)
    for dy in range(4):
        ids[(30 + 20 * np.sin(x / 40)).astype(int) + dy, x] = 1
    grid = Grid(oracle.size_of(ids), tile_px=33, overlap_px=3)
    (river,) = to_objects(Stitcher(grid).scene(oracle.fragments(ids, grid, 8)).finished)
    assert river.mask.area == (ids == 1).sum() and len(river.tiles) >= 200


def test_an_object_inside_the_corner_of_four_tiles_is_one_object():
    ids = np.zeros((28, 28), dtype=int)
    ids[12:16, 11:17] = 1
    grid = Grid(Size(28, 28), tile_px=18, overlap_px=8)
    fragments = oracle.fragments(ids, grid)
    (found,) = to_objects(Stitcher(grid).scene(fragments).finished)
    assert len(fragments) == 4 and found.tiles == (0, 1, 2, 3) and found.window == Window(11, 12, 17, 16)


def test_neighbours_of_one_class_that_touch_along_a_seam_stay_apart():
    ids = np.zeros((20, 40), dtype=int)
    ids[2:9, 5:35], ids[9:18, 3:37] = 1, 4  # both of class 1
    grid = Grid(Size(20, 40), tile_px=20, overlap_px=4)
    assert oracle.found(Stitcher(grid).scene(oracle.fragments(ids, grid)).finished) == oracle.truth(ids, grid)


def test_a_ring_cut_into_arcs_is_closed_again():
    y, x = np.mgrid[:60, :60]
    ids = (np.abs(np.hypot(y - 30, x - 30) - 24) < 3).astype(int)
    grid = Grid(Size(60, 60), tile_px=20, overlap_px=4)
    (ring,) = to_objects(Stitcher(grid).scene(oracle.fragments(ids, grid, 4)).finished)
    assert ring.mask.area == ids.sum() and ring.n_fragments >= 8


def test_a_bend_that_one_tile_sees_as_two_arms_is_one_object():
    ids = np.zeros((40, 20), dtype=int)
    ids[2:36, 3:6] = ids[2:36, 12:18] = ids[30:36, 3:18] = 1
    grid = Grid(Size(40, 20), tile_px=24, overlap_px=4)
    fragments = oracle.fragments(ids, grid, 4)
    assert len(fragments) == 3
    (bend,) = to_objects(Stitcher(grid).scene(fragments).finished)
    assert bend.mask.area == ids.sum() and bend.n_fragments == 3


def test_a_scene_without_objects_has_none():
    grid = Grid(Size(50, 50), 20, 5)
    part = Stitcher(grid).scene(FRAGMENTS.empty_table())
    assert part.finished.equals(SCENE_OBJECTS.empty_table()) and part.stats == SeamStats()


def test_an_overlap_of_zero_is_refused_unless_there_is_one_tile():
    with pytest.raises(ConfigError, match="overlap_px is 0 with 4 tiles"):
        Stitcher(Grid(Size(20, 20), 10, 0))
    Stitcher(Grid(Size(10, 10), 10, 0))


def test_too_few_rows_are_refused():
    grid = Grid(Size(50, 50), 20, 5)
    with pytest.raises(ValueError, match="fragments of 2 rows of tiles were given, the grid has 3"):
        list(Stitcher(grid).rows([FRAGMENTS.empty_table()] * 2))
    with pytest.raises(ValueError, match="rows 3 to 4 are not rows of a grid of 3"):
        list(Stitcher(grid).rows([FRAGMENTS.empty_table()] * 4))


def test_parts_that_are_no_neighbours_are_refused():
    stitcher = Stitcher(Grid(Size(50, 50), 20, 5))
    first, last = (stitcher.part(FRAGMENTS.empty_table(), row, row + 1) for row in (0, 2))
    with pytest.raises(ValueError, match="ends before row 1 cannot be joined with one from row 2"):
        stitcher.join(first, last)


def test_fragments_of_another_part_or_grid_are_refused():
    stitcher = Stitcher(Grid(Size(50, 50), 20, 5))
    pixel = np.ones((1, 1), dtype=bool)
    with pytest.raises(ValueError, match="fragments of rows 1 to 1 in a part of rows 0 to 1"):
        stitcher.part(to_table([oracle.fragment(3, 0, 0.5, pixel, 0, 15)]), 0, 1)
    with pytest.raises(ValueError, match=r"outside the tile's \[0, 0, 20, 20\]; were the fragments made with another grid"):
        stitcher.scene(to_table([oracle.fragment(0, 0, 0.5, pixel, 30, 15)]))
    with pytest.raises(ValueError, match="fragment 0 is of tile 9; the grid has 9 tiles"):
        stitcher.scene(to_table([oracle.fragment(9, 0, 0.5, pixel, 0, 0)]))
    empty = Fragment(0, 0, 0.5, Window(3, 3, 4, 5), rle.encode(np.zeros((2, 1), dtype=bool)))
    with pytest.raises(ValueError, match=r"a fragment of tile 0 at \[3, 3, 4, 5\] has no pixel"):
        stitcher.scene(to_table([empty]))
    with pytest.raises(ValueError, match="other than those of FRAGMENTS"):
        stitcher.scene(FRAGMENTS.empty_table().drop_columns(["score"]))


def rows_of(grid, fragments):
    row = fragments["tile"].to_numpy() // len(grid.columns)
    return [fragments.filter(pa.array(row == r)) for r in range(len(grid.rows))]
