"""Views are arithmetic: what is put together from steps is where the steps, taken one by one, would have brought it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.geometry import Size, Window
from rayseg.training.data.view import View, cut, fitted, mirrored, stretched, whole

sizes = st.builds(Size, st.integers(1, 200), st.integers(1, 200))
windows = st.builds(
    lambda x, y, w, h: Window(x, y, x + w, y + h),
    *(st.integers(-50, 150), st.integers(-50, 150), st.integers(1, 120), st.integers(1, 120)),
)


def edges(view: View) -> np.ndarray:
    return np.array([view.x0, view.y0, view.x1, view.y1])


@given(sizes, sizes, windows)
def test_mirroring_twice_is_the_identity(image, size, window):
    view = cut(stretched(whole(image), size), window)
    assert mirrored(mirrored(view)) == view and mirrored(view).mirror != view.mirror


@given(sizes, sizes, windows, windows)
def test_a_cut_of_a_cut_is_one_cut(image, size, first, second):
    view = stretched(whole(image), size)
    both = cut(view, second.shift(first.x0, first.y0))
    assert np.allclose(edges(cut(cut(view, first), second)), edges(both), atol=1e-9)


@given(sizes, sizes, windows)
def test_mirroring_and_cutting_commute_with_the_window_mirrored(image, size, window):
    view = stretched(whole(image), size)
    opposite = Window(size.width - window.x1, window.y0, size.width - window.x0, window.y1)
    assert np.allclose(edges(cut(mirrored(view), window)), edges(mirrored(cut(view, opposite))), atol=1e-9)


@given(sizes, sizes, windows, st.booleans())
def test_the_matrix_brings_the_centre_of_each_pixel_back_to_it(image, size, window, flip):
    view = cut(stretched(whole(image), size), window)
    view = mirrored(view) if flip else view
    points = np.array([[x, y, 1.0] for x, y in zip(view.columns()[:3], view.rows()[:3], strict=False)])
    places = np.arange(len(points)) + 0.5
    assert np.allclose(points @ view.matrix.T, np.stack([places, places], axis=1), atol=1e-6)


def test_boxes_move_with_the_picture():
    view = mirrored(stretched(whole(Size(10, 20)), Size(20, 60)))
    assert view.boxes(np.array([[1, 2, 5, 4]])).tolist() == [[45, 4, 57, 8]]
    assert view.boxes(np.empty((0, 4))).shape == (0, 4)
    assert view.scale == (2, 3)


@pytest.mark.parametrize(
    "image, size",
    [
        (Size(100, 200), Size(800, 1600)),
        (Size(200, 100), Size(1600, 800)),
        (Size(100, 400), Size(500, 2000)),
        (Size(1, 999), Size(2, 2000)),
    ],
)
def test_fitting_keeps_the_ratio_and_both_limits(image, size):
    assert fitted(whole(image), Size(800, 2000)).size == size
