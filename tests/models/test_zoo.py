"""The table of models: every row builds, and a wrong name is answered with the nearest one."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from rayseg.errors import ModelError
from rayseg.models.weights import load_weights, save_weights
from rayseg.models.zoo import MODELS, build_model

SMALLEST = list({row.family: row.name for row in reversed(MODELS.values())}.values())


def test_reading_the_table_loads_no_framework():
    code = "import sys, rayseg.models.zoo; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", SMALLEST)
def test_weights_for_the_published_classes_fit_another_number_but_for_the_heads(name, tmp_path):
    own, three = build_model(name), build_model(name, num_classes=3)
    save_weights(own, tmp_path / "own.pdparams")
    loaded = load_weights(three, tmp_path / "own.pdparams")
    assert loaded.unset == loaded.fresh_heads != ()
    given, wanted = three.state_dict(), own.state_dict()
    assert list(given) == list(wanted)
    for key in set(given) - set(loaded.fresh_heads):
        assert (given[key].numpy() == wanted[key].numpy()).all(), key


def test_every_row_has_an_importable_builder_and_a_recipe_for_its_task():
    for row in MODELS.values():
        module, _, function = row.builder.partition(":")
        assert callable(getattr(importlib.import_module(f"rayseg.models.{module}"), function)), row.name
        assert (row.recipe.unit == "epochs") == (row.task == "instance")
        assert all(0 < share < 1 for share in row.recipe.schedule.milestones)


def test_no_classes_are_refused():
    with pytest.raises(ModelError, match="PP-LiteSeg-T needs at least one class, got num_classes=0"):
        build_model("PP-LiteSeg-T", num_classes=0)


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match=r"no model is called 'pp-yoloe_seg-m'\. Did you mean 'PP-YOLOE_seg-S'\?"):
        build_model("pp-yoloe_seg-m")
    with pytest.raises(ModelError, match=r"no model is called '123'\. Known: Mask-RT-DETR-S, Mask-RT-DETR-M"):
        build_model("123")
