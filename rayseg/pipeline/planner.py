"""How a job shares a machine out, from what its units cost: how many predictors with how many threads, how many on one GPU, how
many tasks beside them, what is the bottleneck and how long it takes.

    default budget -> sample of units (where it is worth one) -> fitted budget -> costs seen while the job runs

Pure functions of numbers: who runs the sample is `sample.py`, who runs the job `execute.py`. What the user fixed stays fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rayseg.config.segment import SegmentSettings
from rayseg.pipeline.board import Tally
from rayseg.pipeline.budget import Budget
from rayseg.tables import STAGES

SAMPLE_FROM = 2000
"""Units left from which on a sample is run first. It takes a start of the model and some seconds, in which the job itself would
do a few hundred units of a fast model: below this it costs more than it can give."""
SAMPLE_UNITS, SAMPLE_S = 20, 10.0
"""A sample ends at so many units, or at the first that ends after so many seconds."""
MEMORY_SHARE = 0.7
"""Of a node's memory that predictors may take together."""
FETCHES = 8
"""Files that one task reads at a time."""
_SLACK = 1.25  # what is not the bottleneck gets so much more than it needs on average
_LEAST_CPUS = 0.02
_TELLING_UNITS = 20

CORES, PREDICT, STORAGE = "cores", "predict", "fetch"
_NAMES = {CORES: "decoding and encoding are", STORAGE: "the storage is", PREDICT: "predict is"}


@dataclass(frozen=True)
class Costs:
    """Of one unit, on average, in seconds.

    Attributes:
        fetch: waiting for its file.
        light: decode, prepare and encode, of one core.
        predict: of one predictor.
    """

    fetch: float
    light: float
    predict: float

    @classmethod
    def of_sample(cls, seconds: np.ndarray) -> Costs:
        """From float64 (units, stages), in the order of STAGES; at least one unit."""
        fetch, decode, prepare, predict, encode = seconds.mean(axis=0).tolist()
        return cls(fetch, decode + prepare + encode, predict)

    @classmethod
    def of_tallies(cls, tallies: Mapping[str, Tally]) -> Costs | None:
        """What a running job's stages took so far; None while too few units have passed all of them."""
        if any(tallies.get(stage, Tally()).images < _TELLING_UNITS for stage in ("decode", "predict", "encode")):
            return None
        each = {name: took / tally.images for tally in tallies.values() for name, took in tally.seconds.items()}
        return cls(each.get("fetch", 0.0), sum(each.get(s, 0.0) for s in STAGES if s not in (STORAGE, PREDICT)), each["predict"])


@dataclass(frozen=True)
class Node:
    """What one node of the cluster has."""

    cpus: float
    memory: float
    """Bytes; 0 where nobody knows."""

    @classmethod
    def of_ray(cls, resources: Mapping[str, float]) -> Node:
        """From Ray's resources of a node, in which the object store has its own share of the memory."""
        return cls(resources.get("CPU", 0.0), resources.get("memory", 0.0) + resources.get("object_store_memory", 0.0))


@dataclass(frozen=True)
class Expected:
    """What a plan says of the job.

    Attributes:
        bottleneck: what takes most when all run side by side: fetch, predict, or "cores" for decode, prepare and encode.
        unit_s: of the job, for each unit, when nothing waits needlessly.
    """

    bottleneck: str
    unit_s: float


def side_by_side(
    fetch: Any, light: Any, predict: Any, *, pool: int, threads: int, cpus: float, on_cpu: bool
) -> tuple[dict[str, Any], Any]:
    """Seconds a unit keeps each part of the machine, and those of a unit when all parts work at once; of numbers or arrays.

    Predictors on CPUs have their threads of the cores that decode, prepare and encode share.
    """
    costs = {STORAGE: fetch / (FETCHES * cpus), CORES: light / cpus, PREDICT: predict / pool}
    heavy = predict * min(threads, cpus) if on_cpu else 0.0
    return costs, np.maximum(np.maximum(costs[STORAGE], costs[PREDICT]), (light + heavy) / cpus)


def expected(costs: Costs, budget: Budget, *, cpus: float, chunks: int | None = None) -> Expected:
    """What a budget makes of these costs.

    Args:
        chunks: that are left: no more predictors than that have work.
    """
    pool = max(1, min(budget.max_predictors, chunks or budget.max_predictors))
    parts, unit_s = side_by_side(
        costs.fetch, costs.light, costs.predict, pool=pool, threads=budget.threads, cpus=cpus, on_cpu=on_cpu(budget)
    )
    return Expected(max(parts, key=lambda name: float(parts[name])), float(unit_s))


def worth_a_sample(settings: SegmentSettings, budget: Budget, left: int) -> bool:
    """Whether measuring can change anything, and enough is left for it to pay."""
    free_pool = settings.predictor_range() is None and not _named(settings)
    free_share = not on_cpu(budget) and settings.gpus_per_predictor is None and free_pool
    return left >= SAMPLE_FROM and (free_pool if on_cpu(budget) else free_share)


def enough_for(budget: Budget, settings: SegmentSettings, chunks: int) -> Budget:
    """The budget without predictors that would never get a chunk; a pool that the user asked for stays."""
    if settings.predictor_range() is not None or _named(settings):
        return budget
    most = max(1, min(budget.max_predictors, chunks))
    return replace(budget, min_predictors=min(budget.min_predictors, most), max_predictors=most)


