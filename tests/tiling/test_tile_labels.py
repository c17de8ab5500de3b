"""What is stored of a tile's labels gives back the map that all of it gives."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import ConfigError
from rayseg.geometry import Size
from rayseg.tiling.grid import Grid
from rayseg.tiling.labels import blended_bands, centre_bands
from rayseg.tiling.tile_labels import TILE_LABELS, read_labels, read_probabilities, tile_labels_table

from . import oracle

small_sizes = st.builds(Size, st.integers(1, 30), st.integers(1, 30))


def joined(bands):
    return np.concatenate([band.labels for band in bands])


def through_parquet(tables):
    """One row a tile, as a reader that holds one row group hands them out."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, TILE_LABELS, compression="zstd", use_dictionary=False) as file:
        for table in tables:
            file.write_table(table)
    file = pq.ParquetFile(sink)
    assert file.schema_arrow.equals(TILE_LABELS)
    return file.iter_batches(batch_size=1)


def some_probabilities(rng, n, size, kind):
    """uint8 (n, H, W): noise, many ties, or nearly sure."""
    if kind == "ties":
        return rng.integers(0, 3, (n, *size.hw), dtype=np.uint8)
    raw = rng.random((n, *size.hw)) ** (1 if kind == "noise" else 40)
    return np.rint(255 * raw / raw.sum(axis=0)).astype(np.uint8)


@given(st.data(), small_sizes, st.integers(1, 5), st.sampled_from(["noise", "ties", "sure"]), st.integers(0, 2**32))
def test_blending_what_was_stored_gives_the_map_that_all_probabilities_give(data, size, n, kind, seed):
    grid, rng = data.draw(oracle.grids(size, least_overlap=0)), np.random.default_rng(seed)
    void = data.draw(st.sampled_from([n, 255, 65535]))
    valid = rng.random(size.hw) < 0.8 if data.draw(st.booleans()) else None
    tiles, tables = [], []
    for tile in grid:
        found = some_probabilities(rng, n, grid.tile_size, kind)
        here = None if valid is None else valid[tile.window.slices]
        padded = np.pad(found, ((0, 0), (0, 3), (0, 2)), constant_values=7)
        tables.append(tile_labels_table(grid, tile.index, probabilities=padded, valid=here, void=void))
        tiles.append(np.where(True if here is None else here, found, 0) / np.float32(255))
    rows = [read_probabilities(row, grid, n) for row in through_parquet(tables)]
    assert all(row.dtype == np.float32 for row in rows)
    found = joined(blended_bands(grid, rows, n_classes=n, void=void))
    assert (found == joined(blended_bands(grid, tiles, n_classes=n, void=void))).all()
    if valid is not None:
        assert (found[~valid] == void).all()


@given(st.data(), oracle.scenes(), st.integers(0, 2**32))
def test_what_was_stored_gives_the_true_map_by_the_centre_rule_and_void_where_there_is_no_data(data, ids, seed):
    grid, rng = data.draw(oracle.grids(oracle.size_of(ids), least_overlap=0)), np.random.default_rng(seed)
    void = data.draw(st.sampled_from([255, 256, 65535]))
    ids = ids.astype(data.draw(st.sampled_from(["uint8", "uint16", "int64"])))
    valid = rng.random(ids.shape) < 0.7
    views = ((t.index, ids[t.window.slices], valid[t.window.slices]) for t in grid)
    tables = [tile_labels_table(grid, i, np.pad(view, 1)[1:, 1:], valid=here, void=void) for i, view, here in views]
    rows = [read_labels(row, grid) for row in through_parquet(tables)]
    assert {row.dtype for row in rows} == {np.dtype("u1" if void == 255 else "u2")}
    assert (joined(centre_bands(grid, rows, void=void)) == np.where(valid, ids.astype(int), void)).all()


@given(st.data(), small_sizes)
def test_probabilities_are_kept_of_just_the_pixels_that_other_tiles_see(data, size):
    grid = data.draw(oracle.grids(size, least_overlap=0))
    seen = np.zeros(size.hw, dtype=int)
    for tile in grid:
        seen[tile.window.slices] += 1
    for tile in grid:
        place = np.arange(grid.tile_size.pixels).reshape(grid.tile_size.hw) % 251
        table = tile_labels_table(grid, tile.index, probabilities=np.stack([place, place]).astype(np.uint8))
        wanted = place[seen[tile.window.slices] > 1].astype(np.uint8)
        assert table["shared"][0].as_py() == 2 * wanted.tobytes()


def test_labels_of_a_tile_are_those_of_its_probabilities_and_the_first_of_equal_ones():
    grid = Grid(Size(1, 4), tile_px=4, overlap_px=0)
    found = np.asarray([[[9, 3, 0, 4]], [[9, 5, 0, 4]], [[1, 2, 0, 8]]], dtype=np.uint8)
    table = tile_labels_table(grid, 0, probabilities=found, valid=np.asarray([[True, True, True, False]]))
    assert read_labels(table, grid).tolist() == [[0, 1, 255, 255]]
    assert table["shared"][0].as_py() == b""
    assert read_probabilities(table, grid, 3).tolist() == [[[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 0, 0]]]


GRID = Grid(Size(10, 10), tile_px=8, overlap_px=2)
FLAT = np.zeros((8, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({}, ValueError, "tile 3: give either its labels or its probabilities"),
        ({"labels": FLAT, "probabilities": FLAT[None]}, ValueError, "tile 3: give either"),
        ({"labels": FLAT[1:]}, ValueError, r"labels uint8 \(7, 8\) of tile 3: expected integer values that cover 8 x 8"),
        ({"labels": FLAT / 2}, ValueError, "labels float64"),
        ({"labels": FLAT + 255}, ValueError, "tile 3 has labels 255 to 255, where 255 is void"),
        ({"labels": FLAT.astype(int) - 1}, ValueError, "tile 3 has labels -1 to -1"),
        ({"labels": FLAT, "valid": FLAT}, ValueError, r"valid uint8 \(8, 8\) of tile 3: expected bool"),
        ({"probabilities": FLAT}, ValueError, r"probabilities uint8 \(8, 8\) of tile 3"),
        ({"probabilities": FLAT[None] / 2}, ValueError, "probabilities float64"),
        ({"probabilities": np.zeros((256, 8, 8), np.uint8)}, ConfigError, "256 classes leave no room for the void label 255"),
        ({"labels": FLAT, "void": 70000}, ConfigError, "void label 70000"),
    ],
)
def test_what_cannot_be_stored_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        tile_labels_table(GRID, 3, **given)


def test_rows_of_another_grid_or_without_probabilities_are_refused():
    table = tile_labels_table(GRID, 3, FLAT)
    with pytest.raises(ValueError, match="tile 3 was stored without probabilities; blending needs them"):
        read_probabilities(table, GRID, 2)
    with pytest.raises(ValueError, match="tile 3 is not of this grid, which has 1 tiles"):
        read_labels(table, Grid(Size(8, 8), 8, 2))
    with pytest.raises(ValueError, match="tile 3 was stored with 64 bytes of labels, not as a tile of Size"):
        read_labels(table, Grid(Size(10, 10), 6, 2))
    with pytest.raises(ValueError, match="expected the row of one tile, got 2 rows"):
        read_labels(pa.concat_tables([table, table]), GRID)
    blended = tile_labels_table(GRID, 3, probabilities=np.ones((3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="was stored with 180 probabilities, not with 4 for each of 60 pixels"):
        read_probabilities(blended, GRID, 4)
