"""`rayseg submit` on a cluster of several nodes, each started as on a machine of its own: watched, losing a node, growing."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from rayseg.cli import main
from tests.cluster.test_job_submit import RAY, TOKEN, _free_ports, _wait_until_it_takes_jobs
from tests.faults.drivers import ROOT, commits, environment
from tests.pipeline.jobs import archive

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]
MEMORY = "--object-store-memory=100000000"
N = 60


@dataclass
class Head:
    """A cluster: its dashboard, where nodes find it, and what was started for it."""

    dashboard: str
    gcs: str
    started: list[subprocess.Popen]
    folders: list[str]

    def add_node(self, cpus: int) -> subprocess.Popen:
        """`ray start --address=...`, as on another machine."""
        # A folder of its own, as on another machine: nodes that share one replace each other's copy of what is uploaded.
        self.folders.append(tempfile.mkdtemp(prefix="r", dir="/tmp"))
        command = [*RAY, "start", "--block", f"--address={self.gcs}", f"--num-cpus={cpus}", MEMORY]
        command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--temp-dir={self.folders[-1]}"]
        node = _start(command)
        self.started.append(node)
        return node


@pytest.fixture
def start_head(tmp_path) -> Iterator[Callable[..., Head]]:
    """Start a head without CPUs, where drivers run and nothing else does; the test ends what it started."""
    folders = [tempfile.mkdtemp(prefix="r", dir="/tmp")]  # sockets lie below, and their paths have room for 107 bytes
    started: list[subprocess.Popen] = []

    def start(*, grows: bool = False) -> Head:
        ports = _free_ports(5)
        names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "dashboard-agent-grpc-port")
        command = [*RAY, "start", "--head", "--block", "--num-cpus=0", "--node-ip-address=127.0.0.1", MEMORY]
        command += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
        command += ["--dashboard-host=127.0.0.1", "--disable-usage-stats", f"--temp-dir={folders[0]}"]
        gcs, env = f"127.0.0.1:{ports[0]}", {}
        if grows:
            config = tmp_path / "autoscaling.json"
            config.write_text(json.dumps(_growing(gcs)))
            command.append(f"--autoscaling-config={config}")
            env = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        started.append(_start(command, env, said=tmp_path / "said.txt"))
        dashboard = f"http://127.0.0.1:{ports[1]}"
        _wait_until_it_takes_jobs(dashboard, started[0], tmp_path / "said.txt")
        return Head(dashboard, gcs, started, folders)

    yield start
    for process in reversed(started):
        kill_tree(process)
    for folder in folders:
        _end_leftovers(folder)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_job_that_loses_its_node_is_stopped_and_submitted_again_and_is_complete(start_head, tmp_path):
    head = start_head()
    node = head.add_node(cpus=3)
    out = tmp_path / "out"
    job = ["segment", str(archive(tmp_path / "in", N)), str(out), "--chunk-images", "2", "--predictors", "1", "--no-report"]
    slow = [*job, "--model", "fake:instance?delay_ms=500"]

    status, said = rayseg("submit", *slow, "--job-id", "first", "--await-cpus", "3", head=head)
    assert status == 0 and said.strip().splitlines()[-1].endswith(head.dashboard), said
    _wait_for_commits(head, "first", out)
    status, said = rayseg("jobs", "list", head=head)
    assert status == 0 and "first" in said and "RUNNING" in said and "segment" in said, said
    kill_tree(node)
    done = commits(out)
    assert 0 < done < N // 2

    status, said = rayseg("jobs", "stop", "first", head=head)
    assert status == 0 and "first: STOPPED" in said and "submit the same command again" in said, said
    status, said = rayseg("jobs", "logs", "first", "--follow", head=head)
    assert status == 130 and "first: STOPPED, exit status 130" in said, said
    assert rayseg("verify", str(out))[0] == 1

    head.add_node(cpus=3)
    status, said = rayseg("submit", *slow, "--job-id", "second", "--await-cpus", "3", "--follow", head=head)
    assert status == 0 and "second: SUCCEEDED, exit status 0" in said and f"{N} ok" in said, said
    status, said = rayseg("verify", str(out))
    assert status == 0 and f"complete: {N} planned, {N} ok, 0 failed, 0 missing" in said, said

    status, said = rayseg("submit", *slow, "--job-id", "second", head=head)
    assert status == 2 and "--job-id second" in said and "output folder, not its name" in said, said
    status, said = rayseg("submit", *job, "--model", "fake:semantic", "--follow", head=head)
    assert status == 2 and "JobMismatch" in said, said  # the job's own status: refused
    status, said = rayseg("submit", *slow, "--await-cpus", "99", "--await-s", "1", "--follow", head=head)
    assert status == 2 and "99 CPUs, 0 GPUs were asked for; the cluster has 3 and 0 after 1 s" in said, said
    status, said = rayseg("jobs", "status", "third", head=head)
    assert status == 2 and "knows no job 'third'" in said, said
    status, said = rayseg("jobs", "list", head=head, env={"RAY_AUTH_TOKEN": "0" * 64})
    assert status == 2 and "refuses this token" in said, said


def test_a_cluster_without_machines_grows_for_a_job_outlives_the_loss_of_one_and_shrinks_again(start_head, tmp_path):
    head = start_head(grows=True)
    out = tmp_path / "out"
    job = ["segment", str(archive(tmp_path / "in", N)), str(out), "--chunk-images", "2", "--predictors", "1", "--no-report"]
    job += ["--model", "fake:instance?delay_ms=200", "--job-id", "grown"]
    assert not _workers(head), "nothing has asked for machines yet"
    status, said = rayseg("submit", *job, "--await-cpus", "4", "--installed", head=head)
    assert status == 0, said
    _wait_for_commits(head, "grown", out)
    assert len(_workers(head)) == 2
    psutil.Process(_workers(head)[-1]).kill()

    status, said = rayseg("jobs", "logs", "grown", "--follow", head=head)
    assert status == 0 and "waiting for 4 CPUs and 0 GPUs" in said and f"{N} ok" in said, said
    assert rayseg("verify", str(out))[0] == 0
    end = time.monotonic() + 120
    while _workers(head):
        assert time.monotonic() < end, f"still there: {_workers(head)}"
        time.sleep(0.5)


def rayseg(*arguments: str, head: Head | None = None, env: dict[str, str] | None = None) -> tuple[int, str]:
    """(exit status, all it said) of the command line, in a checkout, with the token of the cluster."""
    flags: list[str] = []
    if head is not None:
        flags = ["--address", head.dashboard]
    if arguments[0] == "submit":
        flags += [
            "--python",
            sys.executable,
            *(() if "--installed" in arguments else ("--exclude", "demo", "--exclude", "bench")),
        ]
    if "--follow" in arguments:  # in a process of its own: what Ray uses for it warns of its own calls, here an error
        command = [sys.executable, "-m", "rayseg.cli", *arguments, *flags]
        env = environment() | TOKEN | (env or {})
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
        return done.returncode, done.stdout + done.stderr
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as here, redirect_stdout(said), redirect_stderr(said):
        here.chdir(ROOT)
        for name, value in (TOKEN | (env or {})).items():
            here.setenv(name, value)
        status = main([*arguments, *flags])
    return status, said.getvalue()


def kill_tree(process: subprocess.Popen) -> None:
    """SIGKILL for a process and all that came of it, as when a machine is switched off."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        _kill(one)
    if process.poll() is None:
        process.kill()
    process.wait(timeout=30)


