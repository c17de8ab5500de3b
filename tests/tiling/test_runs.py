"""Many masks as runs, against one mask at a time with rayseg.rle and numpy canvases."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayseg import rle
from rayseg.tiling.groups import components, expand
from rayseg.tiling.runs import areas, decode, encode, meet, union

MASKS = st.lists(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)), max_size=6)


def packed(masks):
    """(strings, windows) of masks, each window at another place."""
    windows = [(10 * i, 7 * i, 10 * i + m.shape[1], 7 * i + m.shape[0]) for i, m in enumerate(masks)]
    counts = pa.array([rle.encode(m).counts.decode() for m in masks], pa.string())
    return counts, np.asarray(windows, dtype=np.int64).reshape(-1, 4)


def painted(runs, item, window):
    x0, y0, x1, y1 = window
    out = np.zeros((y1 - y0, x1 - x0), dtype=int)
    mine = runs.item == item
    for x, top, bottom in zip(runs.x[mine], runs.y0[mine], runs.y1[mine], strict=True):
        out[top - y0 : bottom - y0, x - x0] += 1
    return out


@given(MASKS)
def test_runs_paint_the_masks_they_were_read_from(masks):
    counts, windows = packed(masks)
    runs = decode(counts, windows)
    for i, mask in enumerate(masks):
        assert (painted(runs, i, windows[i]) == mask).all()
    assert runs.areas(len(masks)).tolist() == areas(counts).tolist() == [m.sum() for m in masks]


@given(MASKS)
def test_packing_runs_gives_the_bytes_of_pycocotools(masks):
    counts, windows = packed(masks)
    assert encode(decode(counts, windows), windows) == counts


@given(MASKS, st.integers(0, 3))
def test_a_slice_of_strings_is_read_as_itself(masks, first):
    counts, windows = packed(masks)
    part = decode(counts[first:], windows[first:])
    assert encode(part, windows[first:]) == counts[first:]


@given(st.lists(hnp.arrays(bool, (9, 8)), min_size=1, max_size=6), st.integers(1, 3))
def test_a_union_paints_every_pixel_once(masks, n_groups):
    counts, _ = packed(masks)
    windows = np.tile([3, 2, 11, 11], (len(masks), 1))
    runs = decode(counts, windows)
    group = np.arange(len(masks)) % n_groups
    merged = union(group[runs.item], runs.x, runs.y0, runs.y1)
    for g in range(n_groups):
        wanted = np.any([m for m, k in zip(masks, group, strict=True) if k == g] or [np.zeros((9, 8), bool)], axis=0)
        assert (painted(merged, g, (3, 2, 11, 11)) == wanted).all()


@given(hnp.arrays(bool, (9, 8)), hnp.arrays(bool, (9, 8)))
def test_what_two_masks_share_is_counted(a, b):
    counts, _ = packed([a, b])
    runs = decode(counts, np.tile([0, 0, 8, 9], (2, 1)))
    pair, _, _, shared = meet(runs, runs, np.asarray([0, 1, 0]), np.asarray([1, 0, 0]))
    assert np.bincount(pair, shared, 3).tolist() == [(a & b).sum(), (a & b).sum(), a.sum()]


@given(MASKS, st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)))
def test_clipping_cuts_each_mask_to_its_window(masks, cut):
    counts, windows = packed(masks)
    inner = windows + np.asarray([min(cut[0], cut[2]), min(cut[1], cut[3]), -1, -1])
    runs = decode(counts, windows).clip(inner)
    for i, mask in enumerate(masks):
        wanted = mask.copy()
        wanted[: min(cut[1], cut[3])] = wanted[-1:] = False
        wanted[:, : min(cut[0], cut[2])] = wanted[:, -1:] = False
        assert (painted(runs, i, windows[i]) == wanted).all()


def test_an_object_half_a_huge_scene_wide_is_packed_like_a_small_one():
    window = np.asarray([[0, 0, 60_000, 60_000]])
    runs = decode(pa.array([rle.encode(np.eye(40, dtype=bool)).counts.decode()]), np.asarray([[59_960, 59_960, 60_000, 60_000]]))
    (text,) = encode(runs, window).to_pylist()
    assert rle.run_lengths(rle.Rle(rle.Size(60_000, 60_000), text.encode()))[:4].tolist() == [59_960 * 60_001, 1, 60_000, 1]
    back = decode(pa.array([text]), window)
    assert (back.x == runs.x).all() and (back.y0 == runs.y0).all() and len(back) == 40


@pytest.mark.parametrize("text", ["2", "222", "", "o"])
def test_a_mask_that_does_not_fill_its_window_is_refused(text):
    with pytest.raises(ValueError, match=r"mask 0 (has|ends).*cut short"):
        decode(pa.array([text]), np.asarray([[0, 0, 2, 2]]))


@given(st.integers(1, 30), st.data())
def test_components_are_those_of_a_search_from_every_node(n, data):
    edges = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
    found = components(n, *np.asarray(edges, dtype=np.int64).reshape(-1, 2).T)
    for node in range(n):
        reached, todo = {node}, [node]
        while todo:
            here = todo.pop()
            beside = {b for a, b in edges if a == here} | {a for a, b in edges if b == here}
            todo += beside - reached
            reached |= beside
        assert found[node] == min(reached)


def test_a_chain_of_a_hundred_thousand_is_one_component_in_any_order():
    n = 100_000
    order = np.random.default_rng(0).permutation(n)
    assert (components(n, order[:-1], order[1:]) == 0).all()


def test_ranges_are_written_out_and_reversed_ones_are_empty():
    which, number = expand(np.asarray([3, 5, 9]), np.asarray([5, 2, 10]))
    assert which.tolist() == [0, 0, 2] and number.tolist() == [3, 4, 9]
