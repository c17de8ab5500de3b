"""Waiting until a cluster is large enough: what lets a job start on one that grows from nothing.

A job shares out the machines that it finds when it starts, and refuses a cluster without any. An autoscaling cluster has none
until something asks for them, so that is done here: a placement group of the wanted size, held until the machines
are there and then given back. It dies with the process that asked, so no machine is kept by mistake.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from rayseg.errors import ConfigError
from rayseg.pipeline.runtime import connected

log = logging.getLogger(__name__)

_LOST_S = 30.0  # by then Ray has noticed that a machine is gone


@contextmanager
def large_enough(*, cpus: int, gpus: int = 0, patience_s: float, verbose: bool = False) -> Iterator[None]:
    """Connected to the cluster of this job, which has so many CPUs and GPUs in all; it starts machines where it can.

    Raises:
        ConfigError: it is not that large after `patience_s`, or there is no cluster to wait for.
    """
    if not os.environ.get("RAY_ADDRESS") and not ray.is_initialized():
        raise ConfigError(
            "rayseg await waits for machines of a cluster, and this process belongs to none (RAY_ADDRESS is not set). "
            "It is for jobs: rayseg submit --await-cpus N ..."
        )
    if cpus < 0 or gpus < 0 or cpus + gpus == 0:
        raise ConfigError(f"await: {cpus} CPUs and {gpus} GPUs; at least one of them must be above 0, and none below")
    with connected(verbose=verbose):
        _wait(cpus, gpus, patience_s)
        yield


def _wait(cpus: int, gpus: int, patience_s: float) -> None:
    end, told, enough_since = time.monotonic() + patience_s, None, None
    group = placement_group([{"CPU": 1.0}] * cpus + [{"GPU": 1.0}] * gpus)
    try:
        while True:
            reserved = group.wait(timeout_seconds=1)
            have = _size()
            enough = have[0] >= cpus and have[1] >= gpus
            enough_since = (enough_since or time.monotonic()) if enough else None
            # What can be reserved is there. What cannot is in use by others, or belongs to a machine that was lost just now.
            if enough and (reserved or time.monotonic() - (enough_since or 0) > _LOST_S):
                break
            if not enough and told != have:
                log.info("waiting for %d CPUs and %d GPUs; the cluster has %d and %d", cpus, gpus, *have)
                told = have
            if time.monotonic() > end and not enough:
                raise ConfigError(
                    f"{cpus} CPUs, {gpus} GPUs were asked for; the cluster has {have[0]} and {have[1]} after {patience_s:g} s. "
                    "`ray status` on the head says what it is waiting for; it may have a lower max_workers, or no autoscaler."
                )
        log.info("the cluster has %d CPUs and %d GPUs", *have)
    finally:
        remove_placement_group(group)


def _size() -> tuple[int, int]:
    have = ray.cluster_resources()
    return int(have.get("CPU", 0)), int(have.get("GPU", 0))
