"""The batches of one worker, epoch by epoch: images in an order, prepared here or in processes of their own.

Whether and how many processes help changes when a batch is there and nothing in it. The order is epoch.py's, what
happens to an image work.py's, and stacking collate.py's; all three come in as arguments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from rayseg.errors import ConfigError, RaysegError
from rayseg.training.data.arrays import Arrays
from rayseg.training.data.collate import Batch
from rayseg.training.data.epoch import EpochOrder, Step
from rayseg.training.data.processes import ProcessDied, Processes

AugmentOne = Callable[[Any, int, int, int], Arrays]
"""(reference, epoch, visit, step) -> arrays of one image."""
Stack = Callable[[Sequence[Arrays]], Batch]
"""Arrays of a step's images -> their batch."""


class Batches:
    """Call it with an epoch to get that epoch's batches; fits `rayseg.training.source.BatchSource`.

    Attributes:
        references: of all images of the set.
        augment_one: picklable when there are processes.
        collate: stacks a step's images.
        order: which images are this worker's.
        workers: processes; 0 prepares images where batches are asked for.
    """

    def __init__(
        self,
        references: Sequence[Any],
        augment_one: AugmentOne,
        collate: Stack,
        order: EpochOrder,
        *,
        workers: int = 0,
    ) -> None:
        if workers < 0:
            raise ConfigError(f"Train.workers is {workers}; it is a number of processes, or 0 for none")
        if order.images != len(references):
            raise ConfigError(f"an order of {order.images} images was given {len(references)} of them")
        self.references, self.augment_one, self.collate = references, augment_one, collate
        self.order, self.workers = order, workers
        self._pool: Processes | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.order.steps_per_epoch

    @property
    def most_in_flight(self) -> int:
        """Images that are being prepared or wait to be stacked, at most."""
        return self.order.batch_size + 2 * self.workers

    def __call__(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from batch `start` on.

        Raises:
            DatasetError: an image cannot be read.
            RaysegError: a process was killed.
        """
        steps = list(self.order.steps(epoch, start=start))
        return self._ahead(steps, epoch) if self.workers else self._here(steps, epoch)

    def close(self) -> None:
        """End the processes. A later call starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _here(self, steps: Sequence[Step], epoch: int) -> Iterator[Batch]:
        for step in steps:
            yield self.collate([self.augment_one(self._reference(v), epoch, v, step.number) for v in step.visits])

    def _ahead(self, steps: Sequence[Step], epoch: int) -> Iterator[Batch]:
        """While one batch is used, a thread stacks the next and processes work on those after it."""
        try:
            yield from stacked_ahead(steps, self._in_order(steps, epoch), self.collate)
        except ProcessDied as error:
            self.close()
            raise RaysegError(
                "a process that prepares images died; the system kills the largest when memory runs out. "
                f"Lower Train.workers (now {self.workers}) or Train.batch_size and start again: the run goes on where it was"
            ) from error

    def _in_order(self, steps: Sequence[Step], epoch: int) -> Generator[Arrays]:
        self._pool = pool = self._pool or Processes(self.augment_one, self.workers)
        waiting: deque[Future[Arrays]] = deque()
        try:
            for step in steps:
                for visit in step.visits:
                    if len(waiting) == self.most_in_flight:
                        yield waiting.popleft().result()
                    waiting.append(pool.submit(self._reference(visit), epoch, visit, step.number))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _reference(self, visit: int) -> Any:
        return self.references[visit % self.order.images]


def stacked_ahead(steps: Sequence[Step], images: Generator[Arrays], collate: Stack) -> Iterator[Batch]:
    """The batches of some steps, a thread stacking one while the one before is in use.

    Args:
        images: those of all steps, in order; closed in the end.
    """

    def stack(step: Step) -> Batch:
        return collate([next(images) for _ in step.visits])

    try:
        with ThreadPoolExecutor(1, thread_name_prefix="rayseg-stack") as thread:
            upcoming: Future[Batch] | None = None
            for step in steps:
                ready, upcoming = upcoming, thread.submit(stack, step)
                if ready is not None:
                    yield ready.result()
            if upcoming is not None:
                yield upcoming.result()
    finally:
        images.close()
