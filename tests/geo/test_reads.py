"""Reading tiles of one row together, and what it saves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.geo.bands import Bands
from rayseg.geo.raster import open_scene, read_window
from rayseg.geo.reads import layout, plan_reads, read_tiles, reading_cost
from rayseg.geo.scaling import Scaling
from rayseg.geometry import Size, Window

from .rasters import noise, windows_in, write

SIZE = Size(96, 128)
RGB = Bands((1, 2, 3))
PLAIN = Scaling((0.0,) * 3, (255.0,) * 3)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder, values = tmp_path_factory.mktemp("reads"), noise((3, *SIZE.hw))
    values[:, :40, :40] = 0
    return {
        "strips": open_scene(write(folder / "strips.tif", values, nodata=0, blockysize=8, compress="deflate", interleave="band")),
        "tiles": open_scene(write(folder / "tiles.tif", values, nodata=0, tiled=True, blockxsize=32, blockysize=32)),
        "stream": open_scene(write(folder / "stream.jpg", values, driver="JPEG")),
    }


def grid(side: int, overlap: int = 0) -> list[Window]:
    return [
        Window(max(0, x - overlap), max(0, y - overlap), x + side + overlap, y + side + overlap).clip(SIZE)
        for y in range(0, SIZE.height, side)
        for x in range(0, SIZE.width, side)
    ]


@settings(max_examples=60)
@given(kind=st.sampled_from(("strips", "tiles", "stream")), data=st.data(), limit=st.sampled_from((1, 20_000, 10**9)))
def test_tiles_read_together_are_the_tiles_read_alone_each_once(scenes, kind, data, limit):
    scene = scenes[kind]
    tiles = data.draw(st.one_of(st.lists(windows_in(SIZE), max_size=6), st.sampled_from([grid(32), grid(32, 4), grid(50, 3)])))
    reads = plan_reads(scene, tiles, RGB, max_bytes=limit)
    seen = []
    for read in reads:
        assert len(read.tiles) == 1 or read.window.width * read.window.height * 8 <= limit
        for i, rgb, valid in read_tiles(scene, read, tiles, bands=RGB, scaling=PLAIN):
            alone = read_window(scene, tiles[i], bands=RGB, scaling=PLAIN)
            assert (rgb == alone[0]).all() and (valid == alone[1]).all()
            seen.append(i)
    assert sorted(seen) == list(range(len(tiles)))


def test_files_are_known_by_how_they_are_cut(scenes):
    assert {name: layout(scene) for name, scene in scenes.items()} == {name: name for name in scenes}


def test_rows_are_read_once_from_strips_and_each_tile_alone_from_tiles(scenes):
    reads = plan_reads(scenes["strips"], grid(32), RGB)
    assert [r.window for r in reads] == [Window(0, y, 128, y + 32) for y in (0, 32, 64)]
    assert [len(r.tiles) for r in plan_reads(scenes["tiles"], grid(32), RGB)] == [1] * 12


def test_a_row_too_large_for_memory_is_read_in_pieces(scenes):
    reads = plan_reads(scenes["strips"], grid(32), RGB, max_bytes=2 * 32 * 32 * 8)
    assert [r.window.width for r in reads] == [64] * 6


def test_the_cost_counts_whole_blocks(scenes):
    tile = 32 * 32 * 3
    strips = reading_cost(scenes["strips"], grid(32), RGB)
    assert (strips.layout, strips.needed_bytes, strips.tile_bytes, strips.grouped_bytes) == ("strips", tile, 4 * tile, tile)
    tiles = reading_cost(scenes["tiles"], grid(32), RGB)
    assert (tiles.layout, tiles.tile_bytes, tiles.grouped_bytes) == ("tiles", tile, tile)
    assert reading_cost(scenes["tiles"], grid(32, 1), RGB).tile_bytes > 3 * tile, "one pixel more touches the neighbours' blocks"
    assert reading_cost(scenes["strips"], grid(32), Bands((1,))).tile_bytes == 4 * tile // 3, "bands lie apart"
    assert reading_cost(scenes["tiles"], grid(32), Bands((1,))).tile_bytes == tile, "bands lie together"


def test_a_stream_costs_all_that_lies_above(scenes):
    cost = reading_cost(scenes["stream"], grid(32), RGB)
    assert cost.tile_bytes == 128 * 3 * (32 + 64 + 96) // 3 and cost.grouped_bytes == 32 * 32 * 3


def test_the_cost_is_told_in_words(scenes):
    assert str(reading_cost(scenes["strips"], grid(32), RGB)).startswith("strips of 128 x 8: a tile of 0.0 MB takes")
    with pytest.raises(ValueError, match="no tile"):
        reading_cost(scenes["strips"], [], RGB)


def test_tiles_at_the_edge_are_filled_up(scenes):
    tiles = [Window(100, 90, 128, 96)]
    read = plan_reads(scenes["strips"], tiles, RGB)[0]
    [(_, rgb, valid)] = read_tiles(scenes["strips"], read, tiles, bands=RGB, scaling=PLAIN, pad_to=Size(32, 32))
    assert rgb.shape == (32, 32, 3) and valid.shape == (32, 32) and valid[:6, :28].all() and valid.sum() == 6 * 28
    assert not np.delete(rgb, slice(0, 28), axis=1).any()
