"""Commands that need no Ray: what they print, write and refuse. Jobs on the command line are tested in tests/faults."""

from __future__ import annotations

import pytest

from rayseg.cli import DONE, REFUSED, main
from rayseg.predict.model_dir import load_model_dir

NAME = "SeaFormer_tiny"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Of three classes."""
    from rayseg.models.weights import save_weights
    from rayseg.models.zoo import build_model

    path = tmp_path_factory.mktemp("w") / "mine.pdparams"
    save_weights(build_model(NAME, 3), path)
    return str(path)


def test_models_are_listed_by_task(capsys):
    assert main(["models"]) == DONE
    everything = capsys.readouterr().out.splitlines()
    assert len(everything) == 1 + 36
    assert main(["models", "--task", "semantic"]) == DONE
    assert len(capsys.readouterr().out.splitlines()) == 1 + 20
    assert next(line for line in everything if line.startswith(f"{NAME} ")).split()[1:3] == ["semantic", "150"]


def test_own_weights_are_exported_under_their_labels(weights, tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("soil\nwater\n\nroad\n", encoding="utf-8")
    assert main(["export", NAME, str(tmp_path / "m"), "--weights", weights, "--labels", str(labels)]) == DONE
    spec = load_model_dir(tmp_path / "m")
    assert spec.labels == ("soil", "water", "road") and spec.name == NAME
    assert capsys.readouterr().out.strip() == str(tmp_path / "m")


def test_a_semantic_model_is_exported_with_its_probabilities(weights, tmp_path):
    flags = ["--weights", weights, "--labels", "a,b,c", "--flavour", "probabilities"]
    assert main(["export", NAME, str(tmp_path / "m"), *flags]) == DONE
    assert load_model_dir(tmp_path / "m").flavour == "probabilities"


def test_weights_of_another_number_of_classes_are_not_exported_half_trained(weights, tmp_path, capsys):
    assert main(["export", NAME, str(tmp_path / "m"), "--weights", weights, "--labels", "a,b"]) == REFUSED
    assert "made for another number of classes than the 2 asked for" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_an_unknown_model_is_answered_with_the_nearest(tmp_path, capsys):
    assert main(["export", "seaformer-tiny", str(tmp_path / "m")]) == REFUSED
    assert f"Did you mean '{NAME}'?" in capsys.readouterr().err
