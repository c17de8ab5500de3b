"""Counts that losses are divided by, over all the images of a step and not over one worker's share of them.

A loss that is a sum over objects or pixels divided by their number is not the mean of its values on two halves of a batch.
Where a loss divides by the mean of that number over the workers instead, the mean of the workers' gradients is the gradient
of the whole batch. Training says how to take that mean; with one process there is nothing to take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import paddle

Mean = Callable[[Sequence[paddle.Tensor]], None]
_mean: ContextVar[tuple[Mean | None, int]] = ContextVar("mean over workers", default=(None, 1))


def over_workers(count: paddle.Tensor, *, least: float | None = None) -> paddle.Tensor:
    """The mean of a count over the workers, without gradient; with one process the count.

    Every worker must come here equally often, so never from within a branch that depends on the data.

    Args:
        least: of the sum over all workers; a smaller one counts as this.
    """
    mean, workers = _mean.get()
    if mean is not None:
        shared = count.detach().astype("float32").clone()
        mean([shared])
        count = shared.astype(count.dtype)
    return count if least is None else count.clip(min=least / workers)


@contextmanager
def averaging(mean: Mean | None, workers: int = 1) -> Iterator[None]:
    """Inside, `over_workers` replaces tensors by their mean over so many workers with this function, in place."""
    token = _mean.set((mean, workers))
    try:
        yield
    finally:
        _mean.reset(token)
