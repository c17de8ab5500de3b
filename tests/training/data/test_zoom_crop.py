"""Whatever view of an image is taken, pixels, masks and boxes stay together."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.datasets.sample import Sample
from rayseg.errors import ConfigError
from rayseg.training.data.zoom_crop import Augment, crop_batches, random_view, recolour, warp
from tests.training.data.scenes import discs

seeds = st.integers(0, 2**32 - 1)
PLAIN = Augment(canvas_px=96, crop_px=64, gain=(1, 1), channel_gain=0, gamma=(1, 1), invert=0, grey=0, shuffle_channels=0)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_masks_stay_on_their_pixels_in_any_view(seed):
    sample = discs(seed)
    moved = warp(sample, random_view(sample, PLAIN, np.random.default_rng(seed)), 64)
    shown = moved.image[..., 0] > 127
    masked = moved.full_masks().any(axis=0)
    edge = cv2.morphologyEx(shown.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    assert not ((shown != masked) & ~edge).any()
    assert abs(int(shown.sum()) - int(masked.sum())) <= 0.15 * max(shown.sum(), 40)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_same_generator_state_gives_the_same_view(seed):
    sample = discs(seed)
    augment = Augment(canvas_px=96, crop_px=64)
    one, two = (augment(sample, np.random.default_rng(seed)) for _ in range(2))
    assert (one.image == two.image).all()
    assert (one.full_masks() == two.full_masks()).all()


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_a_crop_near_an_object_shows_the_centre_of_one(seed):
    sample = discs(seed)
    augment = Augment(canvas_px=200, crop_px=64, near_object=1.0)
    view = random_view(sample, augment, np.random.default_rng(seed))
    boxes = sample.boxes_xyxy
    centres = np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2, np.ones(len(boxes))]) @ view.T
    assert ((centres >= -1e-6) & (centres <= 64 + 1e-6)).all(axis=1).any()


def test_the_map_that_changes_nothing_changes_nothing():
    sample = discs(3, height=64, width=64)
    same = warp(sample, np.eye(3)[:2], 64)
    assert (same.image == sample.image).all()
    assert (same.full_masks() == sample.full_masks()).all()


def test_all_eight_turns_of_a_square_occur():
    sample = Sample(np.zeros((64, 64, 3), np.uint8), (), np.empty(0, np.int64), "blank")
    fixed = Augment(canvas_px=64, crop_px=64, zoom=(1, 1))
    rng = np.random.default_rng(0)
    turns = {tuple(np.rint(random_view(sample, fixed, rng)).astype(int).flatten()) for _ in range(200)}
    assert len(turns) == 8


def test_objects_outside_the_crop_and_slivers_are_dropped_with_their_classes():
    sample = discs(0)
    first = sample.boxes_xyxy[0]
    middle = (first[0] + first[2]) / 2
    cut_in_half = np.array([[1.0, 0, -middle], [0, 1, 0]])
    kept = warp(sample, cut_in_half, 32, min_visible=0.3)
    dropped = warp(sample, cut_in_half, 32, min_visible=0.7)
    assert 0 in kept.classes and 0 not in dropped.classes
    assert len(kept.classes) == len(kept.masks) < len(sample.masks)


def test_recolouring_leaves_size_and_type_alone():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    out = recolour(image, Augment(canvas_px=64, crop_px=32), np.random.default_rng(1))
    assert out.shape == image.shape and out.dtype == np.uint8 and (out != image).any()


def test_an_inverted_image_is_the_negative():
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    always = Augment(canvas_px=64, crop_px=32, gain=(1, 1), channel_gain=0, gamma=(1, 1), invert=1.0, grey=0, shuffle_channels=0)
    assert (recolour(image, always, np.random.default_rng(0)) == 255 - image).all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"crop_px": 100}, "crop_px is 100; .* multiple of 32"),
        ({"zoom": (2.0, 1.0)}, r"zoom is \(2.0, 1.0\)"),
        ({"gain": (0.0, 1.0)}, r"gain is \(0.0, 1.0\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Augment(**{"canvas_px": 128, "crop_px": 64, **wrong})


def crops(**changes):
    samples = [discs(i) for i in range(5)]
    return crop_batches(
        samples, **{"augment": Augment(canvas_px=64, crop_px=32), "batch_size": 2, "crops_per_image": 2, "seed": 3} | changes
    )


def test_an_epoch_of_crops_is_the_same_whenever_it_is_asked_for():
    batches = crops()
    list(batches(0))
    once, again = list(batches(1)), list(crops()(1))
    assert all((a.inputs["image"] == b.inputs["image"]).all() for a, b in zip(once, again, strict=True))
    assert once[0].inputs["image"].shape == (2, 3, 32, 32) and once[0].targets["gt_segm"].shape[2:] == (8, 8)


@pytest.mark.parametrize("seed, epoch", [(3, 2), (4, 1)])
def test_another_epoch_or_seed_gives_other_crops(seed, epoch):
    first, other = next(crops()(1)), next(crops(seed=seed)(epoch))
    assert (first.inputs["image"] != other.inputs["image"]).any()


def test_every_image_is_cropped_equally_often_and_never_twice_alike():
    seen: list[tuple[str, float]] = []

    def note(sample, rng):
        seen.append((sample.name, rng.random()))
        return sample

    batches = crops(augment=note)
    assert len(list(batches(0))) == batches.steps_per_epoch == 5
    assert sorted(name for name, _ in seen) == sorted(2 * [f"discs {i}" for i in range(5)])
    assert len(set(seen)) == 10


def test_too_few_images_for_one_batch_of_crops_are_refused():
    with pytest.raises(ConfigError, match="5 images x 1 visits do not fill one step of 6"):
        crops(batch_size=6, crops_per_image=1)
