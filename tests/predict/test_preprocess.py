"""Preprocessing, bit for bit, against a slow restatement of what PaddleX computes."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.execute import feed
from rayseg.predict.prepare import prepare, to_input
from rayseg.predict.preprocess import (
    NEAREST,
    Normalize,
    PadStride,
    Permute,
    Resize,
    read_instance_steps,
    read_semantic_steps,
)

PPYOLOE = [
    {"type": "Resize", "interp": 2, "keep_ratio": False, "target_size": [64, 96]},
    {"type": "NormalizeImage", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "norm_type": "none"},
    {"type": "Permute"},
]
RCNN = [
    {"type": "Resize", "interp": 2, "keep_ratio": True, "target_size": [80, 133]},
    {"type": "NormalizeImage", "is_scale": True, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    {"type": "Permute"},
    {"type": "PadStride", "stride": 32},
]
SOLO = [RCNN[1], {**RCNN[0], "interp": 1}, RCNN[2], RCNN[3]]  # normalises first


def spec_with(steps):
    return replace(fake_spec(), steps=steps)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def slow_resize(image, config):
    height, width = config["target_size"]
    if config["keep_ratio"]:
        h, w = image.shape[:2]
        scale = min(max(height, width) / max(h, w), min(height, width) / min(h, w))
        height, width = round(h * scale), round(w * scale)
    mode = [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4][config["interp"]]
    return image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height), interpolation=mode)


def slow_normalize(image, config):
    scale = 1 / 255 if config.get("is_scale", True) else 1.0
    out = np.empty(image.shape, dtype=np.float32)
    for c in range(3):
        alpha, beta = np.float32(scale / config["std"][c]), np.float32(-config["mean"][c] / config["std"][c])
        for y in range(image.shape[0]):
            for x in range(image.shape[1]):
                out[y, x, c] = np.float32(np.float32(image[y, x, c]) * alpha) + beta
    return out


def slow_input(image, configs):
    for config in configs:
        if config["type"] == "Resize":
            image = slow_resize(image, config)
        elif config["type"] == "NormalizeImage":
            image = slow_normalize(image, config)
        elif config["type"] == "Permute":
            image = image.transpose(2, 0, 1)
        else:
            _, h, w = image.shape
            stride = config["stride"]
            padded = np.zeros((3, -(-h // stride) * stride, -(-w // stride) * stride), dtype=np.float32)
            padded[:, :h, :w] = image
            image = padded
    return image


@pytest.mark.parametrize("configs", [PPYOLOE, RCNN, SOLO], ids=["PP-YOLOE_seg", "Mask R-CNN", "SOLOv2"])
@given(height=st.integers(2, 90), width=st.integers(2, 90), seed=st.integers(0, 99))
@settings(max_examples=4, deadline=None)
def test_the_network_input_equals_paddlex_bit_for_bit(configs, height, width, seed):
    spec = spec_with(read_instance_steps(configs, "yml"))
    image = noise(height, width, seed)
    prepared = prepare(spec, image)
    found = to_input(spec, prepared)
    wanted = slow_input(image, configs)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, wanted)
    assert prepared.network.hw == wanted.shape[1:]


@pytest.mark.parametrize("configs", [PPYOLOE, RCNN, SOLO], ids=["PP-YOLOE_seg", "Mask R-CNN", "SOLOv2"])
def test_images_of_a_batch_are_made_in_their_places_and_padded_with_zeros(configs):
    spec = replace(spec_with(read_instance_steps(configs, "yml")), inputs=("image", "im_shape"))
    batch = [prepare(spec, noise(60, 80, seed)) for seed in range(3)]
    place = np.full((3, *batch[0].network.hw), np.nan, dtype=np.float32)
    assert to_input(spec, batch[0], out=place) is place
    found = feed(spec, batch)
    np.testing.assert_array_equal(found["image"], [to_input(spec, image) for image in batch])
    np.testing.assert_array_equal(found["image"][0], place)
    np.testing.assert_array_equal(found["im_shape"], [image.im_shape for image in batch])
    assert found["image"].dtype == np.float32 and found["image"].flags.c_contiguous


@pytest.mark.parametrize("interp", range(5))
def test_every_interpolation_code_is_opencvs(interp):
    configs = [{**PPYOLOE[0], "interp": interp}, *PPYOLOE[1:]]
    spec = spec_with(read_instance_steps(configs, "yml"))
    image = noise(150, 70)
    np.testing.assert_array_equal(to_input(spec, prepare(spec, image)), slow_input(image, configs))


def test_an_image_travels_as_small_bytes():
    spec = spec_with(read_instance_steps(PPYOLOE, "yml"))
    prepared = prepare(spec, noise(300, 200))
    assert prepared.pixels.dtype == np.uint8 and prepared.pixels.shape == (64, 96, 3)
    assert prepared.pixels.flags.c_contiguous
    np.testing.assert_array_equal(prepared.im_shape, np.float32([64, 96]))
    np.testing.assert_array_equal(prepared.scale_factor, np.float32([64 / 300, 96 / 200]))


def test_read_only_pixels_are_enough():
    spec = spec_with(read_instance_steps(PPYOLOE, "yml"))
    image = noise(64, 96)
    wanted = to_input(spec, prepare(spec, image))
    image.flags.writeable = False
    np.testing.assert_array_equal(to_input(spec, prepare(spec, image)), wanted)


def test_sizes_are_rounded_half_to_even():
    resize = Resize(Size(5, 5), keep_ratio=True)
    assert resize.size_for(Size(10, 5)) == Size(5, 2)  # 2.5 -> 2
    assert resize.size_for(Size(10, 7)) == Size(5, 4)  # 3.5 -> 4
    assert resize.size_for(Size(5, 10)) == Size(2, 5)


def test_an_extreme_shape_keeps_one_pixel():
    assert Resize(Size(64, 64), keep_ratio=True).size_for(Size(1, 4000)) == Size(1, 64)


def test_padding_does_not_touch_im_shape():
    spec = spec_with(read_instance_steps(RCNN, "yml"))
    prepared = prepare(spec, noise(60, 50))
    assert prepared.resized == Size(96, 80) and prepared.network == Size(96, 96)
    np.testing.assert_array_equal(prepared.im_shape, np.float32([96, 80]))


def test_a_stride_of_minus_one_pads_nothing():
    assert PadStride(-1).size_for(Size(33, 7)) == Size(33, 7)


def test_semantic_normalisation_defaults_to_one_half():
    steps = read_semantic_steps([{"type": "Normalize"}], "yml")
    assert steps == (Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), Permute())


def test_a_semantic_target_is_width_first_and_an_instance_target_height_first():
    semantic = read_semantic_steps([{"type": "Resize", "target_size": [90, 40]}, {"type": "Normalize"}], "yml")
    instance = read_instance_steps([{"type": "Resize", "target_size": [40, 90]}, *PPYOLOE[1:]], "yml")
    assert semantic[0].target == instance[0].target == Size(height=40, width=90)


def test_a_divisor_rounds_both_sides_up():
    (resize, *_) = read_semantic_steps(
        [{"type": "Resize", "target_size": 64, "keep_ratio": True, "size_divisor": 32}, {"type": "Normalize"}], "yml"
    )
    assert resize.size_for(Size(height=120, width=160)) == Size(64, 64)  # 48 x 64 before


@pytest.mark.parametrize(
    "configs, message",
    [
        (None, "expected a list of operators, got None"),
        ([], "expected a list of operators"),
        (["Resize"], "expected an operator with a `type`, got 'Resize'"),
        ([{"type": "Rotate"}], "operator 'Rotate' is not supported; supported: Resize"),
        ([{"type": "WarpAffine"}], "PaddleX knows it, no segmentation model we finish uses it"),
        ([{**PPYOLOE[0], "interp": 7}, *PPYOLOE[1:]], "interp 7: expected 0 to 4"),
        ([{**PPYOLOE[0], "colour": 1}, *PPYOLOE[1:]], "Resize cannot be built from .*colour"),
        ([{**PPYOLOE[0], "target_size": [0, 5]}, *PPYOLOE[1:]], "at least one pixel"),
        ([PPYOLOE[0], {**PPYOLOE[1], "norm_type": "minmax"}, PPYOLOE[2]], "norm_type 'minmax'"),
        ([PPYOLOE[0], {**PPYOLOE[1], "std": [1, 0, 1]}, PPYOLOE[2]], "std must not be 0"),
        ([*PPYOLOE, PPYOLOE[0]], "more than one Resize"),
        ([PPYOLOE[2], PPYOLOE[1]], "exactly one Permute, after Resize and NormalizeImage"),
        (PPYOLOE[:2], "exactly one Permute"),
        ([{"type": "PadStride", "stride": 32}, PPYOLOE[2]], "PadStride must follow Permute"),
    ],
)
def test_what_cannot_be_honoured_is_refused(configs, message):
    with pytest.raises(ModelError, match=message) as caught:
        read_instance_steps(configs, "inference.yml, Preprocess")
    assert "inference.yml, Preprocess" in str(caught.value)


def test_a_semantic_model_needs_normalize():
    with pytest.raises(ModelError, match="has no Normalize"):
        read_semantic_steps([{"type": "Resize", "target_size": 64}], "yml")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_only_rgb_bytes_are_images(image):
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        prepare(fake_spec(), image)


def test_nearest_keeps_the_corner_pixel_a_fault_is_scripted_by():
    spec = fake_spec(size=Size(8, 8))
    assert spec.steps[0].interpolation == NEAREST
    image = noise(40, 30)
    np.testing.assert_array_equal(prepare(spec, image).pixels[0, 0], image[0, 0])
