"""Label maps of scenes, band by band, and the regions in them."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayseg import rle
from rayseg.errors import ConfigError
from rayseg.geometry import Size, Window
from rayseg.tiling.grid import Grid
from rayseg.tiling.labels import Band, blend_weights, blended_bands, centre_bands
from rayseg.tiling.objects import to_objects
from rayseg.tiling.regions import class_regions

from . import oracle


def joined(bands, size):
    """The whole map; the bands must follow one another and span the scene."""
    bands, at = list(bands), 0
    for band in bands:
        assert band.window == Window(0, at, size.width, at + band.labels.shape[0])
        assert band.labels.shape == (band.window.height, size.width)
        at = band.window.y1
    assert at == size.height
    return np.concatenate([band.labels for band in bands])


def one_hot(labels, n):
    return (np.arange(n)[:, None, None] == labels).astype(np.float32)


@given(st.data(), oracle.scenes())
def test_true_labels_cut_by_the_tiles_give_the_true_map_by_either_rule(data, ids):
    grid = data.draw(oracle.grids(oracle.size_of(ids), least_overlap=0))
    n = int(ids.max()) + 1
    assert (joined(centre_bands(grid, (ids[t.window.slices] for t in grid)), grid.scene) == ids).all()
    probabilities = (one_hot(ids[t.window.slices], n) for t in grid)
    assert (joined(blended_bands(grid, probabilities, n_classes=n), grid.scene) == ids).all()


@given(st.data(), st.builds(Size, st.integers(1, 60), st.integers(1, 60)))
def test_the_weights_of_every_pixel_sum_to_one_and_fall_towards_inner_edges(data, size):
    grid = data.draw(oracle.grids(size, least_overlap=0))
    total = np.zeros(size.hw)
    down, across = blend_weights(grid.rows, grid.overlap_px), blend_weights(grid.columns, grid.overlap_px)
    for tile in grid:
        total[tile.window.slices] += down[tile.row][:, None] * across[tile.column]
    assert np.allclose(total, 1, atol=1e-6) and (down > 0).all() and (across > 0).all()


@given(st.data(), st.builds(Size, st.integers(1, 30), st.integers(1, 30)), st.integers(0, 2**32))
def test_blending_band_by_band_equals_blending_on_a_full_canvas(data, size, seed):
    grid = data.draw(oracle.grids(size, least_overlap=0))
    rng = np.random.default_rng(seed)
    tiles = [rng.random((3, *grid.tile_size.hw)).astype(np.float32) if rng.random() < 0.9 else None for _ in grid]
    canvas = np.zeros((3, *size.hw))
    down, across = blend_weights(grid.rows, grid.overlap_px), blend_weights(grid.columns, grid.overlap_px)
    for tile, probabilities in zip(grid, tiles, strict=True):
        if probabilities is not None:
            canvas[(slice(None), *tile.window.slices)] += probabilities * (down[tile.row][:, None] * across[tile.column])
    top = np.sort(canvas, axis=0)
    clear = (top[-1] - top[-2] > 1e-5) | (top[-1] == 0)
    wanted = np.where(top[-1] > 0, canvas.argmax(axis=0), 255)
    found = joined(blended_bands(grid, tiles, n_classes=3), size)
    assert (found == wanted)[clear].all() and found.dtype == np.uint8


@given(st.data(), oracle.scenes())
def test_by_the_centre_rule_every_pixel_is_of_the_tile_in_charge(data, ids):
    grid = data.draw(oracle.grids(oracle.size_of(ids), least_overlap=0))
    tiles = (np.full(grid.tile_size.hw, t.index) if t.index % 3 else None for t in grid)
    found = joined(centre_bands(grid, tiles, void=65535), grid.scene)
    for tile in grid:
        assert (found[tile.core.slices] == (tile.index if tile.index % 3 else 65535)).all()


def test_predictions_of_padded_tiles_are_cut():
    grid = Grid(Size(5, 6), tile_px=8, overlap_px=2)
    assert joined(centre_bands(grid, [np.eye(8, dtype=int)]), grid.scene).tolist() == np.eye(5, 6, dtype=int).tolist()
    assert (joined(blended_bands(grid, [one_hot(np.eye(8), 2)], n_classes=2), grid.scene) == np.eye(5, 6)).all()


def test_a_band_is_ready_before_the_next_row_is_asked_for():
    grid, asked = Grid(Size(50, 20), tile_px=20, overlap_px=5), []

    def tiles():
        for tile in grid:
            asked.append(tile.index)
            yield np.zeros(grid.tile_size.hw, dtype=np.uint8)

    next(centre_bands(grid, tiles()))
    assert asked == [0]


@pytest.mark.parametrize("n, message", [(2, "predictions end before tile 2 of 4"), (5, "more predictions than the 4 tiles")])
def test_too_few_or_too_many_predictions_are_refused(n, message):
    grid = Grid(Size(15, 15), 10, 2)
    with pytest.raises(ValueError, match=message):
        list(centre_bands(grid, [None] * n))
    with pytest.raises(ValueError, match=message):
        list(blended_bands(grid, [None] * n, n_classes=2))


def test_wrong_predictions_are_refused():
    grid = Grid(Size(10, 10), 10, 2)
    with pytest.raises(ValueError, match=r"shape \(9, 10\) does not cover tile 0"):
        list(centre_bands(grid, [np.zeros((9, 10), dtype=int)]))
    with pytest.raises(ValueError, match="tile 0 has label 300; set `void` above 255"):
        list(centre_bands(grid, [np.full((10, 10), 300)]))
    with pytest.raises(ValueError, match=r"probabilities \(3, 10, 10\), expected \(2, h, w\)"):
        list(blended_bands(grid, [np.zeros((3, 10, 10))], n_classes=2))
    with pytest.raises(ConfigError, match="256 classes leave no room for the void label 255"):
        list(blended_bands(grid, [None], n_classes=256))
    with pytest.raises(ConfigError, match="void label 70000"):
        list(centre_bands(grid, [None], void=70000))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 25), st.integers(1, 25)), elements=st.integers(0, 3)), st.data())
def test_regions_of_bands_equal_those_of_the_whole_map(labels, data):
    connectivity, least = data.draw(st.sampled_from([4, 8])), data.draw(st.integers(1, 4))
    cuts = sorted({0, len(labels), *data.draw(st.lists(st.integers(0, len(labels)), max_size=4))})
    bands = [Band(Window(0, a, labels.shape[1], b), labels[a:b]) for a, b in itertools.pairwise(cuts)]
    tables = list(class_regions(bands, skip=[0], connectivity=connectivity, min_px=least))
    found = [(o.class_id, o.window, o.mask) for table in tables for o in to_objects(table)]
    wanted = []
    for k in (1, 2, 3):
        n, pieces = cv2.connectedComponents((labels == k).astype(np.uint8), connectivity=connectivity)
        for i in range(1, n):
            if (pieces == i).sum() >= least:
                window, tight = oracle.tight_mask(pieces == i)
                wanted.append((k, window, rle.encode(tight)))
    assert sorted(found, key=repr) == sorted(wanted, key=repr)


def test_a_region_is_handed_out_when_a_band_ends_without_it():
    labels = np.zeros((6, 4), dtype=np.uint8)
    labels[1:2, 1], labels[2:5, 3] = 1, 1
    bands = [Band(Window(0, y, 4, y + 3), labels[y : y + 3]) for y in (0, 3)]
    assert [len(t) for t in class_regions(bands, skip=[0], connectivity=4)] == [1, 1, 0]


def test_a_band_out_of_place_or_an_odd_connectivity_is_refused():
    bands = [Band(Window(0, y, 2, y + 1), np.zeros((1, 2), dtype=np.uint8)) for y in (0, 2)]
    with pytest.raises(ValueError, match="a band begins at row 2, the one before ended at row 1"):
        list(class_regions(bands))
    with pytest.raises(ConfigError, match="connectivity 6"):
        list(class_regions(bands, connectivity=6))
