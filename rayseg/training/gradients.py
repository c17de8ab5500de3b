"""Gradients between backward and step: the mean over all workers, and the cut at a norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import paddle

from rayseg.training.world import World

BUCKET_BYTES = 25 << 20
"""Gradients travel in parcels of this size: fewer, larger messages."""


@paddle.no_grad()
def average(parameters: Sequence[paddle.Tensor], world: World) -> None:
    """Replace every gradient by its mean over the workers.

    A parameter that has a gradient on some workers counts as zero on the others; one that has none anywhere is left alone.
    """
    if world.size == 1:
        return
    present = paddle.to_tensor(np.array([p.grad is not None for p in parameters], dtype=np.float32))
    world.all_reduce_mean([present])
    used = [p for p, share in zip(parameters, present.numpy().tolist(), strict=True) if share > 0]
    for parcel in _parcels(used):
        flat = paddle.concat([_gradient(p).astype("float32").flatten() for p in parcel])
        world.all_reduce_mean([flat])
        for parameter, part in zip(parcel, flat.split([int(p.size) for p in parcel]), strict=True):
            parameter.grad = part.reshape(parameter.shape).astype(parameter.dtype)


@paddle.no_grad()
def clip(parameters: Sequence[paddle.Tensor], kind: str, limit: float) -> None:
    """Shrink gradients to a norm: of all together (`global_norm`), or of each (`norm`). Smaller ones stay as they are."""
    present = [p.grad for p in parameters if p.grad is not None]
    if not present:
        return
    squares = paddle.stack([(g.astype("float32") ** 2).sum() for g in present])
    if kind == "global_norm":
        squares = squares.sum().expand([len(present)])
    factors = limit / squares.sqrt().clip(min=limit)
    for gradient, factor in zip(present, factors.unbind(), strict=True):
        gradient.multiply_(factor.astype(gradient.dtype))


def _gradient(parameter: paddle.Tensor) -> paddle.Tensor:
    return parameter.grad if parameter.grad is not None else paddle.zeros_like(parameter)


def _parcels(parameters: Sequence[paddle.Tensor]) -> Iterator[list[paddle.Tensor]]:
    parcel: list[paddle.Tensor] = []
    room = BUCKET_BYTES
    for parameter in parameters:
        size = 4 * int(parameter.size)
        if parcel and size > room:
            yield parcel
            parcel, room = [], BUCKET_BYTES
        parcel.append(parameter)
        room -= size
    if parcel:
        yield parcel
