"""What the loop needs of its data: batches by epoch and position. Where they come from is training/data's concern."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import paddle

Arrays = np.ndarray | Mapping[str, np.ndarray]


class Batch(Protocol):
    """The arrays of one micro-step, as models/network.py describes them for `loss`."""

    @property
    def inputs(self) -> Arrays: ...

    @property
    def targets(self) -> Arrays: ...


class BatchSource(Protocol):
    """The batches of one worker. The same worker of the same number of workers gets the same batches again."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch for this worker; equal for all workers, at least 1."""

    def __call__(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0), without the first `start`; exactly `steps_per_epoch - start` of them."""


def to_tensors(arrays: Arrays) -> Any:
    """The same with paddle tensors in the place of arrays."""
    if isinstance(arrays, Mapping):
        return {name: paddle.to_tensor(array) for name, array in arrays.items()}
    return paddle.to_tensor(arrays)
