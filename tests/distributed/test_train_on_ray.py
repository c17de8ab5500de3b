"""From settings to a model directory on two workers, with images prepared by Ray tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import ray

from rayseg.config.train import Settings
from rayseg.distributed.trainer import train_on_ray
from rayseg.errors import ConfigError, OutputError
from rayseg.models.defaults import effective
from rayseg.pipeline.lock import locked
from rayseg.pipeline.storage import Store
from rayseg.predict.model_dir import load_model_dir
from rayseg.training.run import train
from tests.training.squares import squares
from tests.training.toys import arrays_of

IMAGES = 5  # two workers with batches of two fill the second step of an epoch


@pytest.fixture
def data(tmp_path) -> Path:
    return squares(tmp_path / "data", IMAGES, val=2)


def settings_for(root: Path, output: Path, *, cluster: dict | None = None, **train_changes: object) -> Settings:
    usual: dict[str, object] = {
        "num_classes": 2,
        "epochs_iters": 4,
        "batch_size": 2,
        "learning_rate": 0.0005,
        "scale_rate": False,
        "pretrain_weight_path": "scratch",
        "eval_interval": 2,
        "log_interval": 1,
        "train_size": [64, 64],
        "workers": 2,
        "warmup_steps": 0,
    }
    sections = {
        "Global": {"model": "PP-LiteSeg-T", "dataset_dir": str(root), "output": str(output), "device": "cpu"},
        "Train": {**usual, **train_changes},
        "Cluster": {"num_workers": 2, "cpus_per_worker": 0.5, **(cluster or {})},
    }
    return effective(Settings.from_mapping(sections))


def losses(folder: Path) -> list[float]:
    events = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "step"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local", "quick_polls")
def test_two_workers_train_a_model_of_the_zoo_as_one_with_twice_the_batch_does(data, tmp_path):
    events: list[dict] = []
    result = train_on_ray(settings_for(data, tmp_path / "two"), report=events.append)
    one = settings_for(data, tmp_path / "one", batch_size=4, workers=0, cluster={"num_workers": 1})
    train(one)
    assert (result.step, result.folder) == (4, tmp_path / "two")
    assert [e["event"] for e in events if e["event"] not in ("step", "evaluated")] == ["started", "saved", "saved", "finished"]
    assert events[0]["workers"] == 2 and events[0]["global_batch"] == 4
    # A fresh network multiplies what rounds differently many times a step, as it does a change of its input by 1e-6: the first
    # steps say whether the workers do the same. test_zoo_gradients.py has the tight comparison.
    two, alone = losses(tmp_path / "two"), losses(tmp_path / "one")
    np.testing.assert_allclose(two[0], alone[0], rtol=1e-4)
    np.testing.assert_allclose(two[1], alone[1], rtol=1e-2)
    np.testing.assert_allclose(two, alone, rtol=0.2)
    wanted = arrays_of(tmp_path / "one" / "iter_2")
    for name, found in arrays_of(tmp_path / "two" / "iter_2").items():
        if not name.startswith(".pdopt:"):
            np.testing.assert_allclose(found, wanted[name], atol=5e-3, err_msg=name)
    assert load_model_dir(tmp_path / "two" / "best_model" / "inference").labels
    assert json.loads((tmp_path / "two" / "train_result.json").read_text())["done_flag"] is True


@pytest.mark.usefixtures("ray_local")
def test_what_cannot_be_is_refused_before_a_worker_starts(data, tmp_path):
    with pytest.raises(ConfigError, match="9 workers with 1 CPU each do not fit the cluster, which has room for 4"):
        train_on_ray(settings_for(data, tmp_path / "out", cluster={"num_workers": 9, "cpus_per_worker": 1.0}))
    settings = settings_for(data, tmp_path / "out").with_values({"Global.device": "gpu:0,1"})
    with pytest.raises(ConfigError, match="a cluster hands out its own"):
        train_on_ray(settings)
    assert ray.is_initialized()


@pytest.mark.usefixtures("ray_local")
def test_a_second_driver_is_kept_out_of_the_folder(data, tmp_path):
    with locked(Store(str(tmp_path / "out"))), pytest.raises(OutputError, match="is writing there now"):
        train_on_ray(settings_for(data, tmp_path / "out"))
