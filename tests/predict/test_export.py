"""An export appears whole or not at all, and says what it was told."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import yaml

from rayseg.errors import ModelError, OutputError
from rayseg.geometry import Size
from rayseg.predict import export
from rayseg.predict.export import export_model
from rayseg.predict.model_dir import load_model_dir
from tests.predict.conftest import CLASSES, LABELS


def test_an_instance_yml_has_the_keys_of_paddlex(model_dirs):
    config = yaml.safe_load((model_dirs["instance", "paddlex"] / "inference.yml").read_text())
    assert config == {
        "Global": {"model_name": "my-instance"},
        "mode": "paddle",
        "draw_threshold": 0.5,
        "metric": "COCO",
        "use_dynamic_shape": False,
        "arch": "PPYOLOE",
        "min_subgraph_size": 3,
        "mask": True,
        "Preprocess": [
            {"type": "Resize", "interp": 2, "keep_ratio": False, "target_size": [96, 96]},
            {"type": "NormalizeImage", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "norm_type": "none"},
            {"type": "Permute"},
        ],
        "label_list": LABELS,
    }


def test_a_semantic_yml_has_the_keys_of_paddlex(model_dirs):
    config = yaml.safe_load((model_dirs["semantic", "paddlex"] / "inference.yml").read_text())
    assert config["Global"] == {"model_name": "my-semantic"}
    assert config["Deploy"]["transforms"] == [{"type": "Normalize"}]
    assert config["Deploy"]["output_dtype"] == "int32" and config["Deploy"]["input_shape"] == [None, 3, None, None]
    assert config["label_list"] == CLASSES and "rayseg" not in config


def test_a_lean_yml_names_its_flavour(model_dirs):
    config = yaml.safe_load((model_dirs["instance", "lean"] / "inference.yml").read_text())
    assert config["rayseg"] == {"family": "ppyoloe_seg", "flavour": "lean", "num_classes": len(LABELS)}


def test_exporting_leaves_the_network_as_it_was(semantic_network, tmp_path):
    before = {name: value.numpy() for name, value in semantic_network.state_dict().items()}
    semantic_network.train()
    try:
        export_model(semantic_network, tmp_path / "out", name="x", labels=CLASSES)
        assert semantic_network.training
    finally:
        semantic_network.eval()
    for name, value in semantic_network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_settings_are_written(instance_network, semantic_network, tmp_path):
    instance = export_model(instance_network, tmp_path / "i", name="x", labels=LABELS, draw_threshold=0.25)
    assert load_model_dir(instance).draw_threshold == 0.25
    size = Size(height=64, width=96)
    stretched = copy.deepcopy(semantic_network)
    stretched.preprocess = replace(semantic_network.preprocess, resize=size)
    semantic = export_model(stretched, tmp_path / "s", name="x", labels=CLASSES, input_size=size)
    assert load_model_dir(semantic).fixed_input == size


def test_labels_that_do_not_fit_leave_no_directory(semantic_network, tmp_path):
    with pytest.raises(ModelError, match="label_list has 2 names, the program tells 5 classes apart"):
        export_model(semantic_network, tmp_path / "out", name="x", labels=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_not_touched(semantic_network, tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        export_model(semantic_network, tmp_path, name="x", labels=CLASSES)
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]


def test_overwriting_replaces_all_of_it(semantic_network, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "inference.pdmodel").write_text("older")
    export_model(semantic_network, out, name="x", labels=CLASSES, overwrite=True)
    assert sorted(p.name for p in out.iterdir()) == ["inference.json", "inference.pdiparams", "inference.yml"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_export_leaves_the_old_one(semantic_network, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("older")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.paddle.jit, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_model(semantic_network, out, name="x", labels=CLASSES, overwrite=True)
    assert [p.name for p in out.iterdir()] == ["old"] and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"flavour": "thin"}, "flavour 'thin' is unknown; known: lean, paddlex, probabilities"),
        ({"input_size": Size(64, 64)}, "built for .*96.*asked to export for .*64.*build it with that size"),
    ],
)
def test_settings_that_contradict_the_network_are_refused(instance_network, tmp_path, settings, message):
    with pytest.raises(ModelError, match=message):
        export_model(instance_network, tmp_path / "out", name="x", labels=LABELS, **settings)


def test_a_network_we_cannot_export_is_named(tmp_path):
    from paddle import nn

    with pytest.raises(ModelError, match="Linear is not a network of the zoo; build one with rayseg.build_model"):
        export_model(nn.Linear(2, 2), tmp_path / "out", name="x", labels=["a"])
