"""Losses since the last line of the log, summed where they were computed so that no step waits for them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import paddle

from rayseg.training.world import World


class Window:
    """Means of the terms of the loss over micro-steps and workers."""

    def __init__(self) -> None:
        self._sums: dict[str, paddle.Tensor] = {}
        self._counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    @paddle.no_grad()
    def add(self, terms: Mapping[str, paddle.Tensor]) -> None:
        """One micro-step's terms."""
        for name, value in terms.items():
            value = value.detach().astype("float32").reshape([])
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, world: World) -> dict[str, float]:
        """The means, and an empty window. A term of some micro-steps only is averaged over those."""
        names = [str(name) for name in _listed(world.agree(list(self._sums)))]
        values = [[float(self._sums[n]) if n in self._sums else 0.0, self._counts.get(n, 0)] for n in names]
        table = paddle.to_tensor(np.asarray(values, dtype=np.float32).reshape(-1, 2))
        if world.size > 1:
            world.all_reduce_mean([table])
        self._sums, self._counts = {}, {}
        return {name: total / count if count else math.nan for name, (total, count) in zip(names, table.tolist(), strict=True)}


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
