"""A driver as `rayseg` is, whose workers run `dying.install` first: `python -m tests.faults.hooked segment ...`."""

from __future__ import annotations

import os
import sys

import ray

from rayseg import cli


def main() -> int:
    """Ray is started here, with the hook; the command line finds it running and goes on as always."""
    numbers = {name: value for name, value in os.environ.items() if name.startswith("RAYSEG_TEST_")}
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={
            "worker_process_setup_hook": "tests.faults.dying.install",
            "env_vars": {**numbers, "RAYSEG_TEST_DRIVER": str(os.getpid())},
        },
    )
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
