"""ResNet and its feature pyramid: published names and settings, the reference numbers, and what stays frozen."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from rayseg.models.backbones.resnet import Res5Head, ResNet
from rayseg.models.blocks.fpn import FPN

SSLD = (0.05, 0.05, 0.1, 0.15)
PYRAMID = (0, 1, 2, 3)
VARIANTS = {
    "Cascade-MaskRCNN-ResNet50-FPN": {},
    "Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN": {"variant": "d", "lr_mults": SSLD},
    "MaskRCNN-ResNeXt101-vd-FPN": {"depth": 101, "variant": "d", "groups": 64, "base_width": 4},
    "MaskRCNN-ResNet101-FPN": {"depth": 101},
    "MaskRCNN-ResNet101-vd-FPN": {"depth": 101, "variant": "d"},
    "MaskRCNN-ResNet50": {"return_idx": (2,)},
    "MaskRCNN-ResNet50-FPN": {},
    "MaskRCNN-ResNet50-vd-FPN": {"variant": "d"},
    "MaskRCNN-ResNet50-vd-SSLDv2-FPN": {"variant": "d", "lr_mults": SSLD},
    "SOLOv2": {},
}


class Trunk(nn.Layer):
    """The parts of a detector that are made of ResNet."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.backbone = ResNet(**options)
        if self.backbone.return_idx == PYRAMID:
            self.neck = FPN(self.backbone.channels_out)
        else:
            self.bbox_head = nn.Layer()
            self.bbox_head.head = Res5Head()

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        maps = self.backbone(x)
        return self.neck(maps) if hasattr(self, "neck") else maps


def settings_of(tensor: paddle.Tensor) -> dict[str, object]:
    """What is not Paddle's default, in the words of the reference files."""
    found: dict[str, object] = {"trainable": False} if tensor.stop_gradient else {}
    rate = getattr(tensor, "optimize_attr", {"learning_rate": 1.0})["learning_rate"]
    if rate != 1.0:
        found["lr_mult"] = rate
    if getattr(tensor, "regularizer", None) is not None:
        found["regularizer"] = f"L2Decay({tensor.regularizer._coeff:g})"
    return found


def lively(**options) -> ResNet:
    """A backbone whose frozen statistics are not those it was born with."""
    paddle.seed(0)
    model = ResNet(**options)
    random = np.random.RandomState(0)
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._mean.set_value(random.normal(0, 0.1, layer._mean.shape).astype("float32"))
            layer._variance.set_value(random.uniform(1, 3, layer._variance.shape).astype("float32"))
    return model


def noise(height: int, width: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.RandomState(1).normal(size=(1, 3, height, width)).astype("float32"))


@pytest.mark.parametrize("model", VARIANTS)
def test_names_shapes_order_and_settings_are_those_of_published_weights(shared_dir: Path, model):
    stored = json.loads((shared_dir / "zoo" / "keys" / f"{model}.json").read_text())
    ours = ("backbone.", "neck.", "bbox_head.head.res5.")
    state = Trunk(**VARIANTS[model]).state_dict()
    found = [[k, list(v.shape), str(v.dtype).removeprefix("paddle.")] for k, v in state.items()]
    assert found == [row for row in stored["keys"] if row[0].startswith(ours)]
    wanted = {name: attrs for name, attrs in stored["param_attrs"].items() if name.startswith(ours)}
    for attrs in wanted.values():
        if "regularizer" in attrs:
            attrs["regularizer"] = attrs["regularizer"].replace("(0.0)", "(0)")
    settings = {name: settings_of(value) for name, value in state.items()}
    assert {name: attrs for name, attrs in settings.items() if attrs} == wanted


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("model", ["MaskRCNN-ResNet50-FPN", "MaskRCNN-ResNet50"])
def test_every_layer_computes_what_the_reference_computes(shared_dir: Path, model):
    sys.path.insert(0, str(shared_dir / "zoo"))
    try:
        import compare
    finally:
        sys.path.pop(0)
    oracle = compare.Oracle(model)
    trunk = Trunk(**VARIANTS[model])
    oracle.fill_layer(trunk, strict=False)
    trunk.eval()
    trace = oracle.tracer(trunk)
    with paddle.no_grad():
        trunk(oracle.inputs_as_tensors()["image"])
    rows = {name: error for name, error, _ in trace.rows}
    assert rows.keys() == {name for name in trace.want if name.startswith(("backbone.", "backbone#", "neck"))}
    assert max(rows.values()) < 1e-4


@pytest.mark.parametrize("variant", ["b", "d"])
def test_maps_have_the_side_of_their_stride_rounded_up(variant):
    model = ResNet(50, variant=variant)
    with paddle.no_grad():
        maps = model(noise(70, 33))
        pyramid = FPN(model.channels_out, channels=8)
        levels = pyramid(maps)
    sides = [(18, 9), (9, 5), (5, 3), (3, 2), (2, 1)]
    assert [tuple(x.shape[1:]) for x in maps] == [(c, *side) for c, side in zip(model.channels_out, sides[:4], strict=True)]
    assert [tuple(x.shape[1:]) for x in levels] == [(8, *side) for side in sides]
    assert (levels[4] == levels[3][:, :, ::2, ::2]).all()
    assert pyramid.channels_out == [8] * 5 and pyramid.strides == [4, 8, 16, 32, 64]


def test_the_pyramid_adds_coarse_maps_to_fine_ones_and_not_the_other_way():
    paddle.seed(0)
    pyramid = FPN([4, 4, 4, 4], channels=4)
    maps = [paddle.rand([1, 4, side, side]) for side in (16, 8, 4, 2)]
    before = [x.numpy() for x in pyramid(maps)]
    for changed in range(4):
        other = [x * 2 if level == changed else x for level, x in enumerate(maps)]
        moved = [bool((a.numpy() != b).any()) for a, b in zip(pyramid(other), before, strict=True)]
        assert moved == [level <= changed for level in range(4)] + [changed == 3]


def test_training_changes_neither_statistics_nor_outputs_and_leaves_what_is_frozen():
    model, x = lively(), noise(64, 64)
    model.eval()
    with paddle.no_grad():
        wanted = [m.numpy() for m in model(x)]
    statistics = {k: v.numpy() for k, v in model.state_dict().items() if k.endswith(("_mean", "_variance"))}
    model.train()
    maps = model(x)
    for found, expected in zip(maps, wanted, strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    maps[-1].mean().backward()
    assert all((model.state_dict()[k].numpy() == v).all() for k, v in statistics.items())
    learning = {name for name, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0}
    assert learning == {
        name for name, _ in model.named_parameters() if name.endswith("conv.weight") and name[:4] in ("res3", "res4", "res5")
    }


def test_a_backbone_that_stops_early_gives_the_map_of_a_whole_one():
    whole, short = lively(), ResNet(return_idx=(2,))
    short.set_state_dict({k: v for k, v in whole.state_dict().items() if k in short.state_dict()})
    assert not any(name.startswith("res5") for name in short.state_dict())
    assert (short.channels_out, short.strides) == ([1024], [16])
    with paddle.no_grad():
        (found,) = short(noise(64, 48))
        assert (found == whole(noise(64, 48))[2]).all()


def test_the_last_stage_alone_computes_what_it_computes_in_its_place():
    whole, head = lively(), Res5Head()
    head.set_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith("res5")})
    with paddle.no_grad():
        maps = whole(noise(64, 64))
        assert (head(maps[2]) == maps[3]).all()
    assert head.channels_out == 2048
    assert not any(p.stop_gradient for name, p in head.named_parameters() if name.endswith("conv.weight"))
