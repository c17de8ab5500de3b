"""Predictors and other helpers killed from outside are replaced within the run, and no image is blamed for it."""

from __future__ import annotations

import os
import random
import signal

import pytest

from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from tests.pipeline.jobs import assert_same_tables

from . import drivers

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("RAYSEG_FAULT_KILLS", "5"))


def test_a_run_whose_predictors_are_killed_completes_with_the_undisturbed_tables(images, undisturbed, tmp_path):
    out, rng = tmp_path / "out", random.Random(7)
    driver = drivers.start(drivers.segment(images, out, delay_ms=60))
    killed = []
    for i in range(KILLS):
        at = round((i + 0.5) * drivers.CHUNKS / (KILLS * 2))  # in the first half, so that the job does not end before
        assert drivers.wait_until(lambda n=at: drivers.commits(out) >= n and _predictors(driver.pid), driver), (
            f"the job ended after {len(killed)} kills: {drivers.end(driver)}"
        )
        victim = rng.choice(_predictors(driver.pid))
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)
    status, said = drivers.end(driver)
    assert status == 0, said
    assert len(killed) == KILLS
    assert verify(Store(str(out))).ok
    assert_same_tables(out, undisturbed)


def test_a_run_whose_board_is_killed_completes_all_the_same(images, undisturbed, tmp_path):
    driver = drivers.start(drivers.segment(images, tmp_path))
    assert drivers.wait_until(lambda: drivers.commits(tmp_path) >= drivers.CHUNKS // 4, driver)
    (board,) = (pid for pid, title in drivers.descendants(driver.pid).items() if "_Board" in title)
    os.kill(board, signal.SIGKILL)
    status, said = drivers.end(driver)
    assert status == 0, said
    assert_same_tables(tmp_path, undisturbed)


def _predictors(driver: int) -> list[int]:
    """Process ids of the job's living predictors."""
    return sorted(pid for pid, title in drivers.descendants(driver).items() if "PredictStage" in title)
