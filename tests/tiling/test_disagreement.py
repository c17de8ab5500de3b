"""Tiles that do not agree to the pixel: what still joins, what stays apart, which pixels and scores win, what is dropped."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg import rle
from rayseg.errors import ConfigError
from rayseg.geometry import Size, Window
from rayseg.tiling.fragments import to_table
from rayseg.tiling.grid import Grid
from rayseg.tiling.objects import to_objects
from rayseg.tiling.seams import SeamRule, best_for_both
from rayseg.tiling.stitch import Stitcher

from . import oracle

SIDE = 140  # of the canvases masks are compared on

# Two tiles of 40 x 60 beside each other; they share columns 40 to 60, and the border between their cores is column 50.
SIDE_BY_SIDE = Grid(Size(40, 100), tile_px=60, overlap_px=20)


# Four tiles of 60 x 60 around a corner; they share 40 to 60 either way, and their cores meet at 50.
CORNER = Grid(Size(100, 100), tile_px=60, overlap_px=20)


def box(tile, x0, y0, x1, y1, score=0.5, class_id=0):
    return oracle.fragment(tile, class_id, score, np.ones((y1 - y0, x1 - x0), dtype=bool), x0, y0)


def stitched(*fragments, grid=SIDE_BY_SIDE, **options):
    return to_objects(Stitcher(grid, **options).scene(to_table(fragments)).finished)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(12, 16), st.integers(50, 80))
def test_discs_seen_with_jitter_are_each_one_object_and_neighbours_stay_apart(seed, radius, tile_px):
    """A lattice of discs that touch; every tile sees each one moved by up to a pixel either way."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    step = 2 * radius - 1
    centres = [(cy, cx) for cy in range(radius, SIDE, step) for cx in range(radius, SIDE, step)]
    grid = Grid(Size(SIDE, SIDE), tile_px, 24)
    fragments = []

    def disc(centre, tile, dy=0, dx=0):
        x, y = np.arange(tile.x0, tile.x1), np.arange(tile.y0, tile.y1)
        return np.hypot(y[:, None] - centre[0] - dy, x - centre[1] - dx) < radius

    for tile in grid:
        taken = np.zeros(grid.tile_size.hw, dtype=bool)
        for centre in centres:
            view = disc(centre, tile.window, *rng.integers(-1, 2, 2)) & ~taken
            taken |= view
            if view.sum() >= 20:  # a slice of a few pixels may well be missed
                fragments.append(oracle.fragment(tile.index, 0, 0.5, view, tile.window.x0, tile.window.y0))
    found = stitched(*fragments, grid=grid)
    assert len(found) == len(centres)
    for centre in centres:
        mask = np.hypot(y - centre[0], x - centre[1]) < radius
        (mine,) = [o for o in found if on_scene(o)[centre]]
        assert iou(mask, on_scene(mine)) > 0.7


def on_scene(found):
    out = np.zeros((SIDE, SIDE), dtype=bool)
    out[found.window.slices] = rle.decode(found.mask)
    return out


def test_the_tile_that_sees_an_object_whole_gives_its_mask_and_score():
    """Both see all of it, each a little otherwise: the larger of two whole views, not half of either."""
    (found,) = stitched(box(0, 44, 10, 56, 20, 0.5), box(1, 45, 11, 57, 20, 0.75))
    assert found.window == Window(44, 10, 56, 20) and found.mask.area == 120
    assert found.score == 0.5 and found.n_fragments == 2 and found.tiles == (0, 1)


def test_a_cut_view_loses_to_a_whole_one():
    (found,) = stitched(box(0, 30, 10, 55, 20, 0.875), box(1, 40, 9, 56, 22, 0.25))
    assert found.window == Window(30, 10, 55, 20) and found.score == 0.875


def test_where_every_view_is_cut_each_tile_decides_in_its_core():
    (found,) = stitched(box(0, 10, 10, 60, 20, 0.5), box(1, 40, 11, 90, 21, 0.75))
    wanted = np.zeros((SIDE, SIDE), dtype=bool)
    wanted[10:20, 10:50] = wanted[11:21, 50:90] = True
    assert (on_scene(found) == wanted).all()
    assert found.score == 0.625


