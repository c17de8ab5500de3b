"""A network, data and runs small enough to train in milliseconds, for tests of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

from rayseg.models.weights import read_pdparams
from rayseg.training.loop import FitResult, fit
from rayseg.training.plan import Plan

STEPS = 3


class Toy(nn.Layer):
    """A network with running statistics, dropout, a backbone and a head."""

    def __init__(self, width: int = 4, *, norm: bool = True, drop: float = 0.2) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(width, width))
        self.norm = nn.BatchNorm1D(width) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        self.out = nn.Linear(width, 1)
        self.epochs_seen: list[int] = []

    def loss(self, inputs, targets):
        found = self.out(self.drop(self.norm(self.backbone(inputs["image"]))))
        error = ((found - targets["wanted"]) ** 2).mean()
        return {"loss": error, "loss_twice": 2 * error}

    def set_epoch(self, epoch: int) -> None:
        self.epochs_seen.append(epoch)


class ToyBatch(NamedTuple):
    inputs: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]


@dataclass
class ToyData:
    """Batches that follow from the epoch and the rank; `cut_at` (epoch, batch) pulls the plug there."""

    steps_per_epoch: int = STEPS
    batch_size: int = 8
    cut_at: tuple[int, int] | None = None
    poison: int | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, epoch: int, *, start: int = 0) -> Iterator[ToyBatch]:
        self.asked.append((epoch, start))
        rng = np.random.default_rng(epoch)
        for index in range(self.steps_per_epoch):
            x = rng.normal(size=(self.batch_size, 4)).astype(np.float32)
            if index < start:
                continue
            if (epoch, index) == self.cut_at:
                raise KeyboardInterrupt
            wanted = x.sum(axis=1, keepdims=True) * (np.nan if epoch == self.poison else 1)
            yield ToyBatch({"image": x}, {"wanted": wanted.astype(np.float32)})


def plan_of(**changes: Any) -> Plan:
    """A plan for the toy."""
    usual: dict[str, Any] = {
        "length": 6,
        "unit": "epochs",
        "batch_size": 8,
        "learning_rate": 0.05,
        "weight_decay": 0.01,
        "optimizer": "adamw",
        "ema": ("threshold", 0.9),
        "seed": 1,
        "eval_interval": 2,
        "log_interval": 2,
    }
    return Plan(**{**usual, **changes})


def closeness(network: Toy) -> dict[str, float]:
    """A score that the network's weights decide."""
    return {"score": -float(((network.out.weight - 1) ** 2).mean())}


def run(
    folder: Path,
    plan: Plan | None = None,
    *,
    data: ToyData | None = None,
    network: nn.Layer | None = None,
    events: list | None = None,
    **changes: Any,
) -> FitResult:
    """Train a toy that starts from the same weights every time."""
    if network is None:
        paddle.seed(5)
        network = Toy()
    usual: dict[str, Any] = {
        "batches": data or ToyData(),
        "folder": folder,
        "evaluate": closeness,
        "report": (events if events is not None else []).append,
    }
    return fit(network, plan or plan_of(), **{**usual, **changes})


def arrays_of(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, by file and name."""
    return {
        f"{file.suffix}:{name}": array
        for file in sorted(checkpoint.glob("*.pd*"))
        if file.suffix != ".pdstates"
        for name, array in read_pdparams(file).items()
    }


def assert_same(one: Path, other: Path) -> None:
    """Two checkpoints hold the same bits."""
    first, second = arrays_of(one), arrays_of(other)
    assert first.keys() == second.keys()
    assert any(name.startswith(".pdopt:") for name in first)
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name
