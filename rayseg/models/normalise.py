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
_mean: ContextVar[Mean | None] = ContextVar("mean over workers", default=None)


def over_workers(count: paddle.Tensor) -> paddle.Tensor:
    """The mean of a count over the workers, without gradient; with one process the count.

    Every worker must come here equally often, so never from within a branch that depends on the data.
    """
    mean = _mean.get()
    if mean is None:
        return count
    shared = count.detach().astype("float32").clone()
    mean([shared])
    return shared.astype(count.dtype)


@contextmanager
def averaging(mean: Mean | None) -> Iterator[None]:
    """Inside, `over_workers` replaces tensors by their mean with this function, in place."""
    token = _mean.set(mean)
    try:
        yield
    finally:
        _mean.reset(token)
