"""A search whose driver is killed goes on: nothing that has ended runs again, the rest goes on from its checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayseg.tuning.records import read_record
from tests.tuning import fakes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_absent")
def test_a_search_whose_driver_was_killed_goes_on_when_it_is_started_again(data, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.tuning.drive", str(out), str(data)]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waiting = out / "trials" / "1-002"
    try:
        deadline = time.monotonic() + 200
        while not (_done(out, "1-001") and _done(out, "1-003") and _at_step(waiting, 3)):
            assert first.poll() is None and time.monotonic() < deadline, "the first driver did not come so far"
            time.sleep(0.05)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert read_record(out, "1-002").status == "running"
    (out / "trials" / fakes.GO_ON).touch()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert [fakes.starts(out, trial) for trial in ("1-001", "1-002", "1-003")] == [1, 2, 1]
    resumed = [json.loads(line) for line in (waiting / "history.jsonl").read_text().splitlines()]
    (place,) = [event["path"] for event in resumed if event["event"] == "resumed"]
    record = read_record(out, "1-002")
    assert record.status == "done" and record.first_rate_step == int(place.rpartition("_")[2]) > 0
    assert [score["evaluation"] for score in record.scores] == [1, 2, 3, 4]
    assert "Stage 2" in again.stdout and (out / "tune.html").exists()


def _done(out: Path, trial: str) -> bool:
    path = out / "trials" / trial / "trial.json"
    return path.exists() and json.loads(path.read_text())["status"] == "done"


def _at_step(folder: Path, step: int) -> bool:
    path = folder / "history.jsonl"
    return path.exists() and f'"step": {step},' in path.read_text()
