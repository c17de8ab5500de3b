"""DeepLabv3 and DeepLabv3+: the contract of semantic networks, and what is their own."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import paddle
import pytest

from rayseg.models.backbones.resnet_vd_dilated import resnet50_vd
from rayseg.models.semantic.deeplabv3 import (
    build_deeplabv3_plus_r50,
    build_deeplabv3_plus_r101,
    build_deeplabv3_r50,
    build_deeplabv3_r101,
)
from tests.models.semantic_contract import SemanticContract, noise


class TestDeepLabV3(SemanticContract):
    models: ClassVar = {"Deeplabv3-R50": build_deeplabv3_r50, "Deeplabv3-R101": build_deeplabv3_r101}

    @pytest.mark.zoo
    @pytest.mark.slow
    def test_two_images_are_learnt_by_heart(self) -> None:
        super().test_two_images_are_learnt_by_heart()


class TestDeepLabV3Plus(SemanticContract):
    models: ClassVar = {"Deeplabv3_Plus-R50": build_deeplabv3_plus_r50, "Deeplabv3_Plus-R101": build_deeplabv3_plus_r101}


@pytest.mark.parametrize("size", [(64, 96), (33, 17), (250, 5), (1, 1)])
def test_the_backbone_stays_at_an_eighth_of_the_size_rounded_up(size):
    backbone = resnet50_vd()
    backbone.eval()
    with paddle.no_grad():
        maps = backbone(paddle.to_tensor(noise(1, *size)))
    strides = (4, 8, 8, 8)
    wanted = [(1, c, *(-(-side // s) for side in size)) for c, s in zip(backbone.out_channels, strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == wanted


def test_the_context_of_the_whole_image_reaches_every_pixel():
    paddle.seed(0)
    pyramid = build_deeplabv3_r50(3).head.aspp
    pyramid.eval()
    x = np.zeros((1, 2048, 40, 40), dtype="float32")
    changed = x.copy()
    changed[:, :, 0, 0] = 100.0
    with paddle.no_grad():
        before, after = (pyramid(paddle.to_tensor(array)).numpy() for array in (x, changed))
    # No dilated convolution reaches this far; the mean over the image does.
    assert np.abs(after - before)[0, :, 39, 39].max() > 0