def _start(command: list[str], env: dict[str, str] | None = None, *, said: Path | None = None) -> subprocess.Popen:
    with open(said or os.devnull, "wb") as file:
        return subprocess.Popen(
            command, env=environment() | TOKEN | (env or {}), start_new_session=True, stdout=file, stderr=subprocess.STDOUT
        )


def _growing(gcs: str) -> dict:
    """The head has no CPUs; nodes with two of them come when they are asked for, and go when idle for some seconds."""
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        **{f"{name}_commands": [] for name in lists},  # Ray wants them all
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        "file_mounts_sync_continuously": False,
        "cluster_name": "grows",
        "max_workers": 2,
        "idle_timeout_minutes": 0.5,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": gcs,
            **dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True),
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "decode": {
                "resources": {"CPU": 2, "object_store_memory": 10**8},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
        "head_node_type": "ray.head.default",
    }


def _workers(head: Head) -> list[int]:
    """Process ids of the raylets that the autoscaler started."""
    family = psutil.Process(head.started[0].pid).children(recursive=True)
    return [one.pid for one in family if _is_worker(one)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        lives = process.status() != psutil.STATUS_ZOMBIE
        return lives and process.name() == "raylet" and "--head" not in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


def _end_leftovers(folder: str) -> None:
    """Processes of this cluster that outlived the one that started them; they name its folder."""
    for one in psutil.process_iter():
        try:
            if one.pid != os.getpid() and any(folder in word for word in one.cmdline()):
                one.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _wait_for_commits(head: Head, job_id: str, out: Path, *, patience_s: float = 180) -> None:
    """Until a job that runs has written something."""
    end = time.monotonic() + patience_s
    while commits(out) < 2:
        _, state = rayseg("jobs", "status", job_id, head=head)
        assert "FAILED" not in state and time.monotonic() < end, state + rayseg("jobs", "logs", job_id, head=head)[1]
        time.sleep(0.5)
