"""SeaFormer: the contract of semantic networks, and what is its own."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional

from rayseg.models.backbones.seaformer import _Positions
from rayseg.models.blocks.drop_path import DropPath
from rayseg.models.semantic.seaformer import (
    build_seaformer_base,
    build_seaformer_large,
    build_seaformer_small,
    build_seaformer_tiny,
)
from tests.models.semantic_contract import SemanticContract, noise


class TestSeaFormer(SemanticContract):
    models: ClassVar = {
        "SeaFormer_tiny": build_seaformer_tiny,
        "SeaFormer_small": build_seaformer_small,
        "SeaFormer_base": build_seaformer_base,
        "SeaFormer_large": build_seaformer_large,
    }
    published_classes = 150
    gradient_hw = (130, 140)
    overfit_hw = (128, 128)
    overfit_rate = 4e-3
    overfit_factor = 15.0


@pytest.mark.parametrize("size", [(64, 96), (250, 333), (33, 1), (1, 1)])
@pytest.mark.parametrize(("build", "strides"), [(build_seaformer_tiny, (8, 32, 64)), (build_seaformer_large, (8, 16, 32, 64))])
def test_the_backbone_gives_details_and_one_map_a_stage_of_attention(build, strides, size):
    backbone = build(2).backbone
    backbone.eval()
    with paddle.no_grad():
        maps = backbone(paddle.to_tensor(noise(1, *size)))
    wanted = [[1, c, *(-(-side // s) for side in size)] for c, s in zip(backbone.out_channels, strides, strict=True)]
    assert [x.shape for x in maps] == wanted


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100])
def test_a_table_of_positions_is_stretched_linearly_to_any_length(length):
    positions = _Positions(3)
    with paddle.no_grad():
        found = positions(paddle.zeros([2, 3, length]))
        wanted = functional.interpolate(positions.pos_embed, size=[length], mode="linear", align_corners=False, data_format="NCW")
    assert found.shape == [2, 3, length]
    np.testing.assert_allclose(found.numpy(), np.repeat(wanted.numpy(), 2, axis=0), rtol=1e-5, atol=1e-6)


def test_rows_and_columns_are_told_apart():
    paddle.seed(0)
    attention = build_seaformer_tiny(2).backbone.trans1.transformer_blocks[0].attn
    attention.eval()
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 128, 6, 6)).astype("float32"))
    with paddle.no_grad():
        straight, turned = attention(x).numpy(), attention(x.transpose([0, 1, 3, 2])).numpy().transpose(0, 1, 3, 2)
    assert np.abs(straight - turned).max() > 1e-3


@pytest.mark.parametrize("build", [build_seaformer_tiny, build_seaformer_base, build_seaformer_large])
def test_the_rate_of_dropped_branches_rises_evenly_within_each_stage(build):
    backbone = build(2).backbone
    stages = [layer for name, layer in backbone.named_children() if name.startswith("trans")]
    for stage in stages:
        rates = [layer.rate for layer in stage.sublayers() if isinstance(layer, DropPath)]
        np.testing.assert_allclose(rates, np.linspace(0, 0.1, len(rates)))


def test_fresh_convolutions_neither_vanish_nor_explode():
    """PaddleSeg draws them with a deviation of up to 1000."""
    paddle.seed(0)
    for name, layer in build_seaformer_tiny(2).backbone.named_sublayers():
        if isinstance(layer, nn.Conv2D):
            out, _, height, width = layer.weight.shape
            wanted = (2 / (height * width * out / layer._groups)) ** 0.5
            assert float(layer.weight.std()) == pytest.approx(wanted, rel=0.3), name
