"""Drawing puts colour exactly where the masks are, at any size, and nowhere else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg import draw, rle
from rayseg.geometry import Size
from rayseg.results import Instances, SemanticMap


def instances(*masks: np.ndarray, class_ids: list[int] | None = None) -> Instances:
    size = Size(*masks[0].shape)
    boxes = np.float32([_box(mask) for mask in masks])
    scores, ids = np.full(len(masks), 0.5), np.array(class_ids or [0] * len(masks))
    return Instances(size, boxes, scores, ids, tuple(map(rle.encode, masks)))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    y, x = np.nonzero(mask)
    return (x.min(), y.min(), x.max() + 1, y.max() + 1) if x.size else (0, 0, 0, 0)


def black(size: Size) -> np.ndarray:
    return np.zeros((*size.hw, 3), dtype=np.uint8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_at_full_size_exactly_the_pixels_of_the_masks_change(seed, height, width):
    rng = np.random.default_rng(seed)
    masks = [rng.random((height, width)) < share for share in (0.0, 0.1, 0.6)]
    picture = draw.overlay(black(Size(height, width)), instances(*masks), outline_px=0)
    assert (picture.any(axis=2) == np.logical_or.reduce(masks)).all()


@settings(deadline=None)
@given(st.floats(0.02, 4), st.integers(30, 300), st.integers(0, 10_000))
def test_at_any_size_a_disc_keeps_its_place_and_its_share_of_the_picture(scale, side, seed):
    rng = np.random.default_rng(seed)
    radius = rng.uniform(6, 14)
    cx, cy = rng.uniform(radius, side - radius, 2)
    y, x = np.mgrid[:side, :side] + 0.5
    mask = (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
    size = draw.fit(Size(side, side), max(1, round(side * scale)))
    white = np.full((256, 3), 255, dtype=np.uint8)
    picture = draw.overlay(black(Size(side, side)), instances(mask), size=size, palette=white, alpha=1, outline_px=0)
    weight = picture[..., 0] / 255
    s = size.width / side
    expected_px = mask.sum() * s * s
    assert weight.sum() == pytest.approx(expected_px, rel=0.15, abs=1.5)
    if expected_px > 4:
        y, x = np.mgrid[: size.height, : size.width] + 0.5
        assert (weight * x).sum() / weight.sum() == pytest.approx(cx * s, abs=0.75)
        assert (weight * y).sum() / weight.sum() == pytest.approx(cy * s, abs=0.75)


def test_a_thumbnail_agrees_with_the_shrunken_full_size_picture():
    rng = np.random.default_rng(3)
    masks = []
    for _ in range(12):
        blob = np.zeros((600, 900), dtype=np.uint8)
        x, y, turn = (int(rng.integers(limit)) for limit in (900, 600, 180))
        cv2.ellipse(blob, (x, y), (90, 50), turn, 0, 360, 1, -1)
        masks.append(blob.astype(bool))
    found = instances(*masks)
    size = draw.fit(found.size, 200)
    slow = draw.overlay(black(found.size), found, outline_px=0)
    slow = cv2.resize(slow, size.wh, interpolation=cv2.INTER_AREA).astype(int)
    fast = draw.overlay(black(found.size), found, size=size, outline_px=0).astype(int)
    assert np.abs(fast - slow).mean() < 1.5


def test_colours_come_back_for_the_same_class_and_differ_between_neighbours():
    assert (draw.palette(7) == draw.palette(50)[:7]).all()
    colours = draw.palette(40).astype(int)
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 100
    assert len(np.unique(colours, axis=0)) == 40


def test_objects_of_one_class_get_their_own_colours_and_those_of_many_the_colour_of_their_class():
    masks = np.zeros((3, 10, 30), dtype=bool)
    for i in range(3):
        masks[i, 2:8, 10 * i + 2 : 10 * i + 8] = True
    one = draw.overlay(black(Size(10, 30)), instances(*masks), ["cell"], outline_px=0, alpha=1)
    many = draw.overlay(black(Size(10, 30)), instances(*masks, class_ids=[5, 2, 5]), [*"abcdef"], outline_px=0, alpha=1)
    assert [one[5, x].tolist() for x in (5, 15, 25)] == draw.PALETTE[[0, 1, 2]].tolist()
    assert [many[5, x].tolist() for x in (5, 15, 25)] == draw.PALETTE[[5, 2, 5]].tolist()


def test_an_outline_in_full_colour_follows_the_edge_of_a_mask():
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5:15] = True
    picture = draw.overlay(black(Size(20, 20)), instances(mask), alpha=0)
    edge = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert (picture[edge] == draw.PALETTE[0]).all() and not picture[~edge].any()


def test_a_small_object_stays_visible_inside_a_large_one():
    large, small = np.ones((20, 20), dtype=bool), np.zeros((20, 20), dtype=bool)
    small[8:12, 8:12] = True
    picture = draw.overlay(black(Size(20, 20)), instances(small, large), outline_px=0, alpha=1)
    assert picture[10, 10].tolist() == draw.PALETTE[0].tolist()
    assert picture[2, 2].tolist() == draw.PALETTE[1].tolist()


def test_one_pixel_of_a_large_scene_leaves_a_dot_on_the_thumbnail():
    mask = np.zeros((4000, 4000), dtype=bool)
    mask[2000, 1000] = True
    picture = draw.overlay(np.zeros((4000, 4000, 3), np.uint8), instances(mask), size=Size(400, 400))
    y, x = np.nonzero(picture.any(axis=2))
    assert y.size and abs(y.mean() - 200) < 2 and abs(x.mean() - 100) < 2


def test_an_object_inside_a_large_scene_is_never_decoded_beyond_its_box(monkeypatch):
    mask = np.zeros((4000, 4000), dtype=bool)
    mask[100:140, 200:260] = True
    seen = []
    whole, part = draw.rle.decode, draw.rle.decode_window
    monkeypatch.setattr(draw.rle, "decode", lambda m: seen.append(m.size.pixels) or whole(m))
    monkeypatch.setattr(draw.rle, "decode_window", lambda m, w: seen.append(w.width * w.height) or part(m, w))
    draw.overlay(np.zeros((4000, 4000, 3), np.uint8), instances(mask), size=Size(400, 400))
    assert seen == [40 * 60]


def test_names_are_written_inside_the_picture_even_in_letters_opencv_lacks():
    mask = np.ones((30, 120), dtype=bool)
    plain = draw.overlay(black(Size(30, 120)), instances(mask), ["细胞核"])
    named = draw.overlay(black(Size(30, 120)), instances(mask), ["细胞核"], names=True)
    assert (plain != named).any()


def test_a_picture_without_objects_is_the_image_and_the_image_is_left_alone():
    image = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    before = image.copy()
    assert (draw.overlay(image, Instances.none(Size(9, 7))) == image).all()
    draw.overlay(image, instances(np.ones((9, 7), dtype=bool)))
    assert (image == before).all()


def test_objects_of_another_image_size_are_refused():
    with pytest.raises(ValueError, match="over an image of shape"):
        draw.overlay(black(Size(5, 5)), Instances.none(Size(5, 6)))


def test_class_regions_are_tinted_and_skipped_classes_are_not():
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[:, 4:] = 3
    picture = draw.draw_semantic(black(Size(6, 8)), SemanticMap(labels), skip=[0], alpha=1, outline_px=0)
    assert not picture[:, :4].any()
    assert (picture[:, 4:] == draw.PALETTE[3]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_label_map_and_its_regions_give_the_same_picture(dtype):
    labels = np.repeat(np.repeat(np.arange(12, dtype=dtype).reshape(3, 4), 10, axis=0), 10, axis=1)
    image = np.random.default_rng(1).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    regions = SemanticMap(labels).regions()
    a = draw.draw_semantic(image, SemanticMap(labels), outline_px=0, alpha=0.5)
    b = draw.overlay(image, regions, [*"abcdefghijkl"], outline_px=0, alpha=0.5)
    assert np.abs(a.astype(int) - b).max() <= 1


def test_a_contact_sheet_shows_every_picture_once():
    pictures = [np.full((h, w, 3), 10 * (i + 1), dtype=np.uint8) for i, (h, w) in enumerate([(4, 9), (6, 3), (5, 5)])]
    sheet = draw.contact_sheet(pictures, columns=2, gap_px=1)
    assert sheet.shape == (2 * 7 + 1, 2 * 10 + 1, 3)
    for i, picture in enumerate(pictures):
        assert (sheet[..., 0] == 10 * (i + 1)).sum() == picture.shape[0] * picture.shape[1]
