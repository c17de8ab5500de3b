"""One contract for all networks of the zoo, held with the weights the reference numbers were made with.

Names and attributes of parameters are compared for every model; what has to be computed, for the smallest of each
family but two, or for all with RAYSEG_ZOO=all. What is particular to a family is tested in tests/models.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from rayseg import rle
from rayseg.geometry import Size, Window
from rayseg.models.instance.rpn import ProposalLimits
from rayseg.models.network import InstanceNetwork
from rayseg.models.zoo import MODELS, ZooModel
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.export import export_model
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.results import Instances, Result

SMALLEST = list({row.family: row.name for row in reversed(MODELS.values())}.values())
DEAR = ("MaskRCNN-ResNet50", "Cascade-MaskRCNN-ResNet50-FPN")
"""A minute or more each, and made of parts that MaskRCNN-ResNet50-FPN has or tests/models looks at."""
CHECKED = list(MODELS) if os.environ.get("RAYSEG_ZOO") == "all" else [name for name in SMALLEST if name not in DEAR]
SMALL = Size(96, 128)
"""Networks that keep the ratio of an image's sides get it no larger than this."""
SQUARE = Size(160, 160)
"""Those that stretch it get it like this."""
CHEAPER = {"SOLOv2": {"head_channels": 32}}
"""Builder options where a head costs the same for images of any size."""
FEW_PROPOSALS = ProposalLimits(before_nms=300, after_nms=60, keep=60)
SAME_PIXELS = 1 - 2e-3
reads_reference = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def fill(shared_dir: Path):
    """The module that makes weights from names and shapes."""
    sys.path.insert(0, str(shared_dir / "zoo"))
    try:
        import fill
    finally:
        sys.path.pop(0)
    return fill


def filled(row: ZooModel, fill) -> paddle.nn.Layer:
    """In eval mode, for small images where it takes any."""
    network, scales = row.build(**CHEAPER.get(row.name, {})), fill.load_scales(row.name)
    shared = json.loads((Path(fill.HERE) / "keys" / f"{row.name}.json").read_text())["shared_tensors"]
    first = {name: names[0] for names in shared for name in names}
    for name, tensor in network.state_dict().items():
        name = first.get(name, name)
        values = fill.fill(name, tensor.shape, str(tensor.dtype), scales.get(name, 1.0))
        if values is not None:
            tensor.set_value(values)
    if network.preprocess.keep_ratio:
        network.preprocess = replace(network.preprocess, resize=SMALL)
    elif network.preprocess.resize:
        network.input_size = SQUARE
        network.preprocess = replace(network.preprocess, resize=SQUARE)
    if hasattr(network, "rpn_head"):
        network.rpn_head.test_limits = FEW_PROPOSALS
    network.eval()
    return network


@pytest.fixture(scope="module", params=CHECKED)
def exported(request, fill, tmp_path_factory) -> dict[str, Path]:
    """Flavour -> directory."""
    row = MODELS[request.param]
    network = filled(row, fill)
    labels = [f"class {k}" for k in range(row.num_classes)]
    root = tmp_path_factory.mktemp(row.name)
    return {
        flavour: export_model(network, root / flavour, name=row.name, labels=labels, flavour=flavour)
        for flavour in ("lean", "paddlex")
    }


@pytest.fixture(scope="module")
def pictures(fill) -> list[np.ndarray]:
    """One alone in its size, and two that share another."""
    return [fill.image(75, 120, 5), fill.image(128, 96, 1), fill.image(128, 96, 2)]


@pytest.mark.parametrize("name", MODELS)
def test_parameters_have_the_published_names_shapes_and_attributes(name: str, shared_dir: Path) -> None:
    wanted = json.loads((shared_dir / f"zoo/keys/{name}.json").read_text())
    state = MODELS[name].build().state_dict()
    assert [[k, list(v.shape), str(v.dtype).removeprefix("paddle.")] for k, v in state.items()] == wanted["keys"]
    frozen = {k for k, v in state.items() if v.stop_gradient and "int" not in str(v.dtype)}
    assert frozen == {k for k, attributes in wanted["param_attrs"].items() if attributes.get("trainable") is False}
    rates = {k: _rate(v) for k, v in state.items() if not v.stop_gradient and _rate(v) != 1.0}
    published = {k: a["lr_mult"] for k, a in wanted["param_attrs"].items() if k not in frozen and "lr_mult" in a}
    assert rates == pytest.approx(published)
    assert MODELS[name].typical_input.hw == tuple(wanted["real_input_hw"])


