"""Fragments: from results of a tile, to tables and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayseg import rle
from rayseg.geometry import Size, Window
from rayseg.results import Instances
from rayseg.tiling.fragments import FRAGMENTS, Fragment, fragments_of, from_table, to_table
from rayseg.tiling.grid import Grid, Tile

from . import oracle


def instances(masks, size):
    n = len(masks)
    return Instances(size, np.zeros((n, 4)), np.arange(n) / 8, np.arange(n) % 3, tuple(rle.encode(m) for m in masks))


@given(st.lists(hnp.arrays(bool, (9, 11)), max_size=5), st.integers(6, 9), st.integers(6, 11))
def test_a_tiles_result_becomes_tight_fragments_in_scene_pixels_without_its_padding(masks, height, width):
    tile = Tile(7, 0, 0, Window(100, 50, 100 + width, 50 + height), Window(100, 50, 100 + width, 50 + height))
    found = from_table(fragments_of(tile, instances(masks, Size(9, 11))))
    inside = [(i, m[:height, :width]) for i, m in enumerate(masks) if m[:height, :width].any()]
    assert found == [oracle.fragment(7, i % 3, i / 8, m, 100, 50) for i, m in inside]


@given(oracle.scenes())
def test_a_table_gives_the_fragments_back(ids):
    rows = [f for tile in Grid(oracle.size_of(ids), 16, 4) for f in oracle.seen(ids, tile, 4)]
    assert from_table(to_table(rows)) == rows and to_table(rows).schema.equals(FRAGMENTS)


def test_a_result_smaller_than_its_tile_is_refused():
    (tile,) = Grid(Size(10, 10), 20, 5)
    with pytest.raises(ValueError, match=r"does not cover tile 0 of Size\(height=10, width=10\)"):
        fragments_of(tile, Instances.none(Size(9, 10)))


@pytest.mark.parametrize(
    "window, score, message", [(Window(0, 0, 3, 2), 0.5, "does not fill"), (Window(0, 0, 2, 3), 1.5, "score 1.5")]
)
def test_a_fragment_that_cannot_be_is_refused(window, score, message):
    with pytest.raises(ValueError, match=message):
        Fragment(0, 0, score, window, rle.encode(np.ones((3, 2), dtype=bool)))
