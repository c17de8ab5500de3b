"""Run-length encoding against pycocotools on the full canvas, which is slow and obvious."""

from __future__ import annotations

import weakref
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from rayseg import rle
from rayseg.geometry import Size, Window
from rayseg.rle import Rle
from rayseg.rle_packing import pack_edges

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


@st.composite
def masks_in_windows(draw):
    """(mask of a window, the window, size of the image around it); windows may be empty and may touch every edge."""
    size = Size(draw(st.integers(1, 24)), draw(st.integers(1, 24)))
    window = draw(windows_in(size))
    return draw(hnp.arrays(bool, (window.height, window.width))), window, size


@st.composite
def windows_in(draw, size):
    x0, y0 = draw(st.integers(0, size.width)), draw(st.integers(0, size.height))
    return Window(x0, y0, draw(st.integers(x0, size.width)), draw(st.integers(y0, size.height)))


def on_canvas(mask, window, size):
    canvas = np.zeros(size.hw, dtype=bool)
    canvas[window.slices] = mask
    return canvas


def slow_runs(mask):
    """Count pixel after pixel, column by column, zeros first."""
    runs, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@given(MASKS)
def test_encoding_and_decoding_gives_the_mask_back(mask):
    found = rle.encode(mask)
    assert (rle.decode(found) == mask).all()
    assert found.size == Size(*mask.shape) and found.area == mask.sum()


@given(MASKS)
def test_the_bytes_are_those_of_pycocotools(mask):
    assert rle.encode(mask).counts == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@given(masks_in_windows())
def test_a_mask_in_a_window_encodes_to_the_same_bytes_as_its_full_canvas(drawn):
    mask, window, size = drawn
    assert rle.encode_in_window(mask, window, size) == rle.encode(on_canvas(mask, window, size))


@given(st.data(), st.integers(0, 60))
def test_many_masks_at_once_encode_to_the_bytes_of_each_on_its_canvas(data, at_once):
    size = Size(data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)))
    windows = data.draw(st.lists(windows_in(size), max_size=6))
    masks = [data.draw(hnp.arrays(bool, (window.height, window.width))) for window in windows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle, "_EDGES_AT_ONCE", at_once)
        patch.setattr(rle, "_BLOCK", 1 + at_once % 9)
        found = rle.encode_many(zip(masks, windows, strict=True), size)
    assert found == [rle.encode(on_canvas(mask, window, size)) for mask, window in zip(masks, windows, strict=True)]
    assert rle.areas(found).tolist() == [mask.sum() for mask in masks]


def test_masks_are_asked_for_one_after_the_other():
    alive = []

    def masks():
        for i in range(5):
            mask = np.eye(4, dtype=bool)
            alive.append(weakref.ref(mask))
            assert sum(there() is not None for there in alive) <= 2, f"mask {i} was made while others were kept"
            yield mask, Window(0, 0, 4, 4)
            del mask

    assert len(rle.encode_many(masks(), Size(9, 9))) == 5


@given(hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), st.booleans())
def test_the_classes_of_a_label_map_are_those_of_looking_for_one_after_the_other(labels, noise):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle, "_EDGES_AT_ONCE", 7)
        patch.setattr(rle, "_BLOCK", 5)
        patch.setattr(rle, "_RUNS_AT_MOST", -1 if noise else 10**9)
        classes, boxes, masks = rle.encode_classes(labels % 5)
    assert classes.tolist() == sorted(set((labels % 5).reshape(-1).tolist()))
    for class_id, box, mask in zip(classes, boxes.tolist(), masks, strict=True):
        wanted = labels % 5 == class_id
        rows, columns = np.nonzero(wanted)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert mask == rle.encode(wanted)


@given(st.lists(st.lists(st.integers(1, 2**28), min_size=1, max_size=8), max_size=5))
def test_runs_of_any_length_are_packed_as_pycocotools_packs_them(many):
    """Up to 2^28: pycocotools has room for six characters a run, and writes beyond it where runs need seven."""
    edges = [np.cumsum(runs)[: len(runs) // 2 * 2] for runs in many]
    pixels = np.asarray([sum(runs) for runs in many], dtype=np.int64)
    text, ends = pack_edges(
        np.concatenate([np.empty(0, np.int64), *edges]), np.asarray([len(e) for e in edges], dtype=np.int64), pixels
    )
    strings = [text[a:b] for a, b in pairwise(ends)]
    for runs, string in zip(many, strings, strict=True):
        size = Size(sum(runs), 1)
        assert string == coco_mask.frPyObjects({"size": list(size.hw), "counts": runs}, *size.hw)["counts"]


@pytest.mark.parametrize("n", [1, 255, 256, 600])
def test_areas_of_any_number_of_masks(n):
    masks = [(np.ones((1 + i % 7, 3), bool), Window(2, 1, 5, 2 + i % 7)) for i in range(n)]
    found = rle.areas(rle.encode_many(masks, Size(20, 20)))
    assert found.dtype == np.int64 and found.tolist() == [3 * (1 + i % 7) for i in range(n)]


def test_no_masks_have_no_strings_and_no_areas():
    assert rle.encode_many([], Size(3, 3)) == [] and rle.areas([]).tolist() == []
    assert pack_edges(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))[0] == b""


@given(st.data(), MASKS)
def test_decoding_a_window_equals_cutting_it_from_the_full_mask(data, mask):
    window = data.draw(windows_in(Size(*mask.shape)))
    found = rle.decode_window(rle.encode(mask), window)
    assert found.dtype == bool and found.shape == (window.height, window.width)
    assert (found == mask[window.slices]).all()


@given(MASKS)
def test_run_lengths_are_those_of_counting_pixel_by_pixel(mask):
    assert rle.run_lengths(rle.encode(mask)).tolist() == slow_runs(mask)


@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=30))
def test_long_and_shrinking_runs_are_read_back(runs):
    size = Size(sum(runs), 1)
    packed = coco_mask.frPyObjects({"size": list(size.hw), "counts": runs}, *size.hw)["counts"]
    assert rle.run_lengths(Rle(size, packed)).tolist() == runs


