"""A driver killed at any moment, and started again until the job is complete, leaves the tables of an undisturbed run.

    RAYSEG_FAULT_KILLS=20 pytest tests/faults/test_driver_killed.py -k any_moment --log-cli-level=INFO

kills twenty times instead of three and logs what that cost.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from tests.pipeline.jobs import assert_same_tables

from . import drivers

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
log = logging.getLogger(__name__)

KILLS = int(os.environ.get("RAYSEG_FAULT_KILLS", "3"))


@dataclass(frozen=True)
class Moment:
    """When to kill: in which phase, for `working` after how many commits in all, and how long after that."""

    phase: str
    commits: int
    delay_s: float

    def reached(self, out: Path, runs_before: int) -> bool:
        if self.phase == "planning":
            return (out / ".lock").exists()  # the last thing before planning
        if self.phase == "working":
            return drivers.commits(out) >= self.commits
        return len(list(out.glob("runs/*.json"))) > runs_before  # written when the last chunk is committed


def moments(kills: int, seed: int) -> list[Moment]:
    """A seventh of the kills while planning, a seventh during the final check, the rest spread over the work."""
    rng = random.Random(seed)
    edge = max(1, kills // 7)
    middle = kills - 2 * edge
    step = drivers.CHUNKS / (middle + 1)
    return [
        *(Moment("planning", 0, rng.uniform(0, 0.6)) for _ in range(edge)),
        *(Moment("working", max(1, round(step * (i + rng.uniform(0.5, 1)))), rng.uniform(0, 0.3)) for i in range(middle)),
        *(Moment("checking", 0, rng.uniform(0, 0.1)) for _ in range(edge)),
    ]


@pytest.mark.timeout(180 + 120 * KILLS)
def test_a_driver_killed_at_any_moment_and_resumed_gives_the_undisturbed_tables(images, undisturbed, tmp_path):
    out, reads, started = tmp_path / "out", drivers.Reads(images), time.monotonic()
    kills = []
    for moment in moments(KILLS, seed=20):
        before, runs = drivers.committed_units(out), len(list(out.glob("runs/*.json")))
        reads.reset()
        driver = drivers.start(drivers.segment(images, out))
        hit = drivers.kill_when(driver, lambda m=moment, n=runs: m.reached(out, n), delay_s=moment.delay_s)
        done = drivers.committed_units(out) - before
        lost = max(0, reads.count() - done)
        kills.append(
            {
                "phase": moment.phase,
                "hit": hit,
                "committed": before + done,
                "planned": (out / "job.json").exists(),
                "lost": lost,
                "debris": len(drivers.debris(out)),
            }
        )
        log.info("%s after %d commits + %.3f s: %s", moment.phase, moment.commits, moment.delay_s, kills[-1])
    status, said = drivers.run(drivers.segment(images, out))
    assert status == 0, said
    assert verify(Store(str(out))).ok
    assert drivers.debris(out) == []
    assert_same_tables(out, undisturbed)
    for kill in kills:
        assert kill["hit"] or kill["phase"] == "checking", f"the driver ended before it was killed: {kill}"
    log.info("%s", json.dumps(_figures(kills, time.monotonic() - started)))


def _figures(kills: list[dict], seconds: float) -> dict[str, object]:
    in_progress = [kill for kill in kills if kill["hit"] and kill["lost"]]
    return {
        "units": drivers.UNITS,
        "kills": sum(kill["hit"] for kill in kills),
        "by_phase": {p: sum(k["hit"] for k in kills if k["phase"] == p) for p in ("planning", "working", "checking")},
        "kills_before_the_plan_was_whole": sum(kill["hit"] and not kill["planned"] for kill in kills),
        "kills_with_work_in_progress": len(in_progress),
        "rows_done_again": sum(kill["lost"] for kill in kills),
        "kills_that_left_debris": sum(kill["debris"] > 0 for kill in kills),
        "seconds": round(seconds, 1),
    }
