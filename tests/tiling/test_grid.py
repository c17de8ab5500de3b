"""Tiles cover the scene, cores part it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import ConfigError
from rayseg.geometry import Size, Window
from rayseg.tiling.grid import Grid

from .oracle import grids

SIZES = st.builds(Size, st.integers(1, 60), st.integers(1, 60))


@given(st.data(), SIZES)
def test_every_pixel_lies_in_exactly_one_core_and_the_core_in_its_tile(data, size):
    grid = data.draw(grids(size, least_overlap=0))
    times = np.zeros(size.hw, dtype=int)
    for tile in grid:
        times[tile.core.slices] += 1
        assert not tile.core.empty
        assert tile.window.x0 <= tile.core.x0 and tile.core.x1 <= tile.window.x1
        assert tile.window.y0 <= tile.core.y0 and tile.core.y1 <= tile.window.y1
    assert (times == 1).all()


@given(st.data(), SIZES)
def test_tiles_are_of_one_size_inside_the_scene_and_share_at_least_the_overlap(data, size):
    grid = data.draw(grids(size, least_overlap=0))
    for tile in grid:
        assert tile.window.clip(size) == tile.window
        assert Size(tile.window.height, tile.window.width) == grid.tile_size
        if tile.column:
            assert grid.tile(tile.index - 1).window.x1 - tile.window.x0 >= grid.overlap_px
        if tile.row:
            assert grid.tile(tile.index - len(grid.columns)).window.y1 - tile.window.y0 >= grid.overlap_px


@given(st.data(), SIZES)
def test_a_tile_around_its_core_has_half_the_overlap_wherever_the_scene_goes_on(data, size):
    grid = data.draw(grids(size))
    half = grid.overlap_px // 2
    for tile in grid:
        wanted = Window(tile.core.x0 - half, tile.core.y0 - half, tile.core.x1 + half, tile.core.y1 + half).clip(size)
        assert tile.window.x0 <= wanted.x0 and tile.window.y0 <= wanted.y0
        assert tile.window.x1 >= wanted.x1 and tile.window.y1 >= wanted.y1


@given(st.data(), SIZES)
def test_neighbours_are_the_tiles_with_a_strip(data, size):
    grid = data.draw(grids(size, least_overlap=0))
    index = data.draw(st.integers(0, len(grid) - 1))
    assert grid.neighbours(index) == [i for i in range(len(grid)) if i != index and not grid.strip(index, i).empty]


@given(st.data(), SIZES)
def test_the_owner_of_a_pixel_is_the_tile_in_whose_core_it_lies(data, size):
    grid = data.draw(grids(size, least_overlap=0))
    for tile in grid:
        core = grid.cores(np.asarray([tile.index]))[0].tolist()
        assert core == [tile.core.x0, tile.core.y0, tile.core.x1, tile.core.y1]
        assert (grid.columns.owner(np.arange(tile.core.x0, tile.core.x1)) == tile.column).all()
        assert (grid.rows.owner(np.arange(tile.core.y0, tile.core.y1)) == tile.row).all()


def test_a_known_scene_has_its_known_tiles():
    grid = Grid(Size(10, 25), tile_px=10, overlap_px=4)
    assert [t.window for t in grid] == [Window(x, 0, x + 10, 10) for x in (0, 6, 12, 15)]
    assert [t.core for t in grid] == [Window(a, 0, b, 10) for a, b in ((0, 8), (8, 14), (14, 18), (18, 25))]


def test_a_shift_moves_the_seams():
    grid = Grid(Size(10, 25), tile_px=10, overlap_px=4, shift_px=(2, 0))
    assert grid.columns.starts.tolist() == [0, 2, 8, 14, 15]
    assert Grid(Size(10, 25), 10, 4, (6, 0)).columns.starts.tolist() == Grid(Size(10, 25), 10, 4).columns.starts.tolist()


def test_a_scene_smaller_than_a_tile_is_one_tile():
    (tile,) = Grid(Size(3, 7), tile_px=100, overlap_px=20)
    assert tile.window == tile.core == Window(0, 0, 7, 3)


def test_a_scene_of_a_million_tiles_costs_its_two_sides():
    grid = Grid(Size(1_000_000, 1_000_000), tile_px=1024, overlap_px=24)
    assert len(grid) == 1_000_000 and grid.tile(999_999).window.x1 == 1_000_000


@pytest.mark.parametrize("tile, overlap", [(0, 0), (8, 8), (8, -1), (8, 20)])
def test_tiles_that_cannot_be_are_refused(tile, overlap):
    with pytest.raises(ConfigError, match=r"tile_px is 0|overlap_px is (8|-1|20) with tiles of 8"):
        Grid(Size(10, 10), tile, overlap)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_tile_that_is_not_there_is_refused(index):
    with pytest.raises(IndexError, match="of a grid of 4 tiles"):
        Grid(Size(15, 15), 10, 2).tile(index)
