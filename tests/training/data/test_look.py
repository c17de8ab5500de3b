"""Whatever a view shows, pixels, masks, boxes and labels stay together."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.datasets.sample import IGNORE, Sample, tight_patch
from rayseg.geometry import Size, Window
from rayseg.training.data.look import look, look_at_labels, see_image, see_labels
from rayseg.training.data.view import View, cut, mirrored, stretched, whole
from tests.training.data.scenes import coordinate_image, discs, stripes

FILL = (9, 9, 9)
LINEAR, CUBIC = cv2.INTER_LINEAR, cv2.INTER_CUBIC


@st.composite
def views(draw, image: Size):
    """Resize, cut, mirror, and resize again."""
    side = st.integers(20, 120)
    view = stretched(whole(image), Size(draw(side), draw(side)))
    x, y = draw(st.integers(-30, 60)), draw(st.integers(-30, 60))
    view = cut(view, Window(x, y, x + draw(side), y + draw(side)))
    view = mirrored(view) if draw(st.booleans()) else view
    return stretched(view, Size(draw(side), draw(side))) if draw(st.booleans()) else view


def inside(view: View, size: Size) -> np.ndarray:
    """bool (H, W): centre of the pixel lies in the image."""
    xs, ys = view.columns(), view.rows()
    return ((ys >= 0) & (ys < size.height))[:, None] & ((xs >= 0) & (xs < size.width))[None]


@given(st.data())
def test_an_image_of_coordinates_shows_the_coordinates_the_view_claims(data):
    size = Size(90, 110)
    view = data.draw(views(size))
    seen = see_image(coordinate_image(size), view, fill=FILL, interpolation=LINEAR).astype(float)
    shown = inside(view, size)
    wanted_x = np.clip(view.columns() - 0.5, 0, size.width - 1)[None].repeat(view.size.height, axis=0)
    wanted_y = np.clip(view.rows() - 0.5, 0, size.height - 1)[:, None].repeat(view.size.width, axis=1)
    assert np.abs(seen[..., 0] - wanted_x)[shown].max(initial=0) <= 1
    assert np.abs(seen[..., 1] - wanted_y)[shown].max(initial=0) <= 1
    assert (seen[shown][:, 2] == 200).all() and (seen[~shown] == 9).all()


@given(st.data())
def test_a_label_map_moves_with_its_image(data):
    sample = stripes(Size(90, 110))
    view = data.draw(views(sample.size))
    seen = look_at_labels(sample, view, fill=FILL, interpolation=LINEAR)
    shown = inside(view, sample.size)
    assert (seen.labels[~shown] == IGNORE).all()
    # The label is the column a centre lies in, the colour is interpolated between centres of columns.
    assert np.abs(seen.labels.astype(float) - seen.image[..., 0])[shown].max(initial=0) <= 1
    assert set(np.unique(seen.labels[shown])) <= set(range(110))


@given(st.integers(0, 10**6), st.data())
def test_masks_stay_on_their_pixels_and_boxes_are_their_extents(seed, data):
    sample = discs(seed)
    view = data.draw(views(sample.size))
    seen = look(sample, view, fill=(0, 0, 0), interpolation=LINEAR)
    for patch, box in zip(seen.masks, seen.boxes_xyxy.astype(int).tolist(), strict=True):
        rows, columns = np.flatnonzero(patch.bits.any(axis=1)), np.flatnonzero(patch.bits.any(axis=0))
        assert rows.size and columns.size
        found = [columns[0] + box[0], rows[0] + box[1], columns[-1] + box[0] + 1, rows[-1] + box[1] + 1]
        assert found == box
        assert 0 <= box[0] < box[2] <= view.size.width and 0 <= box[1] < box[3] <= view.size.height
    shown, masked = seen.image[..., 0] > 127, seen.full_masks().any(axis=0)
    edge = cv2.morphologyEx(shown.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    border = np.ones_like(edge)
    border[1:-1, 1:-1] = ~inside(view, sample.size)[1:-1, 1:-1]
    assert not ((shown != masked) & ~edge & ~border).any()


@given(st.integers(0, 10**6), st.data())
def test_classes_stay_with_their_objects(seed, data):
    sample = discs(seed)
    view = data.draw(views(sample.size))
    seen = look(sample, view, fill=FILL, interpolation=LINEAR)
    centres = {int(c): (b[:2] + b[2:]) / 2 for c, b in zip(sample.classes, view.boxes(sample.boxes_xyxy), strict=True)}
    for index, box in zip(seen.classes.tolist(), seen.boxes_xyxy, strict=True):
        whole_box = view.boxes(sample.boxes_xyxy)[index]
        assert (box[:2] >= whole_box[:2] - 1).all() and (box[2:] <= whole_box[2:] + 1).all(), centres[index]


def test_mirroring_twice_gives_every_pixel_back():
    sample = discs(3)
    flip = mirrored(whole(sample.size))
    once = look(sample, flip, fill=FILL, interpolation=LINEAR)
    assert (once.image == sample.image[:, ::-1]).all()
    twice = look(once, flip, fill=FILL, interpolation=LINEAR)
    assert (twice.image == sample.image).all() and (twice.full_masks() == sample.full_masks()).all()
    assert (see_labels(see_labels(sample.image[..., 0], flip), flip) == sample.image[..., 0]).all()


@pytest.mark.parametrize("interpolation", [LINEAR, CUBIC])
def test_a_whole_image_is_resized_as_prediction_resizes_it(interpolation):
    image = np.random.default_rng(0).integers(0, 256, (60, 83, 3), dtype=np.uint8)
    view = stretched(whole(Size(60, 83)), Size(32, 64))
    assert (
        see_image(image, view, fill=FILL, interpolation=interpolation) == cv2.resize(image, (64, 32), interpolation=interpolation)
    ).all()


def test_a_cut_at_the_same_scale_copies_pixels():
    image = np.random.default_rng(0).integers(0, 256, (60, 83, 3), dtype=np.uint8)
    view = cut(whole(Size(60, 83)), Window(-5, 10, 50, 70))
    seen = see_image(image, view, fill=FILL, interpolation=CUBIC)
    assert (seen[:50, 5:] == image[10:60, :50]).all() and (seen[:, :5] == 9).all() and (seen[50:] == 9).all()


def test_only_what_is_seen_of_the_image_changes_its_colours():
    image = np.full((40, 40, 3), 100, np.uint8)
    view = cut(whole(Size(40, 40)), Window(-10, 0, 40, 40))
    seen = see_image(image, view, fill=FILL, interpolation=LINEAR, recolour=lambda part: 255 - part)
    assert (seen[:, :10] == 9).all() and (seen[:, 10:] == 155).all()


def test_an_object_of_which_nothing_is_left_is_dropped_with_its_class():
    mask = np.zeros((40, 40), bool)
    mask[0, :] = mask[:, 0] = True  # its box is the image, its pixels are not
    sample = Sample(np.zeros((40, 40, 3), np.uint8), (tight_patch(mask),), np.array([7]), "corner")
    assert look(sample, cut(whole(sample.size), Window(5, 5, 40, 40)), fill=FILL, interpolation=LINEAR).classes.tolist() == []
    assert look(sample, cut(whole(sample.size), Window(0, 5, 9, 9)), fill=FILL, interpolation=LINEAR).classes.tolist() == [7]


def test_an_object_whose_centre_is_cut_off_is_dropped_where_that_is_wanted():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:30] = True
    sample = Sample(np.zeros((40, 40, 3), np.uint8), (tight_patch(mask),), np.array([7]), "bar")
    view = cut(whole(sample.size), Window(21, 0, 40, 40))
    assert len(look(sample, view, fill=FILL, interpolation=LINEAR).masks) == 1
    assert len(look(sample, view, fill=FILL, interpolation=LINEAR, centred=True).masks) == 0
    view = cut(whole(sample.size), Window(19, 0, 40, 40))
    assert len(look(sample, view, fill=FILL, interpolation=LINEAR, centred=True).masks) == 1


def test_a_view_beside_the_image_shows_the_fill():
    sample = stripes(Size(10, 10))
    seen = look_at_labels(sample, cut(whole(sample.size), Window(20, 20, 25, 24)), fill=FILL, interpolation=LINEAR)
    assert seen.size == Size(4, 5) and (seen.image == 9).all() and (seen.labels == IGNORE).all()


def test_an_image_of_one_pixel_can_be_looked_at():
    sample = Sample(np.full((1, 1, 3), 50, np.uint8), (tight_patch(np.ones((1, 1))),), np.array([0]), "dot")
    seen = look(sample, mirrored(stretched(whole(sample.size), Size(8, 16))), fill=FILL, interpolation=CUBIC)
    assert (seen.image == 50).all()
    assert 0.5 * 16 * 8 < seen.masks[0].area <= 16 * 8  # interpolation rounds corners, and a pixel is little else
