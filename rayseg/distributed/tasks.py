"""A worker's batches, whose images are prepared by Ray tasks on any node of the cluster.

Which image is in which batch, and what happens to it, is decided in rayseg/training/data from (seed, epoch, step, rank) alone;
a task is told one image of that and returns its arrays. So a batch does not depend on which machine prepared it or how often a
task was run again, and no image is lost at the end of an epoch. Ray Data's split over workers promises neither: rows come in
the order in which they are ready, and equal shares are made by dropping rows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import cv2
import ray

from rayseg.errors import ConfigError, RaysegError
from rayseg.training.data.arrays import Arrays
from rayseg.training.data.collate import Batch
from rayseg.training.data.epoch import Step
from rayseg.training.data.loader import AugmentOne, Batches, stacked_ahead

RETRIES = 10
"""How often a task is run again after its process or node was lost."""


class TaskBatches:
    """The batches of `recipe`, prepared elsewhere; fits `rayseg.training.source.BatchSource`.

    At most `batch_size + 2 * tasks` prepared images and two stacked batches exist.

    Args:
        recipe: says what the batches are; its own processes are not started.
        tasks: images prepared at the same time.
        cpus: logical CPUs each task reserves; see `task_cpus`.
    """

    def __init__(self, recipe: Batches, *, tasks: int, cpus: float = 0.0) -> None:
        if tasks < 1:
            raise ConfigError(f"Train.workers is {tasks}; tasks need at least one, or 0 to load in the training process")
        self._recipe, self._most = recipe, recipe.order.batch_size + 2 * tasks
        self._augment_one = ray.put(recipe.augment_one)
        options = {"num_cpus": cpus, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        self._prepare = ray.remote(_prepare).options(**options)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self._recipe.steps_per_epoch

    def __call__(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from batch `start` on, stacked one ahead of the one in use.

        Raises:
            DatasetError: an image cannot be read.
            RaysegError: the processes of tasks died again and again.
        """
        steps = list(self._recipe.order.steps(epoch, start=start))
        return stacked_ahead(steps, self._in_order(steps, epoch), self._recipe.collate)

    def close(self) -> None:
        """Nothing is left between epochs; here because the loader of one process has it."""

    def _in_order(self, steps: Sequence[Step], epoch: int) -> Generator[Arrays]:
        recipe = self._recipe
        waiting: deque[ray.ObjectRef] = deque()
        try:
            for step in steps:
                for visit in step.visits:
                    if len(waiting) == self._most:
                        yield _arrived(waiting.popleft())
                    reference = recipe.references[visit % recipe.order.images]
                    waiting.append(self._prepare.remote(self._augment_one, reference, epoch, visit, step.number))
            while waiting:
                yield _arrived(waiting.popleft())
        finally:
            for ref in waiting:
                ray.cancel(ref)


def task_cpus(tasks: int) -> float:
    """Logical CPUs each of so many tasks reserves: an even share of those that are free now, at most one.

    Where workers hold them all, tasks reserve nothing and share the real cores with the workers; a reservation would wait for
    the end of the training that waits for it. Ray counts in ten-thousandths.
    """
    free = ray.available_resources().get("CPU", 0.0)
    return math.floor(1e4 * min(1.0, free / tasks)) / 1e4


def _prepare(augment_one: AugmentOne, reference: Any, epoch: int, visit: int, step: int) -> Arrays:
    cv2.setNumThreads(1)  # a node runs many of these
    return augment_one(reference, epoch, visit, step)


def _arrived(ref: ray.ObjectRef) -> Arrays:
    try:
        arrays: Arrays = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RaysegError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise RaysegError(
            f"a task that prepares images was lost {RETRIES} times ({type(error).__name__}); often the system kills it when "
            "memory runs out. Lower Train.workers or Train.batch_size and start again: the run goes on where it was"
        ) from error
    return arrays
