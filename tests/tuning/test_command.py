"""`rayseg tune`, `rayseg run` and jobs/tune.py, and one search that trains a network of the zoo for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from rayseg.cli import DONE, REFUSED, main
from rayseg.config.train import load_settings
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.tuning import search as searching
from rayseg.tuning.best import keep_best
from rayseg.tuning.workers import NOTE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(data, tmp_path) -> list[str]:
    """`-c FILE` of a search with three rates, of which one is no good."""
    values = {
        "Global": {"model": "PP-LiteSeg-T", "dataset_dir": str(data), "output": str(tmp_path / "out"), "device": "cpu"},
        "Train": {"num_classes": 2, "pretrain_weight_path": "scratch", "epochs_iters": 2, "eval_interval": 1, "batch_size": 2},
        "Cluster": {"cpus_per_worker": 2.0},
        "Search": {"space": {"Train.learning_rate": [0.01, 0.02]}},
    }
    values["Train"] |= {"train_size": [64, 64], "workers": 0, "warmup_steps": 0, "log_interval": 1}
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return ["-c", str(path)]


def test_tune_and_run_are_the_same_and_leave_open_what_the_file_leaves_open(config, monkeypatch, capsys):
    calls = []

    def tune(settings, *, report):
        calls.append(settings)
        report({"event": "evaluated", "trial": "1-001", "score": 0.5})
        best = SimpleNamespace(best_score=0.5, id="1-001")
        return SimpleNamespace(to_text=lambda: "the table", best_model="out/best_model", metric="miou", best=best)

    monkeypatch.setattr(searching, "tune", tune)
    assert main(["tune", *config, "-o", "Train.eval_interval=null"]) == DONE
    assert main(["run", *config, "-o", "Train.eval_interval=null", "-o", "Global.mode=tune"]) == DONE
    first, second = calls
    assert first == second and first.train.eval_interval is None and first.general.mode == "tune"
    assert "the table\n\nout/best_model: miou 0.5 by trial 1-001" in capsys.readouterr().out


def test_what_cannot_be_searched_is_refused_before_anything_runs(config, tmp_path, capsys):
    assert main(["tune", *config, "-o", "Search.space={Cluster.num_workers: [1, 2]}"]) == REFUSED
    assert "'Cluster.num_workers' cannot be searched" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_job_for_ray_is_the_command(config):
    wrong = [sys.executable, "-W", "ignore", str(ROOT / "jobs" / "tune.py"), *config, "-o", "Search.sampels=1"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(wrong, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == REFUSED and "did you mean 'num_samples'" in done.stderr


@pytest.mark.slow
def test_a_network_of_the_zoo_is_searched_for_real_and_the_best_segments(config, tmp_path, ray_local, capsys):
    out = tmp_path / "out"
    assert main(["tune", "-q", *config]) == DONE
    assert "1-002" in capsys.readouterr().out
    for trial in ("1-001", "1-002"):
        left = {path.name for path in (out / "trials" / trial).iterdir()}
        assert {"train.log", "config.yaml", "train_result.json", "best_model"} <= left
    picture = np.full((64, 64, 3), 30, np.uint8)
    (found,) = Predictor(load_model_dir(out / "best_model" / "inference")).predict([picture])
    assert found.labels.shape == (64, 64) and load_settings(out / "config.yaml").general.output == str(out)
    # A trial that was stopped early has exported nothing yet
    shutil.rmtree(out / "trials" / "1-001" / "best_model" / "inference")
    keep_best(out, out / "trials" / "1-001")
    assert load_model_dir(out / "best_model" / "inference").labels
    weights = [path / "best_model" / "model.pdparams" for path in (out, out / "trials" / "1-001")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_a_trial_of_two_workers_starts_them_itself_and_its_scores_reach_the_search(config, tmp_path, ray_local, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    more = {"Cluster.num_workers": 2, "Cluster.cpus_per_worker": 2.0, "Search.space": {"Train.learning_rate": [0.01]}}
    events: list[dict] = []
    result = searching.tune(load_settings(config[1]).with_values({**more, "Train.batch_size": 1}), report=events.append)
    (record,) = result.trials
    assert record.status == "done" and record.workers == 2 and result.at_once == 1
    assert record.first_rate == pytest.approx(0.01 * 2 / 16), "scaled with the images of both workers"
    assert [event["evaluation"] for event in events if event["event"] == "evaluated"] == [1, 2]
    assert result.cost["worker_seconds"] == pytest.approx(2 * result.cost["trial_seconds"], abs=0.2)
    history = (tmp_path / "out" / "trials" / "1-001" / "history.jsonl").read_text()
    assert not (tmp_path / "out" / "trials" / "1-001" / NOTE).exists()
    assert '"workers": 2' in history and (tmp_path / "out" / "best_model" / "inference").is_dir()
