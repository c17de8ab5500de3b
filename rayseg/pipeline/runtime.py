"""Where the job runs: a Ray of our own, or a cluster that is there already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import ray

from rayseg.config.device import VISIBLE, DeviceChoice
from rayseg.errors import ConfigError

# Ray ends workers beyond the number of CPUs after a second without a task; ours come back with the next chunk and cost a second
# of CPU, and another for their decoder.
_IDLE_MS = 60_000


@contextmanager
def connected(
    address: str | None = None, *, num_cpus: int | None = None, device: DeviceChoice | None = None, verbose: bool = False
) -> Iterator[None]:
    """Ray is running inside the block; a Ray that this started ends with it.

    Args:
        address: "auto" or a cluster's address; None starts one for this process, unless RAY_ADDRESS is set (as in a
            submitted job).
        num_cpus: logical CPUs of a Ray started here.
        device: numbers in it say which devices a Ray started here may hand out; a running cluster decides itself.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    level = logging.INFO if verbose else logging.ERROR
    with ExitStack() as stack:
        if address or os.environ.get("RAY_ADDRESS"):
            _join(address, num_cpus, verbose=verbose)
        else:
            stack.enter_context(_only(device))
            ray.init(
                "local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=verbose,
                logging_level=level,
                _system_config={"idle_worker_killing_time_threshold_ms": _IDLE_MS},
            )
        # What stops a pipeline reaches the user as our own error; Ray Data would print its traceback as well.
        logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.CRITICAL)
        try:
            yield
        finally:
            ray.shutdown()


def _join(address: str | None, num_cpus: int | None, *, verbose: bool) -> None:
    if num_cpus is not None:
        raise ConfigError("--num-cpus counts the CPUs of a Ray started here; a running cluster has its own. Leave it out")
    try:
        ray.init(address=address, log_to_driver=verbose, logging_level=logging.INFO if verbose else logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster at {address or os.environ['RAY_ADDRESS']!r}: {error}. Check `ray status`; a cluster with token "
            "authentication needs RAY_AUTH_MODE=token and its token."
        ) from error


@contextmanager
def _only(device: DeviceChoice | None) -> Iterator[None]:
    """Hide all devices of a kind from this process, and so from the Ray it starts, but those that are named.

    Raises:
        ConfigError: one is hidden from this process already.
    """
    variable = VISIBLE.get(device.kind) if device else None
    if device is None or device.indices is None or variable is None:
        yield
        return
    before = os.environ.get(variable)
    names = None if before is None else [name for name in before.split(",") if name.strip()]
    if names is not None and max(device.indices) >= len(names):
        raise ConfigError(
            f"device {device.kind}:{max(device.indices)}: {variable}={before} shows {len(names)} of them. Name "
            "fewer, or set it anew"
        )
    os.environ[variable] = ",".join(str(index) if names is None else names[index] for index in device.indices)
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
