"""The board: one small actor that hears from all stages of a job.

It feeds the progress line and the gauges of queues, and remembers which chunk a predictor died on.

It is never asked what is finished: the ledger alone says that. Lost with the driver, it costs a progress line.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayseg.pipeline import metrics


@dataclass(frozen=True)
class Tally:
    """What passed a stage: images (failed ones included), objects, seconds of work by ledger stage, and chunks."""

    images: int = 0
    failed: int = 0
    objects: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    chunks: int = 0

    def __add__(self, other: Tally) -> Tally:
        seconds = Counter(self.seconds)
        seconds.update(other.seconds)
        counts = (self.images + other.images, self.failed + other.failed, self.objects + other.objects)
        return Tally(*counts, dict(seconds), self.chunks + other.chunks)


class _Board:
    def __init__(self, job: str = metrics.OUTSIDE) -> None:
        self._job = job
        self._predictors: dict[str, float] = {"busy": 0.0, "waiting": 0.0}
        self._tallies: dict[str, Tally] = {}
        self._begun: Counter[str] = Counter()
        self._backends: Counter[str] = Counter()

    def add(self, stage: str, tally: Tally) -> None:
        self._tallies[stage] = self._tallies.get(stage, Tally()) + tally
        metrics.waiting(self._job, self.queues())

    def begin(self, key: str) -> int:
        """How often this key was begun without being finished, this time included."""
        self._begun[key] += 1
        return self._begun[key]

    def finish(self, key: str) -> None:
        self._begun.pop(key, None)

    def queues(self) -> dict[str, int]:
        """Chunks that left a stage and not the next, by the latter; a chunk repeated after the loss of a node counts twice."""
        left = {stage: tally.chunks for stage, tally in self._tallies.items()}
        pairs = (("decode", "predict"), ("predict", "encode"))
        return {stage: max(0, left.get(before, 0) - left.get(stage, 0)) for before, stage in pairs}

    def predictor(self, busy_s: float, waiting_s: float) -> None:
        """Add the time a predictor worked, and the time it had nothing to do."""
        self._predictors = {"busy": self._predictors["busy"] + busy_s, "waiting": self._predictors["waiting"] + waiting_s}

    def predictors(self) -> dict[str, float]:
        """Seconds of all predictors together: busy, and waiting."""
        return dict(self._predictors)

    def backend(self, name: str) -> None:
        self._backends[name] += 1

    def read(self) -> tuple[dict[str, Tally], dict[str, int]]:
        """Tallies by stage, and how many predictors started with each backend."""
        return dict(self._tallies), dict(self._backends)


# On the driver's side of the cluster and without a CPU: it must outlive predictors and never take part in a deadlock.
Board = ray.remote(num_cpus=0, max_concurrency=1)(_Board)


def new_board(job: str = metrics.OUTSIDE) -> Any:
    """A board on this node: it lives and dies with the driver. Should it alone die, an empty one takes its place.

    Args:
        job: tag of the gauges it sets.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Board.options(scheduling_strategy=here, max_restarts=-1, max_task_retries=-1).remote(job)
