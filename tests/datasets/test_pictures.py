"""Pictures of a data set: colour where the annotation is, longer bars for more objects, any name and any count drawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rayseg import rle
from rayseg.datasets.pictures import LONGEST_PX, draw_histogram, draw_labels, draw_objects, to_jpeg, to_png


def test_objects_are_coloured_and_the_rest_is_not():
    mask = np.zeros((60, 80), bool)
    mask[30:50, 20:60] = True
    image = np.full((60, 80, 3), 100, np.uint8)
    found = draw_objects(image, [(5, rle.encode(mask))], {5: "", 7: "nut"})
    changed = (found != image).any(axis=2)
    assert changed[30:50, 20:60].all() and not changed[52:].any() and not changed[:, 62:].any()
    assert (image == 100).all()


@pytest.mark.parametrize("count", [0, 1, 60])
def test_any_number_of_objects_is_drawn(count):
    masks = [(1, rle.encode(np.eye(10, 12, k=i % 9, dtype=bool))) for i in range(count)]
    assert draw_objects(np.zeros((10, 12, 3), np.uint8), masks, {1: "名"}).shape == (10, 12, 3)


def test_large_images_become_small_pictures():
    found = draw_objects(np.zeros((300, 3000, 3), np.uint8), [], {1: "a"})
    assert found.shape == (102, LONGEST_PX, 3)
    assert draw_labels(np.zeros((3000, 30, 3), np.uint8), np.zeros((3000, 30), np.uint8)).shape[0] == LONGEST_PX


def test_labels_are_coloured_but_for_the_background():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:20, 10:20] = 1
    labels[30:] = 255
    image = np.full((40, 40, 3), 100, np.uint8)
    changed = (draw_labels(image, labels) != image).any(axis=2)
    assert changed[10:20, 10:20].all() and not changed[:9].any() and 0 < changed[30:].mean() < 0.5
    assert (draw_labels(image, labels, background=False) != image).any(axis=2)[:9].all()


def _bar(chart: np.ndarray, row: int) -> int:
    """Pixels of the training bar of a row, by its colour."""
    from rayseg.draw import PALETTE

    return int((chart[60 + 34 * row + 6] == PALETTE[0]).all(axis=1).sum())


def test_bars_are_sorted_and_as_long_as_their_counts():
    chart = draw_histogram(["a", "b", "c"], [10, 40, 20], [1, 2, 3], title="t")
    assert [_bar(chart, row) for row in range(3)] == [641, 321, 161]


def test_counts_far_apart_are_drawn_logarithmically():
    chart = draw_histogram(["a", "b"], [100_000, 100], [0, 0], title="t")
    assert 0.3 < _bar(chart, 1) / _bar(chart, 0) < 0.5


@pytest.mark.parametrize("classes", [0, 1, 300])
def test_any_number_of_classes_is_drawn(classes):
    chart = draw_histogram([f"µ{i}" for i in range(classes)], [0] * classes, [0] * classes, title="t")
    assert chart.dtype == np.uint8 and chart.shape[0] < 4000
    for data in (to_png(chart), to_jpeg(chart)):
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == chart.shape
