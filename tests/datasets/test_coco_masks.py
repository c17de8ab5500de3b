"""Masks of annotations: what maskApi packs is unpacked alike, and what would hurt it never reaches it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from rayseg import rle
from rayseg.datasets.coco_masks import check_segmentation, read_mask, to_rle, unpack_counts
from rayseg.errors import DatasetError
from rayseg.geometry import Size
from rayseg.rle import Rle

SIZE = Size(height=24, width=32)
masks = hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@given(masks)
def test_unpacked_counts_are_the_runs_that_were_packed(mask):
    packed = rle.encode(mask)
    assert unpack_counts(packed.counts).tolist() == rle.run_lengths(packed).tolist()


@given(st.lists(st.integers(0, 1 << 30), min_size=1, max_size=20))
def test_counts_of_any_size_are_unpacked(runs):
    packed = coco_mask.frPyObjects({"size": [1 << 16, 1 << 16], "counts": runs}, 1 << 16, 1 << 16)["counts"]
    assert unpack_counts(packed).tolist() == rle.run_lengths(Rle(Size(1, 1), packed)).tolist() == runs


@given(st.binary(max_size=30))
def test_arbitrary_bytes_are_unpacked_or_refused(data):
    try:
        check_segmentation({"size": [24, 32], "counts": data}, SIZE)
    except DatasetError:
        return
    assert coco_mask.decode({"size": [24, 32], "counts": data}).shape == SIZE.hw


@given(st.text(alphabet=[chr(i) for i in range(48, 112)], max_size=12))
def test_strings_of_allowed_letters_are_unpacked_or_refused(text):
    try:
        found = read_mask({"segmentation": {"size": [24, 32], "counts": text}}, SIZE)
    except DatasetError:
        return
    assert found is None or found.area <= SIZE.pixels


@given(masks)
def test_all_forms_of_a_mask_are_one_rle(mask):
    size, packed = Size(*mask.shape), rle.encode(mask)
    runs = {"size": list(mask.shape), "counts": rle.run_lengths(packed).tolist()}
    text = {"size": list(mask.shape), "counts": packed.counts.decode()}
    assert to_rle(runs, size) == to_rle(text, size) == packed


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([], "list of polygons is empty"),
        ([[1, 2, 3, 4]], "at least three x, y pairs"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three x, y pairs"),
        ([["1", 2, 3, 4, 5, 6]], "not a number"),
        ([[1, 2, 3, True, 5, 6]], "not a number"),
        ([[1, 2, 3, float("nan"), 5, 6]], "not a number"),
        ([[1, 2, 3, float("inf"), 5, 6]], "not a number"),
        ([[0, 0, 1e9, 0, 5, 5]], r"\(1e\+09, 0\), far outside the image of 32 x 24"),
        ([[0, 0, 10**400, 0, 5, 5]], "not a number"),
        ("mask", "neither polygons nor RLE"),
        ({"size": [24, 32]}, "neither polygons nor RLE"),
        ({"size": [32, 24], "counts": [768]}, r"RLE of size \[32, 24\]"),
        ({"size": 24, "counts": [768]}, "RLE of size 24"),
        ({"size": [24, 32], "counts": [767]}, "add up to 767 pixels, the image has 768"),
        ({"size": [24, 32], "counts": [769, -1]}, "negative length"),
        ({"size": [24, 32], "counts": [1 << 80]}, "add up to 769"),
        ({"size": [24, 32], "counts": [1.5, 766.5]}, "whole numbers"),
        ({"size": [24, 32], "counts": None}, "a list of runs or a string"),
        ({"size": [24, 32], "counts": "µ"}, "not ASCII"),
        ({"size": [24, 32], "counts": "P!"}, "character '!'"),
        ({"size": [24, 32], "counts": "P"}, "ends in the middle of a number"),
        ({"size": [24, 32], "counts": "ooooooooo0"}, "more than 35 bits"),
        ({"size": [24, 32], "counts": ""}, "add up to 0"),
    ],
)
def test_what_is_no_mask_says_why(segmentation, message):
    with pytest.raises(DatasetError, match=message):
        read_mask({"segmentation": segmentation}, SIZE)


def test_a_polygon_may_leave_the_image_a_little():
    found = read_mask({"segmentation": [[-4, -4, 6, -4, 6, 6, -4, 6]]}, SIZE)
    assert (found.window.x0, found.window.y0, found.area) == (0, 0, 36)


def test_all_of_coco_unpacks_as_pycocotools_does(shared_dir):
    from rayseg.datasets.coco import CocoInstances

    folder = shared_dir / "data" / "coco_ccby_panoptic_semantic"
    found = CocoInstances(folder / "annotations" / "instances_rle_val2017.json", folder / "val2017")
    seen = 0
    for entry in found.images:
        for one in entry.annotations:
            segmentation = one["segmentation"]
            wanted = coco_mask.decode({"size": segmentation["size"], "counts": segmentation["counts"].encode()})
            patch = read_mask(one, entry.size)
            assert patch.area == np.count_nonzero(wanted) and (wanted[patch.window.slices] == patch.bits).all()
            seen += 1
    assert seen > 100