@pytest.mark.parametrize("name", CHECKED)
def test_the_table_says_what_the_network_says_about_its_input(name: str) -> None:
    row = MODELS[name]
    network = row.build(3)
    assert network.preprocess == row.preprocess and network.num_classes == 3
    assert isinstance(network, InstanceNetwork) == (row.task == "instance")


@reads_reference
def test_no_result_depends_on_its_batch_mates_or_on_the_run(exported: dict[str, Path], pictures: list[np.ndarray]) -> None:
    predictor = Predictor(load_model_dir(exported["lean"]), Together(exported["lean"]))
    together = predictor.predict(pictures, threshold=0.0, batch_size=3)
    alone = [predictor.predict([picture], threshold=0.0, batch_size=1)[0] for picture in pictures]
    for one, two in zip(together, alone, strict=True):
        assert_alike(one, two)
    assert same(alone[0], predictor.predict(pictures[:1], threshold=0.0, batch_size=1)[0])


@reads_reference
def test_both_flavours_find_the_same(exported: dict[str, Path], pictures: list[np.ndarray]) -> None:
    lean, paddlex = (Predictor(load_model_dir(exported[f]), "paddle", threads=1) for f in ("lean", "paddlex"))
    for one, two in zip(lean.predict(pictures[:2], 0.0), paddlex.predict(pictures[:2], 0.0), strict=True):
        assert_alike(one, two)


class Together(Backend):
    """The plain engine, given whole batches, which CPU engines otherwise are not."""

    name = "together"
    batches = True

    def __init__(self, path: Path) -> None:
        from rayseg.predict.backends.paddle_inference import plain_cpu

        self._engine = plain_cpu(load_model_dir(path), threads=1)

    def run(self, inputs):
        return self._engine.run(inputs)


def same(one: Result, two: Result) -> bool:
    """Bit for bit."""
    if not isinstance(one, Instances):
        return bool((one.labels.shape == two.labels.shape) and (one.labels == two.labels).all())
    arrays = ((getattr(one, f), getattr(two, f)) for f in ("boxes_xyxy", "scores", "class_ids"))
    return one.masks == two.masks and all(np.array_equal(a, b) for a, b in arrays)


def assert_alike(one: Result, two: Result) -> None:
    """But for last bits, which may move a pixel on an outline, or the order and choice of objects with near-equal scores."""
    if not isinstance(one, Instances):
        assert (one.labels == two.labels).mean() > SAME_PIXELS
        return
    assert len(one) > 10, "too few objects to compare"
    unmatched = 0
    for i in range(len(one)):
        near = (one.class_ids[i] == two.class_ids) & (np.abs(one.scores[i] - two.scores) < 1e-4)
        near &= (np.abs(one.boxes_xyxy[i] - two.boxes_xyxy) < 1.01).all(axis=1)
        unmatched += not any(_same_mask(one.masks[i], two.masks[j]) for j in np.flatnonzero(near))
    assert unmatched <= 0.03 * len(one), f"{unmatched} of {len(one)} objects have no counterpart"
    assert abs(len(one) - len(two)) <= 0.03 * len(one)


def _same_mask(one: rle.Rle, two: rle.Rle) -> bool:
    whole = Window.of(one.size)
    a, b = rle.decode_window(one, whole), rle.decode_window(two, whole)
    return int((a != b).sum()) <= 2 + 0.02 * max(a.sum(), b.sum())


def _rate(tensor: paddle.Tensor) -> float:
    return float((getattr(tensor, "optimize_attr", None) or {}).get("learning_rate", 1.0))
