"""How many images an engine is given at once: found by growing, for each size of the network's input.

    1, 2, 4, ...   while each step gives at least GAIN more images a second, memory has room, and the caller allows it

An engine that runs out of memory gets the same images again, half as many at once, and never as many as that again. Which
images may share a batch, and what a batch is run with, is predictor.py's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rayseg.geometry import Size

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST = 64
"""Images at once, where the caller sets no other limit."""
GAIN = 1.05
"""A size that is less than so many times as fast as the one before is not worth its memory."""
FULL = 0.8
"""Share of the device's memory in use from which on no larger size is tried: the next one takes up to twice as much."""
_RUNS = 3  # of each size: the first also pays for planning, the fastest of the others counts

_OUT_OF_MEMORY = (
    *("resourceexhausted", "resource_exhausted", "out of memory", "outofmemory", "out_of_memory"),
    *("failed to allocate memory", "cudaerrormemoryallocation", "cudnn_status_alloc_failed", "cublas_status_alloc_failed"),
    *("std::bad_alloc", "bad allocation", "cannot allocate memory"),
)


@dataclass
class _Found:
    """What is known of one size of input."""

    best: int = 1
    rate: float = 0.0
    trying: int = 1
    runs: int = 0
    seconds: float = float("inf")
    most: int = MOST
    settled: bool = False


class BatchSizes:
    """What was found for one engine on one device; lives as long as the engine.

    Args:
        used_share: says how full the device's memory is, 0 to 1; None where nobody knows.
        clock: seconds.
    """

    def __init__(
        self, *, used_share: Callable[[], float | None] = lambda: None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._used_share, self._clock = used_share, clock
        self._found: dict[Size, _Found] = {}

    def size(self, shape: Size, most: int) -> int:
        """Images of a network size to be given to the engine next, at most `most`."""
        found = self._of(shape)
        return max(1, min(found.best if found.settled else found.trying, found.most, most))

    @property
    def found(self) -> dict[Size, int]:
        """The sizes that are settled."""
        return {shape: found.best for shape, found in self._found.items() if found.settled}

    def run(self, shape: Size, items: Sequence[int], run: Callable[[Sequence[int]], list[T]], *, most: int) -> list[T]:
        """Run all items in batches and give what `run` gives for each, in order.

        Args:
            shape: of all the items.
            run: one batch; called again with fewer of the same items when it runs out of memory.
            most: items at once.

        Raises:
            Exception: what `run` raises, but for running out of memory with more than one item.
        """
        done: list[T] = []
        while len(done) < len(items):
            batch = items[len(done) : len(done) + self.size(shape, most)]
            begun = self._clock()
            try:
                some = run(batch)
            except Exception as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                self._halve(shape, len(batch), error)
                continue
            self._ran(shape, len(batch), self._clock() - begun)
            done += some
        return done

    def _of(self, shape: Size) -> _Found:
        return self._found.setdefault(shape, _Found())

    def _ran(self, shape: Size, n: int, seconds: float) -> None:
        found = self._of(shape)
        if found.settled or n != found.trying:
            return  # a rest, or as many as the caller allows
        found.runs += 1
        if found.runs > 1:
            found.seconds = min(found.seconds, seconds)
        if found.runs < _RUNS:
            return
        rate = n / max(found.seconds, 1e-9)
        if rate < found.rate * GAIN:
            self._settle(shape, found, "more is not faster")
            return
        found.best, found.rate = n, rate
        found.trying, found.runs, found.seconds = 2 * n, 0, float("inf")
        if found.trying > found.most:
            self._settle(shape, found, "the most that is tried")
        elif (self._used_share() or 0.0) > FULL:
            self._settle(shape, found, "its memory is nearly full")

    def _halve(self, shape: Size, n: int, error: BaseException) -> None:
        found = self._of(shape)
        found.most = n // 2
        found.best = min(found.best, found.most)
        size = f"{shape.width}x{shape.height}"
        log.warning("%d images of %s at once: memory ran out (%s); the same again, %d at once", n, size, _short(error), n // 2)
        self._settle(shape, found, "memory ran out")

    def _settle(self, shape: Size, found: _Found, why: str) -> None:
        found.settled = True
        log.info("images of %dx%d: %d at once (%s)", shape.width, shape.height, found.best, why)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an engine, or whatever it was wrapped in, says that memory ran out. Engines have words for it and no type."""
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        seen.append(at)
        text = str(at).lower()
        if isinstance(at, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
            return True
        at = at.__cause__ or at.__context__
    return False


def by_shape(shapes: Sequence[Size]) -> dict[Size, list[int]]:
    """Indices of each size, so that an engine changes its plan once a size and not once an image."""
    found: dict[Size, list[int]] = {}
    for i, shape in enumerate(shapes):
        found.setdefault(shape, []).append(i)
    return found


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
