"""What the workers of a run say to each other, over Paddle's process group.

The loop (rayseg/training) knows only `World`; this is its answer for many processes. The group itself is joined in backend.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import paddle
from paddle import distributed

from rayseg.distributed.sync_batch_norm import BackwardOrder, share_batch_norms
from rayseg.training.world import ALONE, Json, N, World

T = TypeVar("T")
_TRAVELS_AS = {
    paddle.float16: paddle.float32,
    paddle.bfloat16: paddle.float32,
    paddle.bool: paddle.uint8,
    paddle.int8: paddle.int32,
    paddle.int16: paddle.int32,
}
"""Types that not every backend carries, and what is sent in their place; nothing is lost."""


class PaddleWorld(World):
    """The process group this worker belongs to. All workers call the same methods in the same order, with equal shapes.

    Results are the same to the last bit on all workers. Attributes as in `World`.
    """

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        self._order = BackwardOrder()

    @paddle.no_grad()
    def all_reduce_mean(self, tensors: Sequence[paddle.Tensor]) -> None:
        """Replace each floating tensor by its mean over the workers, in place. Half precision is summed in float32."""
        for tensor in tensors:
            if tensor.size == 0:  # gloo refuses to send nothing
                continue
            total = _carried(tensor)
            distributed.all_reduce(total)  # the sum, then our division: gloo knows no mean
            total.scale_(1.0 / self.size)
            _put(total, tensor)

    @paddle.no_grad()
    def broadcast(self, tensors: Sequence[paddle.Tensor]) -> None:
        """Replace each tensor by that of rank 0, in place."""
        for tensor in tensors:
            if tensor.size == 0:
                continue
            carried = _carried(tensor)
            distributed.broadcast(carried, src=0)
            _put(carried, tensor)

    @paddle.no_grad()
    def agree(self, value: Json) -> Json:
        """What rank 0 passed, on every rank. It travels as JSON: NaN and infinity do, tuples come back as lists."""
        text = json.dumps(value).encode() if self.rank == 0 else b""
        length = paddle.to_tensor([len(text)], dtype="int64")
        distributed.broadcast(length, src=0)
        letters = np.zeros(int(length.item()), np.int32)
        if self.rank == 0:
            letters[:] = np.frombuffer(text, np.uint8)
        carried = paddle.to_tensor(letters)
        distributed.broadcast(carried, src=0)
        return json.loads(carried.numpy().astype(np.uint8).tobytes())

    def gather(self, value: T) -> list[T]:
        """What each rank passed, by rank, on every rank; any picklable value, such as the partial scores of an evaluation."""
        values: list[T] = []
        distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all workers."""
        self.agree(None)  # Paddle's own barrier does not wait for what is still queued on a GPU

    def synced(self, network: N) -> N:
        """The network, its batch norms computed over all workers; the layers are replaced in place."""
        return share_batch_norms(network, self._order)

    def tied(self, loss: paddle.Tensor) -> paddle.Tensor:
        """See `World`; the rates of change are those of the loss itself."""
        return self._order.tie(loss)


def current_world() -> World:
    """The group this process has joined, or the world of one process."""
    return PaddleWorld() if distributed.is_initialized() and distributed.get_world_size() > 1 else ALONE


def _carried(tensor: paddle.Tensor) -> paddle.Tensor:
    return tensor.astype(_TRAVELS_AS[tensor.dtype]) if tensor.dtype in _TRAVELS_AS else tensor


def _put(value: paddle.Tensor, target: paddle.Tensor) -> None:
    if value is not target:
        paddle.assign(value.astype(target.dtype), target)
