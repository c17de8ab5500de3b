"""A smaller copy of an image may stand for it where a model begins by resizing: all sizes stay those of the image."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.geometry import Size
from rayseg.images.reduced import reduced_hw, reduction
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.prepare import first_size, prepare, resizes_first, to_input
from rayseg.predict.preprocess import CUBIC, Normalize, PadStride, Permute, Resize

NORMALIZE = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
STRETCH = (Resize(Size(64, 96), interpolation=CUBIC), NORMALIZE, Permute())
KEEP_RATIO = (Resize(Size(80, 133), keep_ratio=True), NORMALIZE, Permute(), PadStride(32))
NATIVE = (NORMALIZE, Permute())
LATE = (NORMALIZE, Resize(Size(64, 96)), Permute())


def spec_of(steps):
    return replace(fake_spec(), steps=steps)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("steps", [STRETCH, KEEP_RATIO])
@given(st.integers(1, 900), st.integers(1, 900))
def test_all_sizes_are_those_of_the_whole_image(steps, height, width):
    spec, original = spec_of(steps), Size(height, width)
    factor = reduction(original.hw, first_size(spec, original).hw)
    small = prepare(spec, noise(*reduced_hw(original.hw, factor)), original=original)
    whole = prepare(spec, noise(height, width))
    assert (small.original, small.resized, small.network) == (original, whole.resized, whole.network)
    assert small.pixels.shape == whole.pixels.shape
    np.testing.assert_array_equal(small.scale_factor, whole.scale_factor)
    np.testing.assert_array_equal(small.im_shape, whole.im_shape)
    assert to_input(spec, small).shape == to_input(spec, whole).shape


def test_rounding_follows_the_whole_image_where_the_copy_would_say_otherwise():
    spec, original = spec_of(KEEP_RATIO), Size(1001, 1663)
    small = noise(*reduced_hw(original.hw, 8))
    assert prepare(spec, small).resized != prepare(spec, small, original=original).resized == Size(80, 133)


def test_the_pixels_are_the_copys_resized():
    small = noise(128, 200)
    found = prepare(spec_of(STRETCH), small, original=Size(1024, 1600))
    np.testing.assert_array_equal(found.pixels, cv2.resize(small, (96, 64), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize("steps", [NATIVE, LATE, ()])
def test_a_model_that_does_not_begin_by_resizing_takes_no_smaller_copy(steps):
    spec = spec_of(steps)
    assert not resizes_first(spec)
    assert first_size(spec, Size(9, 7)) == Size(9, 7)
    with pytest.raises(ValueError, match=r"does not begin by resizing; \(9, 7\) for an image of \(18, 14\)"):
        prepare(spec, noise(9, 7), original=Size(18, 14))


def test_an_image_that_stands_for_itself_is_prepared_as_ever():
    for steps in (STRETCH, NATIVE, LATE):
        spec, image = spec_of(steps), noise(50, 70)
        np.testing.assert_array_equal(prepare(spec, image, original=Size(50, 70)).pixels, prepare(spec, image).pixels)
