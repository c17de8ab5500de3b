"""Every family has its recipe, and each recipe gives the sizes and changes it is named for."""

from __future__ import annotations

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.datasets.sample import Sample
from rayseg.errors import ConfigError, ModelError
from rayseg.geometry import Size
from rayseg.models.defaults import STARTS
from rayseg.models.zoo import MODELS, find_model
from rayseg.training.data.arrays import unpack_masks
from rayseg.training.data.epoch import Stream, generator
from rayseg.training.data.pipelines import PIPELINES, Scene, pipeline_of, step_size
from rayseg.training.data.view import View
from rayseg.training.data.work import Augmenter, held_work
from tests.training.data.scenes import discs, stripes

FAMILIES = {row.family: row for row in MODELS.values()}
SMALL = Size(64, 96)
ORIGINAL = Size(90, 120)


def scene(train_size: Size, *, size: Size = ORIGINAL, visit: int = 0, step: int = 0) -> Scene:
    boxes = np.array([[10.0, 20, 40, 60]])
    return Scene(size, boxes, train_size, generator(Stream.VISIT, 1, 0, visit), generator(Stream.STEP, 1, 0, step))


def views(name: str, train_size: Size, *, count: int = 200, **options) -> list[View]:
    pipeline = pipeline_of(find_model(name), train_size)
    return [pipeline.random(scene(train_size, visit=v, **options)) for v in range(count)]


def augmenter(name: str, *, seed: int = 0, augment: bool = True, train_size: Size = SMALL) -> Augmenter:
    row = find_model(name)
    return Augmenter(held_work([]).load, pipeline_of(row, train_size), train_size, row.preprocess, seed, augment)


def sample_for(name: str):
    return discs(1) if find_model(name).task == "instance" else stripes(ORIGINAL)


def test_every_family_of_the_zoo_has_a_pipeline_and_a_size_it_takes():
    assert set(PIPELINES) == set(FAMILIES)
    for row in MODELS.values():
        pipeline_of(row, Size(*STARTS[row.family].train_size))


def test_a_family_without_a_pipeline_is_named():
    with pytest.raises(ModelError, match="PP-LiteSeg-T: the family 'new' has no augmentation; known: Mask R-CNN"):
        pipeline_of(replace(find_model("PP-LiteSeg-T"), family="new"), SMALL)


@pytest.mark.parametrize("name", ["PP-YOLOE_seg-S", "Mask-RT-DETR-S"])
def test_sizes_a_network_cannot_take_are_refused_with_one_it_can(name):
    with pytest.raises(ConfigError, match=r"Train.train_size \[300, 640\]: .* multiples of 32, such as \[288, 640\]"):
        pipeline_of(find_model(name), Size(300, 640))


def test_mask_rcnn_draws_six_short_sides_up_to_the_set_one_and_keeps_the_ratio():
    found = views("MaskRCNN-ResNet50-FPN", Size(800, 1333), size=Size(300, 400))
    assert {view.size.height for view in found} == {640, 672, 704, 736, 768, 800}
    assert all(abs(view.size.width - view.size.height * 4 / 3) <= 0.5 for view in found)
    assert 0.35 < np.mean([view.mirror for view in found]) < 0.65
    assert all(view.size.width <= 1333 for view in views("MaskRCNN-ResNet50-FPN", Size(800, 1333), size=Size(100, 400)))


def test_solov2_always_has_the_size_of_prediction():
    assert {view.size for view in views("SOLOv2", Size(800, 1333), size=Size(300, 400))} == {Size(800, 1067)}


def test_mask_rt_detr_has_one_of_eleven_squares_for_all_images_of_a_step():
    found = [{v.size for v in views("Mask-RT-DETR-S", Size(640, 640), step=k, count=4)} for k in range(150)]
    assert all(len(sizes) == 1 for sizes in found)
    assert {s.height for sizes in found for s in sizes} == set(range(480, 801, 32))
    assert all(s.height == s.width for sizes in found for s in sizes)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_the_size_of_a_step_is_a_multiple_of_32_a_quarter_around_the_training_size(rows, columns, seed):
    size = step_size(Size(32 * rows, 32 * columns), np.random.default_rng(seed))
    assert size.height % 32 == size.width % 32 == 0
    assert 0.75 <= size.height / (32 * rows) <= 1.25
    assert abs(size.width - size.height * columns / rows) <= 32


def test_ppyoloe_expands_crops_and_stretches_to_the_training_size():
    found = views("PP-YOLOE_seg-S", Size(64, 64))
    assert {view.size for view in found} == {Size(64, 64)}
    widths = [abs(view.x1 - view.x0) for view in found]
    assert min(widths) < 0.6 * ORIGINAL.width and max(widths) > 1.5 * ORIGINAL.width


