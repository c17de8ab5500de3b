"""Where the job runs: a Ray of our own, or a cluster that is there already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from rayseg.errors import ConfigError


@contextmanager
def connected(address: str | None = None, *, num_cpus: int | None = None, verbose: bool = False) -> Iterator[None]:
    """Ray is running inside the block; a Ray that this started ends with it.

    Args:
        address: "auto" or a cluster's address; None starts one for this process, unless RAY_ADDRESS is set (as in a
            submitted job).
        num_cpus: logical CPUs of a Ray started here.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    level = logging.INFO if verbose else logging.ERROR
    if address or os.environ.get("RAY_ADDRESS"):
        if num_cpus is not None:
            raise ConfigError(
                "num_cpus counts the CPUs of a Ray started here; a running cluster has its own. Drop one of the two."
            )
        try:
            ray.init(address=address, log_to_driver=verbose, logging_level=level)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster at {address or os.environ['RAY_ADDRESS']!r}: {error}. Check `ray status`; a cluster with token "
                "authentication needs RAY_AUTH_MODE=token and its token."
            ) from error
    else:
        ray.init("local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=verbose, logging_level=level)
    # What stops a pipeline reaches the user as our own error; Ray Data would print its traceback as well.
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()
