"""SegFormer: the contract of semantic networks, and what is its own."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import paddle
import pytest
from paddle import nn

from rayseg.models.backbones import mit
from rayseg.models.blocks.drop_path import DropPath
from rayseg.models.semantic.segformer import (
    build_segformer_b0,
    build_segformer_b1,
    build_segformer_b2,
    build_segformer_b3,
    build_segformer_b4,
    build_segformer_b5,
)
from rayseg.predict.backends.paddle_inference import onednn_cpu, plain_cpu
from rayseg.predict.export import export_model
from rayseg.predict.model_dir import load_model_dir
from tests.models.semantic_contract import NUM_CLASSES, SAME_PIXELS, SemanticContract, noise


class TestSegFormer(SemanticContract):
    models: ClassVar = {
        "SegFormer-B0": build_segformer_b0,
        "SegFormer-B1": build_segformer_b1,
        "SegFormer-B2": build_segformer_b2,
        "SegFormer-B3": build_segformer_b3,
        "SegFormer-B4": build_segformer_b4,
        "SegFormer-B5": build_segformer_b5,
    }
    gradient_hw = (96, 72)


@pytest.fixture(scope="module")
def network() -> nn.Layer:
    paddle.seed(0)
    network = build_segformer_b0(NUM_CLASSES)
    network.eval()
    return network


@pytest.mark.parametrize("size", [(64, 96), (250, 333), (28, 30), (33, 1), (1, 1)])
def test_the_backbone_gives_maps_at_strides_4_to_32_rounded_up(network, size):
    with paddle.no_grad():
        maps = network.backbone(paddle.to_tensor(noise(1, *size)))
    wanted = [
        [1, c, *(-(-side // stride) for side in size)]
        for c, stride in zip(network.backbone.out_channels, (4, 8, 16, 32), strict=True)
    ]
    assert [x.shape for x in maps] == wanted


def test_a_map_smaller_than_one_cell_of_the_keys_is_padded_with_zeros(network):
    attention = network.backbone.block1[0].attn
    x = np.random.default_rng(0).normal(size=(1, 32, 3, 5)).astype("float32")
    padded = np.zeros((1, 32, 8, 8), dtype="float32")
    padded[:, :, :3, :5] = x
    with paddle.no_grad():
        found = attention.sr(attention._at_least_one_cell(paddle.to_tensor(x))).numpy()
        wanted = attention.sr(paddle.to_tensor(padded)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_layer_norms_in_blocks_and_behind_stages_have_a_smaller_epsilon_than_those_behind_convolutions(network):
    found = {name: layer._epsilon for name, layer in network.named_sublayers() if isinstance(layer, nn.LayerNorm)}
    behind_convolutions = {name for name in found if "patch_embed" in name or name.endswith("attn.norm")}
    assert len(behind_convolutions) == 4 + 6
    assert len(found) - len(behind_convolutions) == 2 * 8 + 4
    assert {found[name] for name in behind_convolutions} == {1e-5}
    assert {found[name] for name in found.keys() - behind_convolutions} == {1e-6}


@pytest.mark.parametrize("build", [build_segformer_b0, build_segformer_b2])
def test_the_rate_of_dropped_branches_rises_evenly_over_all_blocks(build):
    rates = [layer.rate for layer in build(2).backbone.sublayers() if isinstance(layer, DropPath)]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, len(rates)))


def test_attention_in_parts_is_attention_in_one_go_and_so_are_its_gradients(monkeypatch):
    rng = np.random.default_rng(0)
    shapes = {"query": (2, 3, 50, 4), "key": (2, 3, 11, 4), "value": (2, 3, 11, 4)}
    arrays = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    weigh = rng.normal(size=shapes["query"]).astype("float32")

    def run(attend):
        tensors = {name: paddle.to_tensor(array, stop_gradient=False) for name, array in arrays.items()}
        seen = attend(**tensors)
        (seen * paddle.to_tensor(weigh)).sum().backward()
        return [seen.numpy(), *(tensor.grad.numpy() for tensor in tensors.values())]

    wanted = run(mit._attend)
    for at_a_time in (1, 2 * 3 * 11 * 7, 2 * 3 * 11 * 50, 2**26):
        monkeypatch.setattr(mit, "WEIGHTS_AT_A_TIME", at_a_time)
        for found, expected in zip(run(mit._attend_in_parts), wanted, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_attention_never_holds_more_weights_than_it_may(monkeypatch):
    held = []
    attend = mit._attend

    def watch(query, key, value):
        held.append(query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2])
        return attend(query, key, value)

    monkeypatch.setattr(mit, "_attend", watch)
    monkeypatch.setattr(mit, "WEIGHTS_AT_A_TIME", 1000)
    tokens, asked = paddle.randn([1, 2, 333, 4]), paddle.randn([1, 2, 10, 4])
    assert mit._attend_in_parts(tokens, asked, asked).shape == tokens.shape
    assert max(held) <= 1000 and sum(held) == 2 * 333 * 10


def test_exported_in_parts_it_gives_the_same_label_maps(network, tmp_path, monkeypatch):
    monkeypatch.setattr(mit, "WEIGHTS_AT_A_TIME", 3000)
    labels = [f"class {k}" for k in range(NUM_CLASSES)]
    spec = load_model_dir(export_model(network, tmp_path / "lean", name="mine", labels=labels))
    x = noise(2, 150, 130)
    with paddle.no_grad():
        wanted = network.forward_lean(paddle.to_tensor(x)).numpy()
    for backend in (plain_cpu(spec, threads=1), onednn_cpu(spec, threads=1)):
        assert (backend.run({"x": x})[0] == wanted).mean() > SAME_PIXELS


def test_only_the_lean_program_has_a_loop(network, tmp_path):
    """Converters to other engines choke on one, and PaddleX converts."""
    labels = [f"class {k}" for k in range(NUM_CLASSES)]
    for flavour in ("lean", "paddlex"):
        path = export_model(network, tmp_path / flavour, name="mine", labels=labels, flavour=flavour)
        assert ('"1.while"' in (path / "inference.json").read_text()) == (flavour == "lean")


def test_the_exported_head_computes_the_logits_of_the_network():
    paddle.seed(1)
    network = build_segformer_b1(NUM_CLASSES)
    norm = network.linear_fuse._batch_norm
    for tensor in (norm._mean, norm._variance, norm.weight, norm.bias):
        tensor.set_value(np.random.default_rng(2).uniform(0.5, 1.5, tensor.shape).astype("float32"))
    network.eval()
    layer, _ = network.program("lean")
    x = paddle.to_tensor(noise(1, 70, 50))
    with paddle.no_grad():
        wanted, found = network(x)[0].numpy(), layer.network(x)[0].numpy()
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_exporting_leaves_the_network_as_it_was():
    paddle.seed(0)
    network = build_segformer_b0(NUM_CLASSES)
    before = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    network.program("paddlex")
    assert network.training
    assert not any(layer.at_once for layer in network.sublayers() if isinstance(layer, mit.ReducedAttention))
    assert list(before) == list(network.state_dict())
    assert all((tensor.numpy() == before[name]).all() for name, tensor in network.state_dict().items())
