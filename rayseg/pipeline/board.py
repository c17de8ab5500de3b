"""The board: one small actor that hears from all stages of a job.

It feeds the progress line and remembers which chunk a predictor died on.

It is never asked what is finished: the ledger alone says that. Lost with the driver, it costs a progress line.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import ray


@dataclass(frozen=True)
class Tally:
    """What passed a stage: images (failed ones included), objects, and seconds of work by ledger stage."""

    images: int = 0
    failed: int = 0
    objects: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        seconds = Counter(self.seconds)
        seconds.update(other.seconds)
        return Tally(self.images + other.images, self.failed + other.failed, self.objects + other.objects, dict(seconds))


class _Board:
    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self._begun: Counter[str] = Counter()
        self._backends: Counter[str] = Counter()

    def add(self, stage: str, tally: Tally) -> None:
        self._tallies[stage] = self._tallies.get(stage, Tally()) + tally

    def begin(self, key: str) -> int:
        """How often this key was begun without being finished, this time included."""
        self._begun[key] += 1
        return self._begun[key]

    def finish(self, key: str) -> None:
        self._begun.pop(key, None)

    def backend(self, name: str) -> None:
        self._backends[name] += 1

    def read(self) -> tuple[dict[str, Tally], dict[str, int]]:
        """Tallies by stage, and how many predictors started with each backend."""
        return dict(self._tallies), dict(self._backends)


# On the driver's side of the cluster and without a CPU: it must outlive predictors and never take part in a deadlock.
Board = ray.remote(num_cpus=0, max_concurrency=1)(_Board)
