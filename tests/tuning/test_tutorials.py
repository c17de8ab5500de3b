"""Files below configs/tutorials say what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayseg.config.train import load_settings
from rayseg.distributed.resources import Resources
from rayseg.models.defaults import effective
from rayseg.tuning.points import list_points, trial_settings
from rayseg.tuning.room import plan_room

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "tutorials"


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.stem)
def test_a_tutorial_is_a_file_of_settings_that_says_how_to_run_it(path):
    settings = effective(load_settings(path))
    assert settings.general.mode == "tune" and settings.search.space
    assert f"rayseg tune          -c configs/tutorials/{path.name}" in path.read_text()


def test_the_tutorial_on_remote_sensing_is_three_rates_and_then_four_lengths_at_the_best():
    settings = load_settings(FOLDER / "remote_sensing_search.yaml")
    first, second = settings.search.space
    four = Resources(4, 4, use_gpu=True, cpus=1.0, gpus=1.0)
    rates = list_points(first, settings.search, stage=1, chosen={}, seed=0)
    found = [trial_settings(settings, p.parameters, folder=Path("x"), resources=four).train for p in rates]
    assert [(t.learning_rate, t.epochs_iters, t.batch_size, t.scale_rate) for t in found] == [
        (5e-4, 80, 2, False),
        (1e-4, 80, 2, False),
        (5e-5, 80, 2, False),
    ]
    lengths = list_points(second, settings.search, stage=2, chosen=rates[1].parameters, seed=0)
    found = [trial_settings(settings, p.parameters, folder=Path("x"), resources=four).train for p in lengths]
    assert [(t.learning_rate, t.epochs_iters) for t in found] == [(1e-4, n) for n in (80, 30, 50, 100)]
    assert plan_room(effective(settings), [{"CPU": 8.0, "GPU": 8.0}]).at_once == 2
