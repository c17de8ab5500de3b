"""Whole runs on two workers: what they end with, with and without losing one on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rayseg.distributed.resources import Resources
from rayseg.distributed.trainer import MARK, run_workers
from rayseg.errors import RaysegError
from rayseg.training.world import ALONE
from tests.distributed import toy_runs
from tests.training.toys import arrays_of, assert_same

TWO = Resources(2, 2, use_gpu=False, cpus=0.5, gpus=0.0)


def losses(folder: Path) -> list[float]:
    events = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "step"]


def test_two_workers_give_the_curve_and_the_weights_of_one_with_twice_the_batch(undisturbed, tmp_path):
    toy_runs.train_toy(tmp_path / "one", ALONE)
    one, two = losses(tmp_path / "one"), losses(undisturbed)
    assert len(one) == toy_runs.EPOCHS * toy_runs.STEPS
    # Sums are taken in another order: float32 rounding, which training makes larger step by step.
    np.testing.assert_allclose(two, one, rtol=2e-4)
    assert max(one) > 2 * min(one), "nothing was learnt, so equal curves say little"
    for name, wanted in arrays_of(tmp_path / "one" / "epoch_6").items():
        np.testing.assert_allclose(arrays_of(undisturbed / "epoch_6")[name], wanted, atol=2e-3, err_msg=name)


def test_a_run_on_ray_that_loses_a_worker_ends_with_the_bits_of_an_undisturbed_one(ray_local, quick_polls, undisturbed, tmp_path):
    folder = tmp_path / "run"
    answer = run_workers(toy_runs.on_worker, {"folder": str(folder), "kill": (3, 1)}, TWO, folder=folder, max_failures=1)
    assert (folder / "killed").exists() and len(list(folder.glob("size-*-2"))) == 2
    assert answer["resumed_from"].endswith("epoch_3") and answer["device"] == "cpu", answer
    assert_same(undisturbed / "epoch_6", folder / "epoch_6")
    assert not (folder / MARK).exists() and not (folder / "ray").exists()


def test_an_error_of_a_worker_comes_out_as_it_was_raised(ray_local, quick_polls, tmp_path):
    with pytest.raises(RaysegError, match="^the third image is bad$"):
        run_workers(toy_runs.fails, {}, Resources(1, 1, use_gpu=False, cpus=0.5, gpus=0.0), folder=tmp_path)
