"""The training loop, to be read from top to bottom.

It knows nothing of image files, clusters or progress bars: data comes from a callable, events go to a callable, and the
score comes from a callable. What it writes is its checkpoint and the best averaged weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from rayseg.errors import ConfigError, RaysegError
from rayseg.models.weights import save_weights
from rayseg.training.batches import Batch
from rayseg.training.checkpoint import Standing, load_checkpoint, save_checkpoint
from rayseg.training.optim import Cosine, Ema

Report = Callable[[dict[str, Any]], None]
CHECKPOINT = "checkpoint.npz"
BEST = "best.pdparams"


@dataclass(frozen=True)
class Length:
    """How long a run is: a number of epochs, and optionally minutes; whichever ends first."""

    epochs: int
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.minutes is not None and self.minutes <= 0):
            raise ConfigError(f"a run needs at least one epoch and a positive number of minutes, got {self}")

    def progress(self, epochs: float, seconds: float) -> float:
        """Share of the run that is done after so many epochs and seconds; 1 or more when it is over."""
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return max(epochs / self.epochs, by_time)


def train(
    model: nn.Layer,
    batches: Callable[[int], Iterable[Batch]],
    optimizer: paddle.optimizer.Optimizer,
    *,
    steps_per_epoch: int,
    length: Length,
    rate: Cosine,
    ema_decay: float,
    folder: Path,
    seed: int,
    evaluate: Callable[[], dict[str, float]],
    evaluate_every: int,
    report: Report,
    log_every: int = 20,
) -> Standing:
    """Train until `length` is reached, going on from `folder`'s checkpoint if there is one.

    Args:
        model: its `loss(inputs, targets)` returns a dict of scalars with the total under "loss". A model whose loss
            changes over the epochs has a `set_epoch(epoch)`, which is called before each.
        batches: epoch number -> that epoch's batches, the same on every call.
        optimizer: over the model's trainable weights.
        steps_per_epoch: how many batches an epoch has.
        rate: learning rate over the run.
        ema_decay: of the averaged weights, which are what is evaluated and kept.
        folder: where the checkpoint and the best weights go.
        evaluate: scores the model as it is when called; "score" decides which weights are best.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        report: receives one flat dict an event, its kind under "event".
        log_every: steps between reports of the losses.

    Returns:
        Where the run ended. `best.pdparams` in the folder holds the averaged weights of its best epoch.

    Raises:
        RaysegError: a loss is not a finite number.
        WeightsError: the checkpoint does not fit.
        ConfigError: the checkpoint belongs to a run with another seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ema = Ema(model, decay=ema_decay)
    standing = Standing(seed=seed)
    if (folder / CHECKPOINT).exists():
        standing = load_checkpoint(folder / CHECKPOINT, model, optimizer, ema)
        if standing.seed != seed:
            raise ConfigError(f"{folder}: was started with seed {standing.seed}, not {seed}; choose another folder")
        report({"event": "resumed", "epoch": standing.epoch, "step": standing.step})
    before, started = standing.seconds, time.monotonic()

    while (progress := length.progress(standing.epoch, standing.seconds)) < 1:
        model.train()
        paddle.seed(seed * 1_000_003 + standing.epoch)
        if hasattr(model, "set_epoch"):
            model.set_epoch(standing.epoch)
        for done, batch in enumerate(batches(standing.epoch)):
            progress = length.progress(standing.epoch + done / steps_per_epoch, before + time.monotonic() - started)
            optimizer.set_lr(rate(progress))
            inputs = {"image": paddle.to_tensor(batch.image)}
            targets = {name: paddle.to_tensor(array) for name, array in batch.targets.items()}
            losses = model.loss(inputs, targets)
            losses["loss"].backward()
            optimizer.step()
            optimizer.clear_grad()
            ema.update()
            standing.step += 1
            if standing.step % log_every == 0:
                report(_step_event(standing, losses, rate(progress), before + time.monotonic() - started))

        standing.epoch += 1
        standing.seconds = before + time.monotonic() - started
        over = length.progress(standing.epoch, standing.seconds) >= 1
        if over or standing.epoch % evaluate_every == 0:
            with _averaged(model, ema):
                scores = evaluate()
                if standing.best_epoch < 0 or scores["score"] > standing.best_score:
                    standing.best_score, standing.best_epoch = scores["score"], standing.epoch
                    save_weights(model, folder / BEST)
            report({"event": "evaluated", "epoch": standing.epoch, "step": standing.step, **scores})
        standing.seconds = before + time.monotonic() - started
        save_checkpoint(folder / CHECKPOINT, model, optimizer, ema, standing)
    return standing


def _step_event(standing: Standing, losses: dict[str, paddle.Tensor], rate: float, seconds: float) -> dict[str, Any]:
    values = {name: round(float(value), 4) for name, value in losses.items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise RaysegError(
            f"step {standing.step}: losses {values} are not finite; training has diverged. "
            f"Lower the learning rate (now {rate:.2g}) or clip gradients, and start from the checkpoint."
        )
    where = {"event": "step", "epoch": standing.epoch, "step": standing.step, "seconds": round(seconds, 1)}
    return where | {"rate": float(f"{rate:.3g}")} | values


@contextmanager
def _averaged(model: nn.Layer, ema: Ema) -> Iterator[None]:
    """Inside, the model has the averaged weights and does not train; afterwards it has its own again."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ema.copy_to(model)
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        model.set_state_dict(own)
