"""A sample keeps each mask inside its tight window; nothing is lost by that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayseg.datasets.sample import Patch, Sample, tight_patch
from rayseg.geometry import Window

masks = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def blank(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


@given(masks)
def test_a_tight_patch_pasted_back_is_the_mask(mask):
    patch = tight_patch(mask)
    out = np.zeros_like(mask)
    if patch is not None:
        out[patch.window.slices] = patch.bits
    assert (out == mask).all()
    assert patch is None or patch.area == mask.sum()


@given(masks.filter(lambda m: m.any()))
def test_every_edge_of_a_tight_patch_touches_the_object(mask):
    bits = tight_patch(mask).bits
    assert bits[0].any() and bits[-1].any() and bits[:, 0].any() and bits[:, -1].any()


def test_boxes_are_the_windows_of_the_masks():
    sample = Sample(blank(6, 9), (Patch(Window(2, 1, 5, 3), np.ones((2, 3), bool)),), np.array([4]), "x")
    assert sample.boxes_xyxy.tolist() == [[2, 1, 5, 3]]
    assert sample.full_masks().sum() == 6


def test_a_sample_without_objects_has_arrays_of_length_zero():
    sample = Sample(blank(4, 4), (), np.empty(0, dtype=np.int64), "x")
    assert sample.boxes_xyxy.shape == (0, 4)
    assert sample.full_masks().shape == (0, 4, 4)


def test_a_mask_that_leaves_the_image_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        Sample(blank(4, 4), (Patch(Window(3, 0, 5, 1), np.ones((1, 2), bool)),), np.array([0]), "x")


def test_masks_without_classes_are_refused():
    with pytest.raises(ValueError, match="1 masks and classes of shape"):
        Sample(blank(4, 4), (Patch(Window(0, 0, 1, 1), np.ones((1, 1), bool)),), np.empty(0, dtype=np.int64), "x")


def test_an_image_that_is_not_rgb_bytes_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        Sample(np.zeros((4, 4, 3), dtype=np.float32), (), np.empty(0, dtype=np.int64), "x")
