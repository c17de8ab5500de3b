"""Several workers of one run as threads of one process, of which one at a time computes: Paddle is not made for more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle

from rayseg.training.world import World

PATIENCE_S = 60


class ThreadWorld(World):
    """One of several workers that meet at a barrier to swap what they have, and pass on the turn while they wait."""

    def __init__(self, rank: int, size: int, table: list[Any], meet: threading.Barrier, turn: threading.Lock) -> None:
        self.rank, self.size, self._table, self._meet, self._turn = rank, size, table, meet, turn

    def gather(self, value: Any) -> list[Any]:
        self._table[self.rank] = value
        differentiates = paddle.is_grad_enabled()  # one switch for all threads
        self._turn.release()
        try:
            self._meet.wait(PATIENCE_S)
            found = list(self._table)
            self._meet.wait(PATIENCE_S)
        finally:
            self._turn.acquire()
            paddle.set_grad_enabled(differentiates)
        return found

    def agree(self, value: Any) -> Any:
        return self.gather(value)[0]

    def barrier(self) -> None:
        self.gather(None)

    def all_reduce_mean(self, tensors: Sequence[paddle.Tensor]) -> None:
        for tensor in tensors:
            arrays = self.gather(tensor.numpy().copy())
            tensor.set_value(np.asarray(sum(arrays[1:], arrays[0]) / self.size))

    def broadcast(self, tensors: Sequence[paddle.Tensor]) -> None:
        for tensor in tensors:
            tensor.set_value(self.agree(tensor.numpy().copy()))


def together(size: int, work: Callable[[World], Any]) -> list[Any]:
    """What each worker's call returns, by rank; the first error is raised."""
    table: list[Any] = [None] * size
    meet, turn = threading.Barrier(size), threading.Lock()
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            with turn:
                results[rank] = work(ThreadWorld(rank, size, table, meet, turn))
        except threading.BrokenBarrierError:
            pass  # another worker failed, and says why
        except BaseException as error:  # noqa: BLE001 (raised below, in the caller's thread)
            errors.append(error)
            meet.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
