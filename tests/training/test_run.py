"""A folder of annotated images and a file of settings become a model directory that segments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from rayseg.config.train import Settings
from rayseg.errors import ConfigError
from rayseg.models.defaults import effective
from rayseg.models.weights import read_pdparams
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.training.checkpoint import latest
from rayseg.training.run import train
from rayseg.training.sets import open_sets
from tests.training.squares import squares
from tests.training.toys import assert_same


@pytest.fixture
def data(tmp_path) -> Path:
    return squares(tmp_path / "data", 4, val=2)


def settings_for(root: Path, output: Path, **train_changes) -> Settings:
    usual = {
        "num_classes": 2,
        "epochs_iters": 6,
        "batch_size": 2,
        "learning_rate": 0.05,
        "pretrain_weight_path": "scratch",
        "eval_interval": 3,
        "log_interval": 1,
        "train_size": [64, 64],
        "workers": 0,
        "warmup_steps": 0,
    }
    sections = {
        "Global": {"model": "PP-LiteSeg-T", "dataset_dir": str(root), "output": str(output), "device": "cpu"},
        "Train": {**usual, **train_changes},
    }
    return effective(Settings.from_mapping(sections))


class Stop(Exception):
    """Ends a run as a search ends a trial."""


@pytest.mark.slow
def test_a_stopped_run_of_the_zoo_goes_on_and_leaves_what_paddlex_leaves(tmp_path, data):
    def stop(event):
        if event["event"] == "saved" and event["step"] == 3:
            raise Stop

    train(settings_for(data, tmp_path / "whole"))
    settings = settings_for(data, tmp_path / "cut")
    with pytest.raises(Stop):
        train(settings, report=stop)
    events: list = []
    result = train(settings, report=events.append)
    assert result.resumed_from == tmp_path / "cut" / "iter_3"
    assert_same(tmp_path / "whole" / "iter_6", tmp_path / "cut" / "iter_6")

    out = tmp_path / "cut"
    assert yaml.safe_load((out / "config.yaml").read_text()) == settings.to_mapping()
    told = json.loads((out / "train_result.json").read_text())
    assert told["model_name"] == "PP-LiteSeg-T" and told["done_flag"] is True
    assert set(told["models"]) == {"last_1", "last_2", "best"}
    best = told["models"]["best"]
    assert best["score"] == result.best_score == pytest.approx(max(e["miou"] for e in events if e["event"] == "evaluated"), abs=1)
    for kind in ("pdparams", "pdopt", "pdstates", "inference_config", "pdmodel", "pdiparams"):
        assert (out / best[kind]).is_file(), kind
    assert best["pdparams"] == "best_model/model.pdparams"

    picture = np.full((64, 64, 3), 30, np.uint8)
    (found,) = Predictor(load_model_dir(out / "best_model" / "inference")).predict([picture])
    assert found.labels.shape == (64, 64)


def test_settings_and_data_that_disagree_are_refused(tmp_path, data):
    with pytest.raises(ConfigError, match="Global.dataset_dir is not set"):
        open_sets(effective(Settings.from_mapping({"Global": {"model": "PP-LiteSeg-T"}})))
    settings = settings_for(data, tmp_path / "out", num_classes=None)
    with pytest.raises(ConfigError, match="Train.num_classes is not set"):
        open_sets(settings)
    (data / "class_names.txt").write_text("back\nsquare\nother\n")
    (data / "labels.txt").write_text("back\nsquare\nother\n")
    with pytest.raises(ConfigError, match="Train.num_classes is 2, but the data set names 3 classes"):
        open_sets(settings_for(data, tmp_path / "out"))


@pytest.mark.slow
def test_a_run_may_start_from_weights_and_freeze_the_backbone(tmp_path, data):
    train(settings_for(data, tmp_path / "first", epochs_iters=2, eval_interval=2))
    weights = tmp_path / "first" / "best_model" / "model.pdparams"
    train(
        settings_for(
            data, tmp_path / "second", epochs_iters=2, eval_interval=2, pretrain_weight_path=str(weights), freeze=["backbone"]
        )
    )
    before, after = read_pdparams(weights), read_pdparams(latest(tmp_path / "second") / "model.pdparams")
    for name in before:
        changed = (before[name] != after[name]).any()
        assert not changed if name.startswith("backbone.") else True, name
    assert any((before[name] != after[name]).any() for name in before if not name.startswith("backbone."))
