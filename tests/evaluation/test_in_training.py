"""What a training run calls: the same answer on every worker, and a network that is not disturbed."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from rayseg.errors import ConfigError
from rayseg.evaluation.in_training import Evaluator
from rayseg.evaluation.model import evaluate_model
from rayseg.evaluation.network import predictor_of
from rayseg.models.zoo import build_model
from rayseg.predict.export import export_model
from rayseg.predict.model_dir import load_model_dir
from tests.evaluation.builders import coco_set, semantic_set

LABELS = ["round", "long", "bent"]
SMALL_ONES = ["SeaFormer_tiny", "SegFormer-B0", "PP-LiteSeg-T", "Mask-RT-DETR-S", "PP-YOLOE_seg-S"]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_number_of_workers_gives_the_same_metrics(tmp_path, instance_network, size):
    truth = coco_set(tmp_path, images=3, empty=1, name="long")
    parts = []
    for rank in range(size):  # what each worker brings
        Evaluator(truth, labels=LABELS, rank=rank, size=size, gather=lambda part: parts.append(part) or [part])(instance_network)
    answers = [
        Evaluator(truth, labels=LABELS, rank=rank, size=size, gather=lambda _: parts)(instance_network) for rank in range(size)
    ]
    whole = evaluate_model(instance_network, truth, labels=LABELS).metrics()
    assert answers == [whole] * size and "ap" in whole and "box_ap50" in whole


def test_a_second_call_sees_the_weights_as_they_are_then(tmp_path, semantic_network):
    rng = np.random.default_rng(0)
    evaluator = Evaluator(semantic_set(tmp_path, [rng.integers(0, 5, (40, 40))]), labels=[*"abcde"])
    assert evaluator.last is None
    before, bias = evaluator(semantic_network), semantic_network.seg_heads[0].conv_out.weight
    kept = bias.clone()
    try:
        bias.set_value(-kept)
        assert evaluator(semantic_network) != before
    finally:
        bias.set_value(kept)
    assert evaluator(semantic_network) == before == evaluator.last.metrics()


def test_the_network_keeps_its_mode_and_weights(tmp_path, instance_network):
    instance_network.train()
    before = {name: tensor.numpy() for name, tensor in instance_network.state_dict().items()}
    try:
        Evaluator(coco_set(tmp_path, name="long"), labels=LABELS)(instance_network)
        assert instance_network.training
    finally:
        instance_network.eval()
    assert all((tensor.numpy() == before[name]).all() for name, tensor in instance_network.state_dict().items())


@pytest.mark.parametrize("flavour_of", ["instance", "semantic"])
def test_a_network_is_described_as_its_export_is(flavour_of, instance_network, semantic_network, model_dirs):
    network = instance_network if flavour_of == "instance" else semantic_network
    exported = load_model_dir(model_dirs[flavour_of, "lean"])
    mine = predictor_of(network, exported.labels).spec
    for name in ("task", "family", "flavour", "labels", "steps", "inputs", "fixed_input", "any_batch", "draw_threshold"):
        assert getattr(mine, name) == getattr(exported, name), name


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_ONES)
def test_every_small_family_is_described_as_its_export_is(name, tmp_path):
    paddle.seed(0)
    network = build_model(name, 3)
    network.eval()
    exported = load_model_dir(export_model(network, tmp_path / "out", name=name, labels=LABELS))
    mine = predictor_of(network, LABELS).spec
    for field in ("task", "family", "flavour", "labels", "steps", "inputs", "fixed_input", "any_batch", "draw_threshold"):
        assert getattr(mine, field) == getattr(exported, field), field


def test_workers_without_a_way_to_meet_are_refused(tmp_path):
    truth = coco_set(tmp_path)
    with pytest.raises(ConfigError, match="2 workers score their own images only; give a gather"):
        Evaluator(truth, labels=LABELS, rank=1, size=2)
    with pytest.raises(ConfigError, match="rank 2 of 2 workers"):
        Evaluator(truth, labels=LABELS, rank=2, size=2, gather=lambda part: [part])
