"""Drivers that are killed, nodes that vanish, nodes that come: runs go on from their last checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from rayseg.distributed.resources import Resources
from rayseg.distributed.trainer import MARK, run_workers
from tests.distributed import toy_runs
from tests.training.toys import arrays_of, assert_same

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_absent", "quick_polls"),
    *(
        pytest.mark.filterwarnings(f"ignore::{name}")  # of Ray, about the pipes to nodes it was told to kill
        for name in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
    ),
]
ROOT = Path(__file__).resolve().parents[2]
MEMORY = 150 * 2**20


@pytest.fixture
def cluster():
    """A head without CPUs, where the driver is; tests add nodes with one CPU each."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY},
    )
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def when(reached: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Do something once, when a condition holds."""

    def watch() -> None:
        while not reached():
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def sizes(folder: Path) -> list[int]:
    """Number of workers of each group that was started, in order."""
    return [int(path.name.rpartition("-")[2]) for path in sorted(folder.glob("size-*"))]


def test_a_run_that_loses_a_node_ends_with_the_bits_of_an_undisturbed_one(cluster, undisturbed, tmp_path):
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(3)]
    cluster.wait_for_nodes()
    folder = tmp_path / "run"

    def lose() -> None:
        where = (folder / "node-of-last").read_text()
        cluster.remove_node(next(node for node in nodes if node.node_id == where), allow_graceful=False)

    losing = when((folder / "epoch_2").exists, lose)
    two = Resources(2, 2, use_gpu=False, cpus=1.0, gpus=0.0)
    answer = run_workers(toy_runs.on_worker, {"folder": str(folder), "sleep": 0.7}, two, folder=folder, max_failures=1)
    losing.join(timeout=60)
    assert sizes(folder) == [2, 2] and answer["resumed_from"]
    assert_same(undisturbed / "epoch_6", folder / "epoch_6")


def test_an_elastic_run_takes_in_a_node_that_comes(cluster, undisturbed, tmp_path):
    cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    cluster.wait_for_nodes()
    folder = tmp_path / "run"
    elastic = Resources(1, 2, use_gpu=False, cpus=1.0, gpus=0.0)
    config = {"folder": str(folder), "sleep": 1.5}
    with ThreadPoolExecutor(1) as thread:  # nodes can only be added from the main thread
        training = thread.submit(run_workers, toy_runs.on_worker, config, elastic, folder=folder, resize_s=2.0)
        while not (folder / "epoch_1").exists():
            assert not training.done(), training.exception()
            time.sleep(0.05)
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        answer = training.result(timeout=300)
    assert sizes(folder) == [1, 2] and answer["size"] == 2 and answer["resumed_from"]
    for name, wanted in arrays_of(undisturbed / "epoch_6").items():
        np.testing.assert_allclose(arrays_of(folder / "epoch_6")[name], wanted, atol=2e-3, err_msg=name)


def test_a_run_whose_driver_was_killed_goes_on_when_started_again(undisturbed, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "tests.distributed.drive_toy", str(folder)]
    first = subprocess.Popen([*command, "2", "0.5"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while not (folder / "epoch_3").exists():
            assert first.poll() is None and time.monotonic() < deadline, "the first driver did not come to epoch 3"
            time.sleep(0.05)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert (folder / MARK).exists()
    again = subprocess.run([*command, "2", "0"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert sizes(folder) == [2, 2] and "'resumed_from': ''" not in again.stdout
    assert_same(undisturbed / "epoch_6", folder / "epoch_6")
