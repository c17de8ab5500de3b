"""Random windows keep what their names promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.geometry import Size, Window
from rayseg.training.data.cuts import crop_by_iou, crop_of, expansion

seeds = st.integers(0, 2**32)
sizes = st.builds(Size, st.integers(1, 300), st.integers(1, 300))


@given(sizes, seeds)
def test_an_expansion_holds_the_whole_picture_and_is_at_most_four_times_as_wide(size, seed):
    window = expansion(size, np.random.default_rng(seed))
    assert window.x0 <= 0 and window.y0 <= 0 and window.x1 >= size.width and window.y1 >= size.height
    assert window.width <= 4 * size.width and window.height <= 4 * size.height


@given(sizes, sizes, seeds)
def test_a_crop_lies_inside_or_shows_all_of_the_picture(picture, size, seed):
    window = crop_of(picture, size, np.random.default_rng(seed))
    assert Size(window.height, window.width) == size
    assert window.x0 >= 0 and window.x1 <= max(picture.width, size.width)
    assert window.y0 >= 0 and window.y1 <= max(picture.height, size.height)


def test_crops_reach_all_four_corners():
    rng = np.random.default_rng(0)
    found = {(w.x0, w.y0) for w in (crop_of(Size(6, 7), Size(5, 5), rng) for _ in range(200))}
    assert found == {(x, y) for x in range(3) for y in range(2)}


@given(sizes, seeds)
def test_a_crop_by_iou_lies_inside_and_holds_the_centre_of_an_object(size, seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [size.width, size.height], (3, 2))
    boxes = np.concatenate([low, rng.uniform(low, [size.width, size.height])], axis=1)
    window = crop_by_iou(boxes, size, rng)
    assert not window.empty and window.clip(size) == window
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    assert ((x >= window.x0) & (x < window.x1) & (y >= window.y0) & (y < window.y1)).any()


def test_crops_by_iou_are_of_many_sizes_and_ratios_up_to_two():
    rng, size = np.random.default_rng(0), Size(200, 200)
    boxes = np.array([[20.0, 20, 180, 180], [90, 90, 110, 110]])
    windows = [crop_by_iou(boxes, size, rng) for _ in range(300)]
    assert 20 < sum(w == Window.of(size) for w in windows) < 100
    ratios = [w.width / w.height for w in windows]
    assert 0.45 < min(ratios) < 0.7 and 1.4 < max(ratios) < 2.2
    assert min(w.width * w.height for w in windows) < 0.25 * size.pixels


@pytest.mark.parametrize("boxes", [np.empty((0, 4)), np.array([[10.0, 10, 10, 10]])])
def test_without_objects_or_with_one_without_area_there_still_is_a_window(boxes):
    window = crop_by_iou(boxes, Size(50, 60), np.random.default_rng(0))
    assert not window.empty and window.clip(Size(50, 60)) == window