def test_ground_that_only_one_tile_gave_to_the_object_counts_wherever_it_lies():
    grid = Grid(Size(40, 140), tile_px=60, overlap_px=20)  # cores: 0 to 50, 50 to 90, 90 to 140
    first, last = box(0, 10, 10, 60, 20), box(2, 80, 10, 130, 20)
    found = stitched(first, last, grid=grid)  # tile 1 saw nothing: two objects, no pixel lost
    assert sorted((o.window.x0, o.window.x1) for o in found) == [(10, 60), (80, 130)]


def test_the_score_weighs_views_by_the_pixels_they_decide():
    (found,) = stitched(box(0, 10, 10, 60, 20, 1.0), box(1, 40, 10, 80, 20, 0.0))
    assert found.score == pytest.approx(4 / 7)  # 40 columns decided by the first tile, 30 by the second


@given(
    st.lists(st.tuples(st.integers(0, 3), *[st.integers(0, 14)] * 2, *[st.integers(4, 8)] * 2, st.integers(0, 8)), max_size=12),
    st.data(),
)
def test_the_order_of_fragments_makes_no_difference_when_tiles_contradict_each_other(drawn, data):
    """Boxes at random around the corner of four tiles, many of them equally good partners of one another."""
    rows = []
    for tile, x, y, w, h, score in drawn:
        window = CORNER.tile(tile).window
        x0, y0 = max(38 + x, window.x0), max(38 + y, window.y0)
        rows.append(box(tile, x0, y0, min(x0 + w, window.x1), min(y0 + h, window.y1), score / 8))
    stitcher = Stitcher(CORNER)
    found = stitcher.scene(to_table(rows))
    shuffled = stitcher.scene(to_table(data.draw(st.permutations(rows))))
    assert sorted(to_objects(shuffled.finished), key=repr) == sorted(to_objects(found.finished), key=repr)
    assert shuffled.stats == found.stats


def test_of_two_equally_good_partners_the_same_one_is_taken_in_any_order():
    rows = box(0, 44, 10, 50, 20, 0.25), box(1, 44, 5, 50, 15, 0.5), box(1, 44, 15, 50, 25, 0.75)
    found = [stitched(*order) for order in itertools.permutations(rows)]
    assert len(found[0]) == 2 and all(sorted(f, key=repr) == sorted(found[0], key=repr) for f in found)


def test_a_row_of_pixels_at_the_edges_of_two_tiles_joins_nothing_that_a_tile_between_them_sees_apart():
    grid = Grid(Size(40, 119), tile_px=60, overlap_px=20)
    assert [t.window.x0 for t in grid] == [0, 40, 59]  # the first and the last share one column
    left = box(0, 20, 10, 60, 20), box(1, 40, 10, 58, 20)
    right = box(1, 62, 10, 100, 20), box(2, 59, 10, 110, 20)
    assert sorted(o.tiles for o in stitched(*left, *right, grid=grid)) == [(0, 1), (1, 2)]


def test_ground_of_a_tile_that_missed_the_object_is_given_by_those_that_saw_it():
    (found,) = stitched(box(0, 30, 30, 60, 60), box(1, 40, 30, 70, 60), box(3, 40, 40, 70, 70), grid=CORNER)
    wanted = np.zeros((SIDE, SIDE), dtype=bool)
    wanted[30:60, 30:60] = wanted[30:60, 40:70] = wanted[40:70, 40:70] = True
    assert (on_scene(found) == wanted).all()


def test_an_object_that_every_tile_sees_in_the_core_of_another_does_not_vanish():
    """Cores meet at (50, 50); each box lies in cores of the other two tiles."""
    (found,) = stitched(box(0, 44, 50, 56, 56), box(2, 50, 50, 56, 56), box(3, 43, 44, 50, 56), grid=CORNER)
    assert found.n_fragments == 3 and found.mask.area == 12 * 6 + 7 * 12 - 6 * 6


