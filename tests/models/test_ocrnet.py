"""OCRNet on HRNet: the contract of semantic networks, and what is its own."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import paddle
import pytest

from rayseg.models.backbones.hrnet import hrnet_w18
from rayseg.models.semantic.layers import ConvBN
from rayseg.models.semantic.ocrnet import _class_means, build_ocrnet_hrnet_w18, build_ocrnet_hrnet_w48
from tests.models.semantic_contract import SemanticContract, noise


class TestOCRNet(SemanticContract):
    models: ClassVar = {"OCRNet_HRNet-W18": build_ocrnet_hrnet_w18, "OCRNet_HRNet-W48": build_ocrnet_hrnet_w48}


@pytest.mark.parametrize("size", [(64, 96), (33, 17), (250, 5), (1, 1)])
def test_the_backbone_gives_one_map_at_a_quarter_of_the_size_rounded_up(size):
    backbone = hrnet_w18()
    backbone.eval()
    with paddle.no_grad():
        found = backbone(paddle.to_tensor(noise(1, *size)))
    assert found.shape == [1, backbone.out_channels, *(-(-side // 4) for side in size)]


def test_the_mean_of_a_class_that_is_sure_of_its_pixels_is_their_mean():
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 4, 3, 5)).astype("float32")
    owner = rng.integers(0, 3, (2, 3, 5))
    guess = np.where(owner[:, None] == np.arange(3)[None, :, None, None], 50.0, -50.0).astype("float32")
    found = _class_means(paddle.to_tensor(pixels), paddle.to_tensor(guess)).numpy()
    assert found.shape == (2, 4, 3, 1)
    for image in range(2):
        for k in range(3):
            wanted = pixels[image][:, owner[image] == k].mean(axis=1)
            np.testing.assert_allclose(found[image, :, k, 0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("padding", "first_tap"), [("even", 2.0), ("same", 3.0)])
def test_where_the_zero_of_an_even_side_goes_decides_what_a_strided_kernel_sees(padding, first_tap):
    layer = ConvBN(1, 1, 3, stride=2, padding=padding)
    layer._conv.weight.set_value(paddle.ones([1, 1, 3, 3]))
    column = paddle.to_tensor(np.array([1, 1, 1, 1], dtype="float32")).reshape([1, 1, 4, 1])
    found = layer._conv(column).numpy()[0, 0, :, 0]
    assert found.shape == (2,)
    assert found[0] == first_tap
