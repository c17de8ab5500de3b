"""Batches hold what the samples hold, padded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.datasets.sample import Sample, SemanticSample, tight_patch
from rayseg.geometry import Size
from rayseg.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from rayseg.models.zoo import find_model
from rayseg.training.data.arrays import pack, pack_labels, unpack_masks
from rayseg.training.data.collate import Collate

SIDE_32 = Size(32, 32)
RAW = Preprocess(resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)


def random_masks(seed: int, count: int, *, size: Size = SIDE_32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        mask = np.zeros(size.hw, bool)
        y0, x0 = rng.integers(0, size.hw)
        part = mask[y0 : y0 + rng.integers(1, 32), x0 : x0 + rng.integers(1, 32)]
        part[...] = rng.random(part.shape) < 0.7
        part[0, 0] = True
        out.append(mask)
    return out


def arrays_of(masks: list[np.ndarray], *, size: Size = SIDE_32, value: int = 51):
    patches = tuple(tight_patch(mask) for mask in masks)
    return pack(Sample(np.full((*size.hw, 3), value, np.uint8), patches, np.arange(len(masks)), "x"), (0.5, 0.25))


@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(1, 40), st.integers(1, 40))
def test_masks_survive_packing(seed, count, height, width):
    masks = random_masks(seed, count, size=Size(height, width))
    arrays = arrays_of(masks, size=Size(height, width))
    for patch, mask in zip(unpack_masks(arrays), masks, strict=True):
        full = np.zeros((height, width), bool)
        full[patch.window.slices] = patch.bits
        assert (full == mask).all()


@given(st.integers(0, 10**6))
def test_a_quarter_size_mask_has_the_cells_that_are_at_least_half_covered(seed):
    masks = random_masks(seed, 3)
    found = Collate("instance", RAW, 4)([arrays_of(masks)]).targets["gt_segm"][0]
    for cells, mask in zip(found, masks, strict=True):
        assert (cells == (mask.reshape(8, 4, 8, 4).mean(axis=(1, 3)) >= 0.5)).all()


@given(st.integers(0, 10**6))
def test_full_size_masks_are_the_masks_and_boxes_their_extents(seed):
    masks = random_masks(seed, 3)
    targets = Collate("instance", RAW)([arrays_of(masks)]).targets
    assert targets["gt_segm"].dtype == np.uint8 and (targets["gt_segm"][0] == np.stack(masks)).all()
    for box, mask in zip(targets["gt_bbox"][0], masks, strict=True):
        ys, xs = np.nonzero(mask)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_images_with_fewer_objects_are_padded():
    images = [arrays_of(random_masks(1, 3)), arrays_of(random_masks(2, 1)), arrays_of([])]
    batch = Collate("instance", RAW, 4)(images)
    assert batch.inputs["image"].shape == (3, 3, 32, 32) and batch.inputs["image"].dtype == np.float32
    assert np.allclose(batch.inputs["image"], 0.2)
    assert batch.targets["pad_gt_mask"][..., 0].tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert not batch.targets["gt_bbox"][2].any() and not batch.targets["gt_segm"][1, 1:].any()
    assert batch.targets["gt_class"][0, :, 0].tolist() == [0, 1, 2] and batch.targets["gt_class"].dtype == np.int64


def test_a_batch_without_any_object_has_one_padded_slot():
    targets = Collate("instance", RAW)([arrays_of([]), arrays_of([])]).targets
    assert targets["gt_bbox"].shape == (2, 1, 4) and not targets["pad_gt_mask"].any()


def test_images_of_several_sizes_are_padded_to_the_largest_and_its_next_multiple():
    preprocess = find_model("MaskRCNN-ResNet50-FPN").preprocess
    images = [arrays_of(random_masks(0, 1, size=Size(40, 20)), size=Size(40, 20)), arrays_of([], size=Size(33, 65))]
    batch = Collate("instance", preprocess)(images)
    assert batch.inputs["image"].shape == (2, 3, 64, 96) and batch.targets["gt_segm"].shape == (2, 1, 64, 96)
    assert batch.inputs["im_shape"].tolist() == [[40, 20], [33, 65]]
    assert batch.inputs["scale_factor"].tolist() == [[0.5, 0.25]] * 2
    wanted = (51 / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert np.allclose(batch.inputs["image"][0, :, :40, :20], wanted[:, None, None], atol=1e-5)
    assert not batch.inputs["image"][0, :, 40:].any() and not batch.inputs["image"][0, :, :, 20:].any()


def test_a_network_that_asks_for_no_multiple_gets_the_largest_size():
    preprocess = find_model("MaskRCNN-ResNet50").preprocess
    assert Collate("instance", preprocess)([arrays_of([], size=Size(33, 65))]).inputs["image"].shape == (1, 3, 33, 65)


@pytest.mark.parametrize("name", ["PP-LiteSeg-T", "MaskFormer_tiny"])
def test_label_maps_are_whole_numbers_and_what_is_padded_does_not_count(name):
    rng = np.random.default_rng(0)
    samples = [
        SemanticSample(np.zeros((*hw, 3), np.uint8), rng.integers(0, 3, hw).astype(np.uint8), "x") for hw in ((4, 6), (5, 3))
    ]
    batch = Collate("semantic", find_model(name).preprocess)([pack_labels(sample) for sample in samples])
    assert batch.inputs.shape == (2, 3, 5, 6) and batch.inputs.dtype == np.float32
    assert batch.targets.shape == (2, 5, 6) and batch.targets.dtype == np.int64
    assert (batch.targets[0, :4] == samples[0].labels).all() and (batch.targets[0, 4:] == 255).all()
    assert (batch.targets[1, :, 3:] == 255).all()
