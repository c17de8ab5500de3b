"""Evaluation as settings describe it: PaddleX's numbers and ours, the same over a cluster as in one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from rayseg.config.train import Settings
from rayseg.errors import DatasetError, WeightsError
from rayseg.models.defaults import effective
from rayseg.models.weights import save_weights
from rayseg.models.zoo import build_model
from rayseg.pipeline.evaluate import evaluate
from rayseg.predict.export import export_model
from tests.evaluation.builders import semantic_set

CLASSES = ("sky", "sea", "land")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Five images, weights of a network for them, and its export."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(3)
    semantic_set(folder / "data", [rng.integers(0, 3, (64, 64 + 32 * (i % 2))) for i in range(5)])
    (folder / "data/train.txt").write_text((folder / "data/val.txt").read_text())
    (folder / "data/labels.txt").write_text("\n".join(CLASSES))
    paddle.seed(0)
    network = build_model("SeaFormer_tiny", 3)
    network.eval()
    save_weights(network, folder / "model.pdparams")
    export_model(network, folder / "inference", name="mine", labels=CLASSES)
    return folder


def settings_for(folder: Path, **changes) -> Settings:
    values = {
        "Global": {"model": "SeaFormer_tiny", "dataset_dir": str(folder / "data"), "output": str(folder), "device": "cpu"},
        "Evaluate": {"weight_path": str(folder / "model.pdparams")},
    }
    for key, value in changes.items():
        section, _, name = key.partition("_")
        values.setdefault(section, {})[name] = value
    return effective(Settings.from_mapping(values))


def test_weights_and_their_export_score_alike_under_the_names_of_paddlex(trained):
    weights = evaluate(settings_for(trained))
    assert json.loads(json.dumps(weights, allow_nan=False)) == weights
    assert set(weights["metrics"]) == {"mIoU", "Acc", "Kappa", "Dice"} and weights["images"] == 5
    assert [row["name"] for row in weights["classes"]] == list(CLASSES)
    exported = evaluate(settings_for(trained, Evaluate_weight_path=str(trained / "inference")))
    assert exported["metrics"] == pytest.approx(weights["metrics"], abs=0.01)
    assert exported["model"] == str(trained / "inference")


@pytest.mark.parametrize("workers", [2, 9])
def test_workers_of_a_cluster_find_what_one_process_finds(trained, ray_local, workers):
    alone = evaluate(settings_for(trained))
    shared = evaluate(settings_for(trained, Cluster_num_workers=workers, Cluster_cpus_per_worker=1))
    assert {**shared, "seconds": 0} == {**alone, "seconds": 0}


def test_what_a_worker_cannot_read_is_told_as_our_own_error(trained, ray_local, tmp_path):
    semantic_set(tmp_path / "data", [np.full((40, 40), 7)])
    (tmp_path / "data/train.txt").write_text((tmp_path / "data/val.txt").read_text())
    (tmp_path / "data/labels.txt").write_text("\n".join(CLASSES))
    changes = {"Global_dataset_dir": str(tmp_path / "data"), "Cluster_num_workers": 2}
    with pytest.raises(DatasetError, match=r"masks/0\.png: holds the ids \[7\]") as caught:
        evaluate(settings_for(trained, **changes))
    assert "Traceback" not in str(caught.value)


def test_weights_of_other_classes_are_refused(trained, tmp_path):
    network = build_model("SeaFormer_tiny", 7)
    save_weights(network, tmp_path / "model.pdparams")
    with pytest.raises(WeightsError, match="made for another number of classes than the 3 asked for"):
        evaluate(settings_for(trained, Evaluate_weight_path=str(tmp_path / "model.pdparams")))
