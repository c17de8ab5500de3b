"""The files below configs/: one for each network, read by everything that reads them, and never older than the code."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from rayseg.config.load import read_yaml
from rayseg.config.train import SECTIONS, Settings, load_settings
from rayseg.models.defaults import effective
from rayseg.models.zoo import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MAKE = runpy.run_path(str(CONFIGS / "make.py"))
FILES = sorted([*CONFIGS.glob("instance_segmentation/*"), *CONFIGS.glob("semantic_segmentation/*")])


def test_each_network_has_a_file_and_each_file_a_network():
    assert {path.stem for path in FILES} == set(MODELS) and len(FILES) == len(MODELS) == 36
    for row in MODELS.values():
        assert MAKE["path_of"](row) in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_say_what_the_zoo_and_the_settings_say(path):
    assert path.read_text(encoding="utf-8") == MAKE["text_of"](MODELS[path.stem]), "run `python configs/make.py`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_complete_and_says_how_to_run_it(path):
    settings = load_settings(path)
    assert read_yaml(path).keys() == SECTIONS.keys()
    for section, values in settings.to_mapping().items():
        assert read_yaml(path)[section].keys() == values.keys()
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"rayseg train         -c configs/{path.parent.name}/{path.name} -o" in header
    assert all(line.startswith("#") for line in header.splitlines())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_changes_nothing_of_what_its_model_alone_would_give(path):
    bare = effective(Settings.from_mapping({"Global": {"model": path.stem}}))
    filled = effective(load_settings(path))
    same = filled.with_values({"Search.space": []})
    assert same == bare


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rates_are_those_of_the_recipe_and_of_the_optimizer(path):
    settings, recipe = load_settings(path), MODELS[path.stem].recipe
    assert settings.train.learning_rate == recipe.learning_rate and settings.train.scale_rate
    assert settings.train.optimizer == recipe.optimizer
    if recipe.optimizer == "adamw":
        assert settings.train.learning_rate < 1e-3  # PaddleX's 0.01 does not learn
    (stage,) = settings.search.space
    assert recipe.learning_rate in stage["Train.learning_rate"].values


def test_paddlexs_numbers_stay_where_they_are_right():
    train = load_settings(CONFIGS / "instance_segmentation/PP-YOLOE_seg-S.yaml").train
    assert (train.epochs_iters, train.batch_size, train.learning_rate) == (40, 8, 1e-3)
    train = load_settings(CONFIGS / "instance_segmentation/MaskRCNN-ResNet50-FPN.yaml").train
    assert (train.epochs_iters, train.batch_size, train.learning_rate) == (40, 2, 0.01)


def test_the_script_writes_what_text_of_says(tmp_path, monkeypatch):
    monkeypatch.setitem(MAKE["main"].__globals__, "HERE", tmp_path)
    MAKE["main"]()
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*.yaml"))
    assert written == [path.relative_to(CONFIGS) for path in FILES]
