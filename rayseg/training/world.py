"""The workers of one run, as the loop sees them: who am I, and what do we agree on.

This class is the answer of a single process. rayseg/distributed derives from it; the loop asks for nothing else, so it
runs unchanged with one process or many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import paddle
from paddle import nn

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
N = TypeVar("N", bound=nn.Layer)


class World:
    """One process. All workers call the same methods in the same order.

    Attributes:
        rank: from 0; rank 0 writes files.
        size: number of workers.
    """

    rank: int = 0
    size: int = 1

    def all_reduce_mean(self, tensors: Sequence[paddle.Tensor]) -> None:
        """Replace each floating tensor by its mean over the workers, in place; shapes are equal everywhere."""

    def broadcast(self, tensors: Sequence[paddle.Tensor]) -> None:
        """Replace each tensor by that of rank 0, in place."""

    def agree(self, value: Json) -> Json:
        """What rank 0 passed; for small values."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """What every worker passed, in order of rank, on every worker; anything that can be pickled."""
        return [value]

    def barrier(self) -> None:
        """Wait for all workers."""

    def synced(self, network: N) -> N:
        """The network with its batch norms computed over all workers; parameters keep their names in `state_dict`."""
        return network

    def tied(self, loss: paddle.Tensor) -> paddle.Tensor:
        """The same loss, whose backward pass comes by all that the workers compute together, in one order on all of them."""
        return loss


ALONE = World()
