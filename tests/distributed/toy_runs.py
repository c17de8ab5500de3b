"""Runs of a tiny network on the workers of a group; every step has the same eight rows, however many workers share them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import ray
from paddle import nn

from rayseg.distributed.worker import kept_checkpoint, reporting
from rayseg.distributed.world import current_world
from rayseg.errors import RaysegError
from rayseg.training.loop import FitResult, fit
from rayseg.training.plan import Plan
from rayseg.training.world import World

ROWS, STEPS, EPOCHS = 8, 3, 6


class Net(nn.Layer):
    """Convolutions and batch norms; the loss is a mean over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2D(2, 4, 3, padding=1), nn.BatchNorm2D(4), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2D(4, 4, 1), nn.BatchNorm2D(4), nn.ReLU(), nn.Conv2D(4, 1, 1))

    def loss(self, inputs, targets):
        return {"loss": ((self.head(self.backbone(inputs)) - targets) ** 2).mean()}


class Rows(NamedTuple):
    inputs: np.ndarray
    targets: np.ndarray


class Shares:
    """Row p of a step goes to worker p mod size."""

    steps_per_epoch = STEPS

    def __init__(self, world: World, *, on_batch: Any = None) -> None:
        self.world, self.on_batch = world, on_batch or (lambda epoch, index: None)

    def __call__(self, epoch: int, *, start: int = 0) -> Iterator[Rows]:
        for index in range(start, STEPS):
            self.on_batch(epoch, index)
            x = np.random.default_rng([epoch, index]).normal(1.0, 2.0, (ROWS, 2, 5, 6)).astype(np.float32)
            mine = x[self.world.rank :: self.world.size]
            yield Rows(mine, np.abs(mine).sum(1, keepdims=True))


def train_toy(folder: Path, world: World, *, on_batch: Any = None, seed: int = 5, **changes: Any) -> FitResult:
    """The same run for any number of workers that divides the rows."""
    paddle.seed(seed)
    plan = Plan(
        length=EPOCHS, unit="epochs", batch_size=ROWS // world.size, learning_rate=0.05, weight_decay=1e-3,
        clip=("global_norm", 5.0), ema=("threshold", 0.9), seed=1, log_interval=1,
    )  # fmt: skip
    return fit(Net(), plan, batches=Shares(world, on_batch=on_batch), folder=folder, world=world, **changes)


def fails(config: dict[str, Any]) -> None:
    """A worker that refuses."""
    raise RaysegError("the third image is bad")


def on_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What each worker of a group runs.

    Args:
        config: "folder"; "kill", (epoch, index) at which the last worker dies the first time it comes there; "sleep", seconds
            before each batch.
    """
    world, folder = current_world(), Path(config["folder"])
    attempt = folder / f"size-{time.time_ns()}-{world.size}"
    if world.rank == 0:
        folder.mkdir(exist_ok=True)
        attempt.touch()
    world.barrier()
    if world.rank == world.size - 1:
        (folder / "node-of-last").write_text(ray.get_runtime_context().get_node_id())

    def on_batch(epoch: int, index: int) -> None:
        time.sleep(config.get("sleep", 0))
        mark = folder / "killed"
        if world.rank == world.size - 1 and (epoch, index) == config.get("kill") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with kept_checkpoint(folder, world) as resume:
        # Each worker starts from other weights: rank 0's have to be taken
        result = train_toy(
            folder, world, on_batch=on_batch, seed=5 + world.rank, resume=resume, report=reporting(world, config.get("events"))
        )
    return {
        "size": world.size,
        "step": result.step,
        "device": paddle.get_device(),
        "resumed_from": str(result.resumed_from or ""),
    }