def fitted(
    budget: Budget,
    settings: SegmentSettings,
    costs: Costs,
    *,
    nodes: Sequence[Node],
    resident: float = 0.0,
    shared_rates: Mapping[int, float] | None = None,
) -> Budget:
    """The budget that these costs ask for.

    On CPUs the pool is as large as cores and memory allow and the network's share of the work needs; where memory holds fewer
    predictors than that, each has more threads. On GPUs as many predictors share one as gave most when they were tried.

    Args:
        budget: the default one, by which the costs were measured.
        nodes: those with CPUs; at least one.
        resident: bytes of one loaded predictor; 0 when unknown.
        shared_rates: units a second of one GPU, by how many predictors shared it.
    """
    if settings.predictor_range() is None and not _named(settings):
        budget = (
            _pool_on_cpus(budget, settings, costs, nodes, resident) if on_cpu(budget) else _shared(budget, settings, shared_rates)
        )
    return _with_task_slots(budget, costs, min(node.cpus for node in nodes))


def too_large(budget: Budget, nodes: Sequence[Node], resident: float) -> str | None:
    """Why a pool may not fit into memory, and what helps; None when it does."""
    room = _room(nodes, resident)
    if not on_cpu(budget) or budget.max_predictors <= room:
        return None
    return (
        f"{budget.max_predictors} predictors of {resident / 2**20:.0f} MB each are more than {MEMORY_SHARE:.0%} of the nodes' "
        f"memory, where {room} would fit; if workers are killed for memory, lower --predictors"
    )


def on_cpu(budget: Budget) -> bool:
    return not budget.predictor_gpus and not budget.predictor_resources


def said(found: Expected, budget: Budget, left: int, noun: str) -> str:
    """The plan in one line."""
    pool, threads = budget.max_predictors, budget.threads
    each = f" x {threads} thread{'s' * (threads > 1)}" if on_cpu(budget) else f" on {budget.device}"
    many = f"{pool} predictor{'s' * (pool > 1)}{each}"
    return f"{_NAMES[found.bottleneck]} the bottleneck: {many}; about {duration(found.unit_s * left)} for {left:,} {noun}"


def corrected(before: Expected, found: Expected, budget: Budget) -> str:
    """That a running job is held up elsewhere than was planned, and what helps."""
    return f"{_NAMES[found.bottleneck]} the bottleneck, not {before.bottleneck}: {remedy(found.bottleneck, budget)} would help"


def remedy(bottleneck: str, budget: Budget) -> str:
    """What would make a job faster that is held up there."""
    if bottleneck == STORAGE:
        return "nearer or faster storage, or more nodes"
    if bottleneck == CORES:
        return "more CPUs" if on_cpu(budget) else "more CPUs for each GPU, or nodes with CPUs only"
    return "more CPUs, or a GPU" if on_cpu(budget) else "more GPUs, or a smaller --gpus-per-predictor where GPUs are not busy"


def duration(seconds: float) -> str:
    """In words, with the accuracy an estimate has."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _named(settings: SegmentSettings) -> bool:
    """Whether the user named the devices, and so how many predictors there are."""
    choice = settings.accelerator()
    return choice is not None and choice.indices is not None


def _pool_on_cpus(budget: Budget, settings: SegmentSettings, costs: Costs, nodes: Sequence[Node], resident: float) -> Budget:
    cpus, smallest = sum(node.cpus for node in nodes), min(node.cpus for node in nodes)
    threads = settings.threads_per_predictor or 1
    work = costs.light + costs.predict * threads
    needed = math.ceil(_SLACK * cpus * costs.predict / work - 1e-6) if work > 0 else 1
    wanted = max(1, min(budget.max_predictors, needed, max(1, int(cpus // threads))))
    pool = min(wanted, _room(nodes, resident))
    if pool < wanted and settings.threads_per_predictor is None:
        threads = max(1, min(int(cpus // pool), int(smallest)))
    return replace(budget, min_predictors=pool, max_predictors=pool, threads=threads)


def _room(nodes: Sequence[Node], resident: float) -> int:
    """How many predictors memory holds; at least one."""
    if resident <= 0 or any(node.memory <= 0 for node in nodes):
        return 2**31
    return max(1, sum(int(MEMORY_SHARE * node.memory // resident) for node in nodes))


def _shared(budget: Budget, settings: SegmentSettings, rates: Mapping[int, float] | None) -> Budget:
    if not rates or not budget.predictor_gpus or settings.gpus_per_predictor is not None:
        return budget
    best = max(rates, key=lambda sharing: rates[sharing])
    share = math.floor(1e4 / best) / 1e4
    return replace(
        budget, max_predictors=budget.max_predictors * best, predictor_gpus=share if best > 1 else budget.predictor_gpus
    )


def _with_task_slots(budget: Budget, costs: Costs, node_cpus: float) -> Budget:
    """Reservations that leave the smallest node as many tasks at a time as its share of the light work needs."""
    heavy = costs.predict * budget.threads if on_cpu(budget) else 0.0
    work = costs.light + heavy
    share = costs.light / work if work > 0 else 1.0
    waiting = costs.fetch / FETCHES / work if work > 0 else 0.0  # tasks that only wait for storage, for each core at work
    slots = math.ceil(_SLACK * node_cpus * share + node_cpus * waiting - 1e-6)
    most = int((node_cpus - _LEAST_CPUS * budget.max_predictors) / budget.task_cpus)
    slots = max(1, min(slots, most))
    each = min(budget.predictor_cpus, (node_cpus - slots * budget.task_cpus) / budget.max_predictors)
    return replace(budget, predictor_cpus=max(1, math.floor(1e4 * each)) / 1e4)
