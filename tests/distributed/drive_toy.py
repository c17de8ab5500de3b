"""A driver in a process of its own, to be killed: `python -m tests.distributed.drive_toy FOLDER WORKERS SECONDS_PER_BATCH`."""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from rayseg.distributed.resources import Resources
from rayseg.distributed.trainer import run_workers
from tests.distributed import toy_runs


def main() -> None:
    folder, workers, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    resources = Resources(workers, workers, use_gpu=False, cpus=0.5, gpus=0.0)
    answer = run_workers(toy_runs.on_worker, {"folder": str(folder), "sleep": seconds}, resources, folder=folder)
    sys.stdout.write(f"{answer}\n")
    ray.shutdown()


if __name__ == "__main__":
    main()
