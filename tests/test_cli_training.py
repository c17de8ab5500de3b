"""Commands that a file of settings describes: what they are given, what they leave, and how they end.

What trains and scores is replaced by stand-ins; the real ones have tests of their own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from rayseg.cli import DONE, INCOMPLETE, REFUSED, main
from rayseg.config.train import load_settings
from rayseg.errors import DatasetError
from rayseg.predict.model_dir import load_model_dir

NAME = "SeaFormer_tiny"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config(tmp_path) -> list[str]:
    """`-c FILE` of three classes, with its output below tmp_path."""
    path = tmp_path / "my.yaml"
    values = {
        "Global": {"model": NAME, "dataset_dir": "data", "output": str(tmp_path / "out"), "device": "cpu"},
        "Train": {"num_classes": 3, "pretrain_weight_path": "scratch"},
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return ["-c", str(path)]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # put back afterwards, whatever a command does to it


@pytest.fixture
def stand_in(monkeypatch):
    """Replace a function of a module that a command imports; returns the list of what it is called with."""

    def replace(module: str, name: str, does):
        calls = []

        def function(*args, **kwargs):
            calls.append(args)
            return does(*args, **kwargs)

        found = sys.modules.get(module)
        if found is None:
            found = ModuleType(module)
            monkeypatch.setitem(sys.modules, module, found)
            package, _, leaf = module.rpartition(".")
            __import__(package)
            monkeypatch.setattr(sys.modules[package], leaf, found, raising=False)
        monkeypatch.setattr(found, name, function, raising=False)
        return calls

    return replace


@pytest.fixture
def weights(tmp_path_factory) -> str:
    """Of three classes."""
    from rayseg.models.weights import save_weights
    from rayseg.models.zoo import build_model

    path = tmp_path_factory.mktemp("w") / "mine.pdparams"
    save_weights(build_model(NAME, 3), path)
    return str(path)


def trained(_):
    return SimpleNamespace(best="out/best_model", best_score=0.5)


def result_of(tmp_path, mode) -> dict:
    return json.loads((tmp_path / "out" / f"{mode}_result.json").read_text())


def test_train_and_run_give_the_same_settings_to_the_same_function(config, stand_in, capsys):
    calls = stand_in("rayseg.training.run", "train", trained)
    overrides = ["-o", "Train.learning_rate=1e-3", "-o", "Train.train_size=[64, 96]"]
    assert main(["train", *config, *overrides]) == DONE
    assert main(["run", *config, *overrides, "-o", "Global.mode=train"]) == DONE
    (first,), (second,) = calls
    assert first == second
    assert first.general.mode == "train" and first.train.learning_rate == 1e-3 and first.train.train_size == (64, 96)
    assert first.train.optimizer == "adamw", "not filled in from the zoo"


def test_the_settings_that_are_printed_are_those_that_are_used(config, stand_in, tmp_path, capsys):
    (tmp_path / "again.yaml").write_text("")
    calls = stand_in("rayseg.training.run", "train", trained)
    assert main(["train", *config, "-o", "Train.epochs_iters=7"]) == DONE
    printed = capsys.readouterr().out.rpartition("\n\n")[0]
    (tmp_path / "again.yaml").write_text(printed)
    assert load_settings(tmp_path / "again.yaml") == calls[0][0]
    assert main(["train", "-q", *config]) == DONE
    assert "Global:" not in capsys.readouterr().out


def test_the_mode_of_a_command_wins_over_the_file(config, stand_in):
    calls = stand_in("rayseg.training.run", "train", trained)
    assert main(["train", *config, "-o", "Global.mode=export"]) == DONE
    assert calls[0][0].general.mode == "train"


@pytest.mark.parametrize(
    "overrides",
    [["Cluster.num_workers=2"], ["Cluster.num_workers=[1, 2]"], ["Cluster.max_failures=1"], ["Cluster.address=auto"]],
)
def test_more_than_one_process_goes_to_ray(config, stand_in, overrides):
    here = stand_in("rayseg.training.run", "train", trained)
    there = stand_in("rayseg.distributed.trainer", "train_on_ray", lambda settings, report: trained(settings))
    assert main(["train", *config, *(word for pair in overrides for word in ("-o", pair))]) == DONE
    assert len(there) == 1 and not here


def test_a_ray_started_here_sees_the_gpus_that_are_named(config, stand_in, monkeypatch, capsys):
    seen = []
    stand_in("rayseg.pipeline.runtime", "connected", _nothing)
    stand_in("rayseg.pipeline.evaluate", "evaluate", lambda _: seen.append(_visible()) or {"metrics": {}})
    assert main(["evaluate", *config, "-o", "Global.device=gpu:2,3"]) == DONE
    assert seen == ["2,3"]
    assert main(["evaluate", *config, "-o", "Global.device=gpu:2,3", "-o", "Cluster.address=auto"]) == REFUSED
    assert "a cluster hands out its own" in capsys.readouterr().err


def test_what_ray_reports_is_logged(config, stand_in, caplog):
    def train(settings, report):
        report({"event": "evaluated", "epoch": 1, "step": 5, "miou": 0.25})
        return trained(settings)

    stand_in("rayseg.distributed.trainer", "train_on_ray", train)
    assert main(["train", *config, "-o", "Cluster.num_workers=2"]) == DONE
    assert "epoch 1 step 5 evaluated miou=0.25" in caplog.text


def test_a_failure_is_written_down_and_the_result_of_an_earlier_run_is_gone(config, stand_in, tmp_path, capsys):
    def fails(_):
        raise DatasetError("data: no such folder; name another")

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train_result.json").write_text('{"done_flag": true}')
    stand_in("rayseg.training.run", "train", fails)
    assert main(["train", *config]) == REFUSED
    assert result_of(tmp_path, "train") == {
        "done_flag": False,
        "err_type": "DatasetError",
        "err_msg": "data: no such folder; name another",
    }
    assert "DatasetError: data: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_what_is_no_error_of_ours_is_written_down_too(config, stand_in, tmp_path, error):
    def fails(_):
        raise error

    stand_in("rayseg.training.run", "train", fails)
    if isinstance(error, KeyboardInterrupt):
        assert main(["train", *config]) == 130
    else:
        with pytest.raises(ValueError, match="a bug"):
            main(["train", *config])
    assert result_of(tmp_path, "train")["err_type"] == type(error).__name__


def test_an_output_that_is_a_file_is_refused_before_anything_runs(config, stand_in, tmp_path, capsys):
    calls = stand_in("rayseg.training.run", "train", trained)
    (tmp_path / "out").write_text("")
    assert main(["train", *config]) == REFUSED and not calls
    assert f"Global.output {tmp_path}/out: cannot write there" in capsys.readouterr().err


def test_scores_are_written_under_paddlexs_names(config, stand_in, tmp_path, capsys):
    stand_in("rayseg.pipeline.evaluate", "evaluate", lambda _: {"metrics": {"mIoU": 0.5}, "images": 3})
    assert main(["evaluate", *config, "-q"]) == DONE
    assert result_of(tmp_path, "evaluate") == {"done_flag": True, "metrics": {"mIoU": 0.5}, "images": 3}
    assert capsys.readouterr().out.strip() == '{"mIoU": 0.5}'
    stored = load_settings(tmp_path / "out" / "evaluate_config.yaml")
    assert stored.general.mode == "evaluate" and stored.evaluate.weight_path == f"{tmp_path}/out/best_model/model.pdparams"


@pytest.mark.parametrize("passed", [True, False])
def test_a_data_set_that_does_not_pass_is_told_by_the_exit_status(config, stand_in, passed, capsys):
    stand_in("rayseg.pipeline.runtime", "connected", _nothing)
    problem = {"kind": "missing-image", "count": 2, "examples": ["x.png is missing"]}
    found = {"check_pass": passed, "errors": [] if passed else [problem], "warnings": []}
    stand_in("rayseg.pipeline.check_dataset", "check_from_settings", lambda settings, task: found)
    assert main(["check-dataset", *config]) == (DONE if passed else INCOMPLETE)
    assert ("error missing-image: 2\n  x.png is missing\n" in capsys.readouterr().err) != passed


def test_trained_weights_are_exported_with_the_names_of_their_classes(config, weights, tmp_path, capsys):
    assert main(["export", *config, "-q", "-o", f"Export.weight_path={weights}", "-o", "Global.dataset_dir=null"]) == DONE
    where = tmp_path / "out" / "inference"
    assert capsys.readouterr().out.strip() == str(where)
    assert load_model_dir(where).labels == ("class_0", "class_1", "class_2")
    assert result_of(tmp_path, "export") == {"done_flag": True, "save_dir": str(where)}
    # An export beside the weights knows their names.
    assert main(["export", NAME, f"{Path(weights).parent}/inference", "--weights", weights, "--labels", "a,b,c"]) == DONE
    again = ["-o", f"Export.weight_path={weights}", "-o", "Export.overwrite=true", "-o", "Export.flavour=paddlex"]
    assert main(["export", *config, *again]) == DONE
    spec = load_model_dir(where)
    assert spec.labels == ("a", "b", "c") and spec.flavour == "paddlex"
    assert main(["export", *config, "-o", f"Export.weight_path={weights}"]) == REFUSED, "nothing is replaced unasked"
    assert result_of(tmp_path, "export")["err_type"] == "OutputError"


def test_predicting_is_a_job_below_the_output(config, ray_local, tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    asked = ["-o", f"Predict.input={tmp_path / 'a.png'}", "-o", "Predict.model_dir=fake:semantic"]
    assert main(["run", "-q", *config, "-o", "Global.mode=predict", *asked]) == DONE
    assert result_of(tmp_path, "predict")["images"] == 1
    assert main(["verify", str(tmp_path / "out" / "predict")]) == DONE


@pytest.mark.parametrize(
    "argv, message",
    [
        (["train", "-c", "no.yaml"], "cannot read the settings file"),
        (["train", "-c", "FILE", "-o", "Train.lerning_rate=1"], "did you mean 'learning_rate'"),
        (["train", "-c", "FILE", "-o", "Global.model=SeaFormer"], "Did you mean 'SeaFormer_"),
        (["train", "-c", "FILE", "-o", "Train.dist_ips=10.0.0.1"], "set Cluster.address"),
        (["run", "-c", "FILE", "-o", "Global.mode=predict"], "Predict.input is not set"),
        (["run", "-c", "FILE", "-o", "Global.mode=pdparams2safetensors"], "Global.mode"),
        (["evaluate"], "evaluate needs -c FILE"),
        (["evaluate", "OUT"], "rayseg evaluate OUT --truth FILE"),
        (["evaluate", "OUT", "--truth", "t.json", "-c", "FILE"], "to score weights: rayseg evaluate -c FILE"),
        (["export"], "export needs -c FILE"),
        (["export", NAME], "where to?"),
        (["export", NAME, "DIR", "-c", "FILE"], "either -c FILE or MODEL DIR"),
        (["export", "-c", "FILE", "--labels", "a,b"], "--labels belongs to `rayseg export MODEL DIR`"),
        (["export", "-c", "FILE", "--draw-threshold", "0"], "use -o Export.key=value"),
    ],
)
def test_what_cannot_be_done_as_asked_is_refused(config, argv, message, capsys):
    assert main([config[1] if word == "FILE" else word for word in argv]) == REFUSED
    assert message in capsys.readouterr().err


def test_a_network_is_trained_for_real_and_its_result_is_a_model_directory(config, tmp_path, capsys):
    _write_dataset(tmp_path / "data")
    small = ["Train.epochs_iters=2", "Train.batch_size=2", "Train.train_size=[64, 64]", "Train.workers=0"]
    small += [f"Global.dataset_dir={tmp_path / 'data'}", "Train.eval_interval=1"]
    assert main(["train", *config, *(word for pair in small for word in ("-o", pair))]) == DONE
    result = result_of(tmp_path, "train")
    assert result["done_flag"] is True and result["model_name"] == NAME
    assert {"score", "pdparams", "pdopt", "pdstates", "inference_config", "pdmodel", "pdiparams"} <= set(result["models"]["best"])
    assert len(load_model_dir(tmp_path / "out" / "best_model" / "inference").labels) == 3
    stored = load_settings(tmp_path / "out" / "config.yaml")
    assert stored.train.epochs_iters == 2 and stored.train.optimizer == "adamw"
    labels = ["-o", "Global.dataset_dir=null", "-o", "Train.num_classes=null"]  # they stand beside the weights
    assert main(["export", *config, *labels]) == DONE


def test_a_job_for_ray_is_the_command(config, tmp_path):
    import subprocess

    for job in ("train", "evaluate"):
        wrong = [sys.executable, "-W", "ignore", str(ROOT / "jobs" / f"{job}.py"), *config, "-o", "Train.sed=1"]
        done = subprocess.run(
            wrong, check=False, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        )
        assert done.returncode == REFUSED and "did you mean 'seed'" in done.stderr


def _write_dataset(folder):
    """Three training and two validation images of three classes."""
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for part, count in (("train", 3), ("val", 2)):
        pairs = [(f"images/{part}{i}.png", f"annotations/{part}{i}.png") for i in range(count)]
        for i, (image, mask) in enumerate(pairs):
            labels = np.zeros((64, 80), np.uint8)
            labels[5 : 30 + i, 10:40], labels[40:60, 20:70] = 1, 2
            Image.fromarray(labels).save(folder / mask)
            Image.fromarray(np.repeat(labels[..., None] * 100, 3, axis=2)).save(folder / image)
        (folder / f"{part}.txt").write_text("".join(f"{image} {mask}\n" for image, mask in pairs))


def _visible() -> str | None:
    import os

    return os.environ.get("CUDA_VISIBLE_DEVICES")


def _nothing(*_, **__):
    from contextlib import nullcontext

    return nullcontext()
