"""`ray job submit` of jobs/ against a cluster that asks for a token: the exit status is the job's, submitting again resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from tests.faults.drivers import ROOT, environment
from tests.pipeline.jobs import archive
from tests.training.squares import squares

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
MODEL = "fake:instance?raise_on=1,2,3"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5e9" * 21 + "0"}


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory) -> Iterator[str]:
    """Address of the dashboard of a head started as `ray start` does, in a process group of its own."""
    ports = _free_ports(5)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "dashboard-agent-grpc-port")
    command = [*RAY, "start", "--head", "--block", "--num-cpus=3", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    command += ["--object-store-memory=200000000", "--disable-usage-stats"]
    said = tmp_path_factory.mktemp("head") / "said.txt"
    # Sockets lie five folders below and their paths have room for 107 bytes: a folder of pytest is too deep.
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    with said.open("wb") as file:
        head = subprocess.Popen(
            [*command, f"--temp-dir={folder}"],
            env=environment() | TOKEN,
            start_new_session=True,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        _wait_until_it_takes_jobs(address, head, said)
        yield address
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_status_of_a_submitted_job_is_that_of_its_results_and_submitting_again_resumes(dashboard, tmp_path):
    images, out = archive(tmp_path / "in", 24), tmp_path / "out"
    arguments = [str(images), str(out), "--model", MODEL, "--chunk-images", "4", "--predictors", "1", "--no-report"]
    status, said = submit(dashboard, "jobs/segment.py", arguments)
    assert status == 0, said
    found = verify(Store(str(out)))
    assert found.ok and found.planned == 24
    before = sorted(os.listdir(out / "images"))

    status, said = submit(dashboard, "jobs/segment.py", arguments)
    assert status == 0 and "24 ok" in said, said
    assert sorted(os.listdir(out / "images")) == before

    (images / "part-0" / "broken.png").write_bytes(b"no image")
    status, said = submit(
        dashboard, "jobs/segment.py", [*arguments[:1], str(tmp_path / "other"), *arguments[2:], "--max-failures", "0"]
    )
    assert status != 0 and "--max-failures" in said, said


def test_a_submitted_training_is_done_by_workers_of_the_cluster(dashboard, tmp_path):
    out = tmp_path / "run"
    status, said = submit(dashboard, "jobs/train.py", [*settings(tmp_path, out), "-o", "Cluster.num_workers=2"])
    assert status == 0, said
    assert "workers=2" in (out / "train.log").read_text()
    assert (out / "best_model" / "inference" / "inference.yml").exists()


def test_a_submitted_search_runs_its_trials_on_the_cluster(dashboard, tmp_path):
    out = tmp_path / "search"
    space = "Search.space={Train.learning_rate: [0.001, 0.002]}"
    status, said = submit(dashboard, "jobs/tune.py", [*settings(tmp_path, out), "-o", space])
    assert status == 0, said
    trials = json.loads((out / "tune_result.json").read_text())["trials"]
    assert [(trial["status"], trial["first_rate"]) for trial in trials] == [("done", 0.001), ("done", 0.002)]
    assert (out / "best_model" / "inference" / "inference.yml").exists()


def settings(folder: Path, out: Path) -> list[str]:
    """Flags of a run of two steps on small pictures."""
    given = {
        "Global.dataset_dir": squares(folder / "data", 6, val=2),
        "Global.output": out,
        "Global.device": "cpu",
        "Train.num_classes": 2,
        "Train.epochs_iters": 2,
        "Train.eval_interval": 2,
        "Train.batch_size": 2,
        "Train.train_size": "[64, 64]",
        "Train.pretrain_weight_path": "scratch",
        "Train.workers": 1,
        "Train.scale_rate": "false",
        "Train.warmup_steps": 0,
        "Cluster.cpus_per_worker": 0.5,
    }
    flags = ["-c", "configs/semantic_segmentation/PP-LiteSeg-T.yaml"]
    return flags + [part for key, value in given.items() for part in ("-o", f"{key}={value}")]


def test_without_the_token_nothing_is_submitted(dashboard):
    status, said = submit(dashboard, "jobs/segment.py", ["--help"], env={"RAY_AUTH_TOKEN": "0" * 64})
    assert status != 0 and "Forbidden" in said, said


def submit(dashboard: str, job: str, arguments: list[str], *, env: dict[str, str] | None = None) -> tuple[int, str]:
    """(exit status, what it said) of `ray job submit -- python JOB ...`."""
    excluded = json.dumps({"excludes": [".git", "demo", ".venv", "demo-out"]})
    command = [*RAY, "job", "submit", "--address", dashboard, "--working-dir", str(ROOT), "--runtime-env-json", excluded]
    done = subprocess.run(
        [*command, "--", sys.executable, job, *arguments],
        env=environment() | TOKEN | (env or {}),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_until_it_takes_jobs(address: str, head: subprocess.Popen, said: Path, *, patience_s: float = 180) -> None:
    end = time.monotonic() + patience_s
    while True:
        assert head.poll() is None, f"`ray start` ended with {head.returncode}:\n{said.read_text()[-4000:]}"
        try:
            request = urllib.request.Request(
                f"{address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"}
            )
            with urllib.request.urlopen(request, timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        assert time.monotonic() < end, f"no dashboard at {address} after {patience_s:g} s"
        time.sleep(0.5)