@given(MASKS)
def test_the_extent_holds_every_pixel_and_is_as_wide_as_they_are(mask):
    extent = rle.encode(mask).extent
    assert mask[extent.slices].sum() == mask.sum()
    columns = np.flatnonzero(mask.any(axis=0))
    assert (extent.x0, extent.x1) == ((columns[0], columns[-1] + 1) if columns.size else (0, 0))
    assert extent.empty == (mask.sum() == 0)


def test_a_run_that_goes_on_at_the_top_of_the_next_column_is_one_run():
    full_height = np.ones((4, 2), dtype=bool)
    found = rle.encode_in_window(full_height, Window(1, 0, 3, 4), Size(4, 5))
    assert rle.run_lengths(found).tolist() == [4, 8, 8]


def test_a_known_mask_has_its_known_string():
    assert rle.encode(np.array([[0, 1], [0, 1]])) == Rle(Size(2, 2), b"22")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_any_number_but_zero_belongs_to_the_object(dtype):
    mask = np.array([[0, 3], [255, 0]]).astype(dtype)
    window = Window(1, 1, 3, 3)
    assert rle.encode(mask).area == 2
    assert rle.encode_in_window(mask, window, Size(4, 4)).area == 2


def test_memory_order_of_the_mask_makes_no_difference():
    mask = np.random.default_rng(0).random((13, 7)) > 0.5
    assert rle.encode(np.asfortranarray(mask)) == rle.encode(np.ascontiguousarray(mask)) == rle.encode(mask[::-1][::-1])


def test_a_small_object_in_a_huge_image_needs_no_canvas():
    size, window = Size(60_000, 60_000), Window(59_990, 59_980, 60_000, 60_000)
    mask = np.eye(20, 10, dtype=bool)
    found = rle.encode_in_window(mask, window, size)  # a canvas would take 3.6 GB
    assert found.area == 10
    assert (rle.decode_window(found, window) == mask).all()


@pytest.mark.parametrize("mask", [np.zeros((1, 1), bool), np.ones((1, 1), bool), np.zeros((3, 2), bool), np.ones((3, 2), bool)])
def test_empty_and_full_masks_and_single_pixels_round_trip(mask):
    assert (rle.decode(rle.encode(mask)) == mask).all()


def test_a_window_without_pixels_encodes_to_nothing():
    empty = np.zeros((0, 3), dtype=bool)
    assert rle.encode_in_window(empty, Window(0, 2, 3, 2), Size(5, 5)) == rle.encode(np.zeros((5, 5), bool))


def test_a_mask_that_does_not_fill_its_window_is_refused():
    with pytest.raises(ValueError, match=r"mask of shape \(2, 3\) does not fill Window"):
        rle.encode_in_window(np.ones((2, 3), bool), Window(0, 0, 2, 3), Size(9, 9))


@pytest.mark.parametrize("window", [Window(-1, 0, 1, 2), Window(8, 0, 10, 2), Window(0, 8, 2, 10)])
def test_a_window_that_leaves_the_image_is_refused(window):
    with pytest.raises(ValueError, match="leaves the image"):
        rle.encode_in_window(np.ones((2, 2), bool), window, Size(9, 9))
    with pytest.raises(ValueError, match="leaves the image"):
        rle.decode_window(rle.encode(np.ones((9, 9), bool)), window)


def test_coco_tools_read_what_is_handed_to_them():
    mask = np.eye(5, 8, dtype=bool)
    found = rle.encode(mask).to_coco()
    assert found["size"] == [5, 8] and isinstance(found["counts"], bytes)
    assert coco_mask.toBbox(found).tolist() == [0, 0, 5, 5]


@given(MASKS)
def test_the_extent_holds_every_pixel_and_is_tight_across(mask):
    found = rle.encode(mask).extent
    assert mask[found.slices].sum() == mask.sum()
    columns = np.flatnonzero(mask.any(axis=0))
    assert found.empty if not columns.size else (found.x0, found.x1) == (columns[0], columns[-1] + 1)


def test_the_extent_of_a_mask_without_wrapping_runs_is_its_box():
    mask = np.zeros((9, 12), dtype=bool)
    mask[2:5, 3:8] = True
    assert rle.encode(mask).extent == Window(3, 2, 8, 5)
