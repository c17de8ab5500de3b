"""Batches hold what the samples hold, padded; an epoch can be had again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.datasets.sample import Sample, tight_patch
from rayseg.errors import ConfigError
from rayseg.training.augment import Augment
from rayseg.training.batches import CropBatches, collate


def sample_of(masks: list[np.ndarray], *, side: int = 32, name: str = "x") -> Sample:
    patches = tuple(tight_patch(mask) for mask in masks)
    return Sample(np.full((side, side, 3), 51, np.uint8), patches, np.arange(len(masks)), name)


def random_masks(seed: int, count: int, *, side: int = 32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        mask = np.zeros((side, side), bool)
        x0, y0 = rng.integers(0, side - 1, 2)
        part = mask[y0 : y0 + rng.integers(1, side), x0 : x0 + rng.integers(1, side)]
        part[...] = rng.random(part.shape) < 0.7
        part[0, 0] = True
        out.append(mask)
    return out


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6))
def test_a_quarter_size_mask_has_the_cells_that_are_at_least_half_covered(seed):
    masks = random_masks(seed, 3)
    found = collate([sample_of(masks)]).targets["gt_segm"][0]
    for cells, mask in zip(found, masks, strict=True):
        assert (cells == (mask.reshape(8, 4, 8, 4).mean(axis=(1, 3)) >= 0.5)).all()


def test_images_with_fewer_objects_are_padded():
    batch = collate([sample_of(random_masks(1, 3)), sample_of(random_masks(2, 1)), sample_of([])])
    assert batch.image.shape == (3, 3, 32, 32) and batch.image.dtype == np.float32
    assert np.allclose(batch.image, 0.2)
    assert batch.targets["pad_gt_mask"][..., 0].tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert not batch.targets["gt_bbox"][2].any() and not batch.targets["gt_segm"][1, 1:].any()
    assert batch.targets["gt_class"][0, :, 0].tolist() == [0, 1, 2]


def test_a_batch_without_any_object_has_one_padded_slot():
    targets = collate([sample_of([]), sample_of([])]).targets
    assert targets["gt_bbox"].shape == (2, 1, 4) and not targets["pad_gt_mask"].any()


def make(**changes) -> CropBatches:
    samples = [sample_of(random_masks(i, 4, side=64), side=64, name=str(i)) for i in range(5)]
    settings = {"augment": Augment(canvas_px=64, crop_px=32), "batch_size": 2, "crops_per_image": 2, "seed": 3}
    return CropBatches(samples, **(settings | changes))


def test_an_epoch_is_the_same_whenever_it_is_asked_for():
    batches = make()
    list(batches(0))
    once, again = list(batches(1)), list(make()(1))
    assert all((a.image == b.image).all() for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("seed, epoch", [(3, 2), (4, 1)])
def test_another_epoch_or_seed_gives_other_batches(seed, epoch):
    first, other = next(make()(1)), next(make(seed=seed)(epoch))
    assert first.image.shape != other.image.shape or (first.image != other.image).any()


def test_every_image_is_visited_equally_often():
    seen: list[str] = []

    def note(sample, rng):
        seen.append(sample.name)
        return sample

    batches = make(augment=note)
    assert len(list(batches(0))) == len(batches) == 5
    assert sorted(seen) == sorted(2 * "01234")


def test_too_few_images_for_one_batch_are_refused():
    with pytest.raises(ConfigError, match="5 images x 1 crops do not fill one batch of 6"):
        make(batch_size=6, crops_per_image=1)