@pytest.mark.parametrize("name", ["PP-LiteSeg-T", "SegFormer-B0", "OCRNet_HRNet-W18", "SeaFormer_tiny", "Deeplabv3-R50"])
def test_semantic_recipes_draw_seven_scales_and_cut_the_training_size(name):
    found = views(name, SMALL, size=Size(400, 400))
    assert {view.size for view in found} == {SMALL}
    assert {round(view.scale[0], 2) for view in found} == {0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}


def test_maskformer_draws_sixteen_short_sides_from_half_to_twice_the_training_size():
    found = views("MaskFormer_tiny", Size(512, 512), size=Size(512, 1024), count=400)
    wanted = [256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024]
    assert sorted({round(view.scale[0] * 512) for view in found}) == wanted


def test_a_maskformer_image_gets_no_longer_than_four_training_sizes():
    assert all(view.scale[1] * 1000 <= 4 * 64 + 0.5 for view in views("MaskFormer_tiny", Size(64, 64), size=Size(50, 1000)))


@pytest.mark.parametrize("name", [row.name for row in FAMILIES.values()])
def test_the_same_place_in_a_run_gives_the_same_arrays_and_another_gives_others(name):
    one, sample = augmenter(name), sample_for(name)
    first, again = one(sample, 2, 3, 4), pickle.loads(pickle.dumps(one))(sample, 2, 3, 4)
    assert first.keys() == again.keys() and all(np.array_equal(first[key], again[key]) for key in first)
    others = [one(sample, 1, 3, 4), one(sample, 2, 8, 4), augmenter(name, seed=9)(sample, 2, 3, 4)]
    assert any(not np.array_equal(first["image"], other["image"]) for other in others)


@pytest.mark.parametrize("name", [row.name for row in FAMILIES.values()])
def test_colours_change_no_geometry(name):
    one, sample = augmenter(name), sample_for(name)
    without = replace(one, pipeline=replace(one.pipeline, distortion=None))
    for visit in range(8):
        bright, plain = one(sample, 0, visit, 0), without(sample, 0, visit, 0)
        assert bright.keys() == plain.keys()
        assert all(np.array_equal(bright[key], plain[key]) for key in bright if key != "image")
        assert bright["image"].shape == plain["image"].shape


@pytest.mark.parametrize("name", [row.name for row in FAMILIES.values()])
def test_without_augmentation_every_visit_is_the_same(name):
    one, sample = augmenter(name, augment=False), sample_for(name)
    first = one(sample, 0, 0, 0)
    for place in ((1, 0, 0), (0, 7, 3)):
        assert all(np.array_equal(first[key], value) for key, value in one(sample, *place).items())


@pytest.mark.parametrize("name", ["PP-YOLOE_seg-S", "Mask-RT-DETR-S", "MaskFormer_tiny", "SOLOv2", "MaskRCNN-ResNet50-FPN"])
def test_without_augmentation_an_image_is_resized_as_for_prediction(name):
    sample = sample_for(name)
    found = augmenter(name, augment=False)(sample, 0, 0, 0)["image"]
    code = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}[find_model(name).preprocess.interpolation]
    assert (found == cv2.resize(sample.image, found.shape[1::-1], interpolation=code)).all()


def test_without_augmentation_a_semantic_image_is_whole_and_padded_at_the_right_or_the_bottom():
    found = augmenter("PP-LiteSeg-T", augment=False)(stripes(Size(90, 120)), 0, 0, 0)
    assert found["labels"].shape == SMALL.hw
    assert (
        (found["labels"][:, :85] < 120).all() and (found["labels"][:, 86:] == 255).all() and (found["image"][:, 86:] == 128).all()
    )
    assert found["labels"][0, 0] == 0 and found["labels"][0, 84] >= 118


@given(st.integers(0, 10**6))
def test_no_recipe_keeps_an_object_without_pixels_or_a_box_that_is_not_its_extent(seed):
    for name in ("PP-YOLOE_seg-S", "Mask-RT-DETR-S", "MaskRCNN-ResNet50-FPN"):
        arrays = augmenter(name, seed=seed)(discs(seed), 0, 0, 0)
        patches = unpack_masks(arrays)
        assert len(patches) == len(arrays["classes"])
        for patch in patches:
            assert patch.bits.any(axis=0)[[0, -1]].all() and patch.bits.any(axis=1)[[0, -1]].all()


@pytest.mark.parametrize("name", [row.name for row in FAMILIES.values() if row.task == "instance"])
def test_an_image_without_objects_goes_through(name):
    empty = Sample(np.zeros((40, 50, 3), np.uint8), (), np.empty(0, np.int64), "empty")
    arrays = augmenter(name)(empty, 0, 0, 0)
    assert arrays["windows"].shape == (0, 4) and unpack_masks(arrays) == []
