"""The table of models: every row builds, and a wrong name is answered with the nearest one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rayseg.errors import ModelError
from rayseg.models.zoo import MODELS, build_model, find_model


def test_reading_the_table_loads_no_framework():
    code = "import sys, rayseg.models.zoo; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MODELS)
def test_a_row_builds_for_its_own_and_for_another_number_of_classes(name):
    row = find_model(name)
    own, three = build_model(name), build_model(name, num_classes=3)
    shapes = {key: tuple(value.shape) for key, value in own.state_dict().items()}
    assert list(shapes) == list(three.state_dict())
    changed = [shapes[k] for k, v in three.state_dict().items() if tuple(v.shape) != shapes[k]]
    assert changed and all(shape[0] == row.num_classes for shape in changed)


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match=r"no model is called 'pp-yoloe_seg-m'\. Did you mean 'PP-YOLOE_seg-S'\?"):
        build_model("pp-yoloe_seg-m")
    with pytest.raises(ModelError, match=r"no model is called '123'\. Known: PP-YOLOE_seg-S, PP-LiteSeg-T"):
        build_model("123")
