"""Beside an engine that takes batches: a thread makes the inputs of the images that come next, another takes outputs apart.

For engines that leave the CPU idle while they run, which are those on GPUs; on a CPU the threads would only share its cores
with the engine. Which images share a batch is predictor.py's; how many, batches.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np

from rayseg.predict.backends.protocol import Backend
from rayseg.predict.execute import feed
from rayseg.predict.families import split_outputs
from rayseg.predict.prepare import Prepared, to_input
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec

BATCHES_AHEAD = 2
"""So many times the images of the batch that runs have their inputs made."""


class Overlapped:
    """Runs batches of some images; a context manager, whose end waits for its threads.

    Args:
        images: all that will be run.
        order: their indices in the order in which they will be asked for.
        min_score: as `execute` takes it.
    """

    def __init__(
        self, spec: ModelSpec, backend: Backend, images: Sequence[Prepared], order: Sequence[int], *, min_score: float
    ) -> None:
        self._spec, self._backend, self._images, self._min_score = spec, backend, images, min_score
        self._order = list(order)
        self._place = {index: place for place, index in enumerate(self._order)}
        self._inputs: dict[int, Future[np.ndarray]] = {}
        self._feeding = ThreadPoolExecutor(1, thread_name_prefix="rayseg-feed")
        self._splitting = ThreadPoolExecutor(1, thread_name_prefix="rayseg-split")

    def run(self, indices: Sequence[int]) -> list[Future[list[Raw]]]:
        """Run images of one network size together.

        Returns:
            For each image the same future, of the Raws of the batch: they are taken apart while the next one runs.

        Raises:
            Exception: what the engine raises. The same images may be asked for again.
        """
        first = self._place[indices[0]]
        for index in self._order[first : first + (1 + BATCHES_AHEAD) * len(indices)]:
            if index not in self._inputs:
                self._inputs[index] = self._feeding.submit(to_input, self._spec, self._images[index])
        batch = [self._images[index] for index in indices]
        outputs = self._backend.run(feed(self._spec, batch, made=[self._inputs[index].result() for index in indices]))
        for index in indices:
            del self._inputs[index]
        split = self._splitting.submit(split_outputs, self._spec, outputs, batch, min_score=self._min_score)
        return [split] * len(indices)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pool in (self._feeding, self._splitting):
            pool.shutdown(wait=True, cancel_futures=error is not None)