def test_a_sliver_that_nobody_confirms_is_dropped():
    part = Stitcher(SIDE_BY_SIDE).scene(to_table([box(1, 40, 10, 43, 20)]))
    assert len(part.finished) == 0 and part.stats.dropped == 1


def test_a_sliver_that_only_other_slivers_confirm_is_dropped():
    part = Stitcher(CORNER).scene(to_table([box(1, 40, 41, 43, 48), box(3, 40, 41, 43, 48)]))
    assert len(part.finished) == 0 and part.stats.dropped == 2


def test_a_sliver_stays_where_the_tile_in_charge_is_absent():
    assert len(stitched(box(1, 40, 10, 43, 20), absent=frozenset({0}))) == 1
    assert stitched(box(1, 40, 10, 43, 20), absent=frozenset({1})) == []


def test_what_one_tile_sees_whole_stays_though_the_other_missed_it():
    assert len(stitched(box(1, 44, 10, 49, 20))) == 1
    assert len(stitched(box(0, 52, 10, 56, 20))) == 1


def test_a_cut_object_that_reaches_into_its_core_stays():
    assert len(stitched(box(0, 30, 10, 60, 20))) == 1


def test_two_classes_are_never_joined():
    assert len(stitched(box(0, 30, 10, 55, 20, class_id=0), box(1, 40, 10, 55, 20, class_id=1))) == 2


def test_a_cut_half_that_the_other_tile_covers_is_joined_though_it_saw_more():
    """Tile 1 sees two arms and the bridge between them; tile 0 misses the bridge and is cut at its edge."""
    arms = box(0, 20, 5, 60, 10), box(0, 20, 15, 60, 20)
    whole = box(1, 40, 5, 80, 20)
    (found,) = stitched(*arms, whole)
    assert found.n_fragments == 3


def test_specks_between_neighbours_join_nothing():
    """Both tiles give a stray pixel inside the strip, the one to the upper object, the other to the lower."""

    def with_speck(tile, x0, y0, x1, y1):
        mask = np.zeros((40, 100), dtype=bool)
        mask[y0:y1, x0:x1] = mask[20, 50] = True
        return oracle.fragment(tile, 0, 0.5, mask)

    found = stitched(with_speck(0, 20, 2, 60, 19), box(1, 40, 2, 80, 19), box(0, 20, 22, 60, 38), with_speck(1, 40, 22, 80, 38))
    assert sorted((o.n_fragments, o.tiles) for o in found) == [(2, (0, 1))] * 2


def test_two_wholes_that_share_little_stay_two():
    assert len(stitched(box(0, 42, 10, 50, 20), box(1, 48, 10, 57, 20))) == 2


@pytest.mark.parametrize("shift, n", [(3, 1), (6, 2)])
def test_the_threshold_is_the_iou_inside_the_strip(shift, n):
    """Bands 10 rows thick: moved by 3, IoU is 7/13; by 6, it is 4/16."""
    found = stitched(box(0, 0, 10, 60, 20), box(1, 40, 10 + shift, 100, 20 + shift), rule=SeamRule(min_iou=0.3, min_cover=0.9))
    assert len(found) == n


def test_the_best_pair_is_best_for_both_and_ties_go_to_the_lower_numbers():
    first, second = np.asarray([0, 0, 1, 2, 3]), np.asarray([5, 6, 5, 7, 7])
    assert best_for_both(first, second, np.asarray([0.5, 0.9, 0.8, 0.4, 0.4]), 0.3).tolist() == [1, 2, 3]
    assert best_for_both(first, second, np.asarray([0.5, 0.9, 0.8, 0.4, 0.4]), 0.85).tolist() == [1]


@pytest.mark.parametrize("options", [{"min_iou": 0.0}, {"min_iou": 1.5}, {"min_cover": -1.0}])
def test_a_share_that_is_none_is_refused(options):
    with pytest.raises(ConfigError, match="it is a share above 0 and up to 1"):
        SeamRule(**options)
