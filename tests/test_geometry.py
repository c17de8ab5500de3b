"""Sizes, windows and boxes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.geometry import Box, Size, Window

SIZES = st.builds(Size, height=st.integers(1, 40), width=st.integers(1, 40))


@st.composite
def windows(draw, low=-60, high=60):
    (x0, x1), (y0, y1) = (sorted(draw(st.tuples(*[st.integers(low, high)] * 2))) for _ in "xy")
    return Window(x0, y0, x1, y1)


@st.composite
def boxes(draw, low=-60.0, high=60.0):
    (x0, x1), (y0, y1) = (sorted(draw(st.tuples(*[st.floats(low, high)] * 2))) for _ in "xy")
    return Box(x0, y0, x1, y1)


def pixels_inside(window, size):
    """The slow way: ask every pixel of the image."""
    rows, columns = np.mgrid[: size.height, : size.width]
    return (rows >= window.y0) & (rows < window.y1) & (columns >= window.x0) & (columns < window.x1)


@given(windows(), SIZES)
def test_a_clipped_window_holds_the_pixels_of_the_image_that_the_window_holds(window, size):
    canvas = np.zeros(size.hw, dtype=bool)
    canvas[window.clip(size).slices] = True
    assert (canvas == pixels_inside(window, size)).all()


@given(windows(), SIZES)
def test_clipping_a_second_time_changes_nothing_and_stays_inside(window, size):
    clipped = window.clip(size)
    assert clipped.clip(size) == clipped
    assert 0 <= clipped.x0 <= clipped.x1 <= size.width and 0 <= clipped.y0 <= clipped.y1 <= size.height


@given(windows(), st.integers(-50, 50), st.integers(-50, 50))
def test_shifting_there_and_back_changes_nothing_and_shifting_keeps_the_extent(window, dx, dy):
    moved = window.shift(dx, dy)
    assert moved.shift(-dx, -dy) == window
    assert (moved.width, moved.height) == (window.width, window.height)
    assert (moved.x0 - window.x0, moved.y1 - window.y1) == (dx, dy)


@given(SIZES)
def test_the_window_of_an_image_is_all_of_it(size):
    window = Window.of(size)
    assert (window.height, window.width) == size.hw == np.zeros(size.hw)[window.slices].shape
    assert window.clip(size) == window and not window.empty
    assert size.pixels == np.zeros(size.hw).size and size.wh == size.hw[::-1]


@given(boxes())
def test_the_outer_window_is_the_smallest_of_whole_pixels_around_a_box(box):
    window = box.outer_window()
    assert window.x0 <= box.x0 < window.x0 + 1 and window.y0 <= box.y0 < window.y0 + 1
    assert window.x1 - 1 < box.x1 <= window.x1 and window.y1 - 1 < box.y1 <= window.y1


@given(boxes())
def test_rounding_moves_no_edge_by_more_than_half_a_pixel(box):
    window = box.rounded_window()
    for edge, moved in zip((box.x0, box.y0, box.x1, box.y1), (window.x0, window.y0, window.x1, window.y1), strict=True):
        assert abs(edge - moved) <= 0.5


@given(boxes(), SIZES)
def test_a_clipped_box_stays_inside_and_never_grows(box, size):
    clipped = box.clip(size)
    assert 0 <= clipped.x0 <= clipped.x1 <= size.width and 0 <= clipped.y0 <= clipped.y1 <= size.height
    assert clipped.clip(size) == clipped
    assert clipped.area <= box.area + 1e-9


def test_edges_halfway_between_pixels_are_rounded_to_even():
    assert Box(0.5, 1.5, 2.5, 3.5).rounded_window() == Window(0, 2, 2, 4)


def test_a_box_over_the_first_column_covers_exactly_that_column():
    canvas = np.zeros((2, 3), dtype=int)
    canvas[Box(0, 0, 1, 2).outer_window().slices] = 1
    assert canvas.tolist() == [[1, 0, 0], [1, 0, 0]]


def test_a_box_beside_the_image_has_no_area_left():
    assert Box(12, 1, 20, 3).clip(Size(5, 10)) == Box(10, 1, 10, 3)
    assert Box(12, 1, 20, 3).clip(Size(5, 10)).area == 0


def test_an_empty_window_is_allowed_and_says_so():
    assert Window(3, 3, 3, 9).empty and Window(3, 3, 9, 3).empty and not Window(3, 3, 4, 4).empty


@pytest.mark.parametrize("height, width", [(0, 1), (1, 0), (-3, 4)])
def test_a_size_without_pixels_is_refused(height, width):
    with pytest.raises(ValueError, match=f"at least one pixel on each side, got height={height} width={width}"):
        Size(height, width)


@pytest.mark.parametrize("edges", [(5, 0, 4, 1), (0, 5, 1, 4)])
@pytest.mark.parametrize("kind", [Window, Box])
def test_a_reversed_rectangle_is_refused(kind, edges):
    with pytest.raises(ValueError, match="ends before it starts"):
        kind(*edges)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_box_with_an_edge_that_is_no_number_is_refused(place, value):
    edges = [0.0, 0.0, 1.0, 1.0]
    edges[place] = value
    with pytest.raises(ValueError, match="not a number"):
        Box(*edges)


@pytest.mark.parametrize("value", [Size(3, 4), Window(0, 1, 2, 3), Box(0, 1, 2, 3)])
def test_values_are_equal_by_content_can_be_keys_and_cannot_be_changed(value):
    twin = pickle.loads(pickle.dumps(value))
    assert twin == value and {value: 1}[twin] == 1
    with pytest.raises(AttributeError):
        setattr(value, next(iter(value.__dataclass_fields__)), 9)
