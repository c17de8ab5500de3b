"""A search in a process of its own, to be killed: `python -m tests.tuning.drive OUT DATA`."""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from rayseg.tuning.search import tune
from tests.tuning import fakes


def main() -> None:
    out, data = Path(sys.argv[1]), Path(sys.argv[2])
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    search = {"space": [{"Train.weight_decay": [0.0, 0.75, 0.1]}, {"Train.learning_rate": [0.01, 0.02]}]}
    result = tune(fakes.settings_for(out, data, search=search), train=fakes.train_toy)
    sys.stdout.write(result.to_text())
    ray.shutdown()


if __name__ == "__main__":
    main()
