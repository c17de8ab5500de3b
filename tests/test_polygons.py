"""Polygons: what is inside is set, what is outside is not, and a box is looked into without a bitmap in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.geometry import Size
from rayseg.polygons import rasterize, rasterize_in_box

SIZE = Size(height=20, width=30)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def signed_distances(corners: np.ndarray, size: Size) -> np.ndarray:
    """Of every pixel centre from a convex polygon; positive inside. Slow and obvious."""
    out = np.full(size.hw, np.inf)
    centre = corners.mean(0)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        normal = np.array([a[1] - b[1], b[0] - a[0]]) / np.hypot(*(b - a))
        normal *= np.sign(normal @ (centre - a))
        for y in range(size.height):
            for x in range(size.width):
                out[y, x] = min(out[y, x], normal @ (np.array([x + 0.5, y + 0.5]) - a))
    return out


@given(
    st.integers(3, 9),
    st.floats(-5, 35),
    st.floats(-5, 25),
    st.floats(2, 15),
    st.floats(2, 15),
    st.floats(0, 6.3),
)
def test_a_convex_polygon_covers_the_pixels_whose_centres_it_holds(corners, x, y, radius_x, radius_y, turn):
    angle = turn + 2 * np.pi * np.arange(corners) / corners
    polygon = np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)
    found = rasterize([polygon.ravel()], SIZE)
    distance = signed_distances(polygon, SIZE)
    # The tools walk along the outline in fifths of a pixel, so a pixel on the outline may go either way.
    assert found[distance > 0.75].all() and not found[distance < -0.75].any()


@given(st.tuples(*[st.integers(0, 20)] * 4))
def test_whole_pixels_are_exact(edges):
    x0, x1 = sorted(edges[:2])
    y0, y1 = sorted(edges[2:])
    wanted = np.zeros(SIZE.hw, dtype=bool)
    wanted[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(rasterize([rectangle(x0, y0, x1, y1)], SIZE), wanted)


def test_an_object_of_several_polygons_is_all_of_them_together():
    one, two = rectangle(1, 1, 8, 8), rectangle(5, 4, 20, 12)
    np.testing.assert_array_equal(rasterize([one, two], SIZE), rasterize([one], SIZE) | rasterize([two], SIZE))


def test_the_box_of_the_image_shows_the_image():
    polygon = [3.2, 1.1, 25.7, 4.4, 11.3, 18.9]
    whole = rasterize_in_box([polygon], [0, 0, SIZE.width, SIZE.height], SIZE)
    np.testing.assert_array_equal(whole, rasterize([polygon], SIZE))
    assert 100 < whole.sum() < 250


def test_a_box_is_stretched_to_its_bitmap_and_may_leave_the_image():
    polygon = rectangle(10, 10, 20, 15)
    found = rasterize_in_box([polygon], [0, 5, 20, 15], Size(height=4, width=8))
    np.testing.assert_array_equal(found, [[False] * 8] * 2 + [[False] * 4 + [True] * 4] * 2)
    assert not rasterize_in_box([polygon], [-50, -50, -10, -10], Size(height=4, width=8)).any()
    inside = rasterize_in_box([polygon], np.array([12, 11, 13, 12], dtype="float32"), Size(height=4, width=8))
    assert inside.all()


def test_polygons_are_left_as_they_are():
    polygon = np.array(rectangle(1, 1, 8, 8))
    rasterize_in_box([polygon], [1.0, 1.0, 4.0, 4.0], SIZE)
    assert polygon.tolist() == rectangle(1, 1, 8, 8)


@pytest.mark.parametrize("polygons", [[], [[]], [[3, 3, 8, 8]], [[3, 3]]], ids=["none", "empty", "line", "point"])
def test_what_has_no_inside_covers_nothing(polygons):
    assert not rasterize(polygons, SIZE).any()
    assert not rasterize_in_box(polygons, [0, 0, 10, 10], SIZE).any()


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [5, 5, 5, 9]], ids=["point", "line"])
def test_a_box_without_area_gives_a_bitmap(box):
    assert rasterize_in_box([rectangle(0, 0, 20, 20)], box, SIZE).shape == SIZE.hw
