"""The training loop, to be read from top to bottom: one for every network, both tasks, one process or many.

It knows nothing of image files, clusters or progress bars: data, scores and workers come in as arguments, events go to
a callable. What it writes below its folder is checkpoint.py's and journal.py's. Gradients are averaged over workers
after the last micro-step of a step, without a wrapper around the network.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from rayseg.errors import ConfigError, DatasetError, RaysegError
from rayseg.models.normalise import averaging
from rayseg.training import checkpoint as store
from rayseg.training.checkpoint import Standing, States
from rayseg.training.ema import Ema
from rayseg.training.gradients import average, clip
from rayseg.training.journal import Journal
from rayseg.training.optim import freeze, make_optimizer, set_training
from rayseg.training.plan import Plan
from rayseg.training.precision import Precision
from rayseg.training.seeds import seed_all
from rayseg.training.source import Batch, BatchSource, to_tensors
from rayseg.training.window import Window
from rayseg.training.world import ALONE, World

Event = dict[str, Any]
Report = Callable[[Event], None]
Evaluate = Callable[[Any], dict[str, float]]
_KEPT_ON_RESUME = ("seed", "unit", "optimizer", "metric", "mode")


@dataclass(frozen=True)
class FitResult:
    """How a run ended."""

    folder: Path
    best: Path | None
    """`best_model` in the folder, with the weights of the best evaluation."""
    best_score: float | None
    best_epoch: int
    best_step: int
    epoch: int
    """Epochs finished."""
    step: int
    """Steps of the optimizer."""
    seconds: float
    """Over all restarts."""
    scores: dict[str, float]
    """Of the last evaluation."""
    first_rate: float | None
    """Learning rate of this process's first step, read back from the optimizer; None without a step."""
    highest_rate: float | None
    """Highest learning rate of this process's steps, read back from the optimizer."""
    resumed_from: Path | None


def no_report(event: Event) -> None:
    """Reports to nobody."""


def fit(
    network: nn.Layer,
    plan: Plan,
    *,
    batches: BatchSource,
    folder: Path,
    evaluate: Evaluate | None = None,
    world: World = ALONE,
    report: Report = no_report,
    resume: Path | None = None,
    stem: str = store.STEM,
    settings: Any = None,
) -> FitResult:
    """Train a network as planned, going on from a checkpoint if there is one. Every worker calls it alike.

    Args:
        network: its `loss(inputs, targets)` returns scalars with the total under "loss". One whose loss changes over the
            epochs has a `set_epoch(epoch)`, which is called before each.
        batches: of this worker.
        folder: of the run; rank 0 writes there, all may read.
        evaluate: scores the network as it is when called, on every worker at the same time; rank 0's scores count.
            None: the newest weights are the best.
        world: the workers.
        report: receives each event, after rank 0 has written it down: the same on every worker. What it raises ends the run.
        resume: checkpoint to go on from; a run's folder means its newest. None: the newest in `folder`, if there is one.
        stem: what the files of best_model are called.
        settings: plain values to store with every checkpoint.

    Raises:
        RaysegError: a loss is not a finite number.
        WeightsError: the checkpoint is damaged or does not fit.
        ConfigError: the plan does not fit the network, the data, the device or the checkpoint.
        DatasetError: an epoch ends early.
    """
    folder = Path(folder)
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        store.tidy(folder)
    per_epoch = _equal_everywhere(batches.steps_per_epoch, world)
    steps = plan.length if plan.unit == "iterations" else plan.length * math.ceil(per_epoch / plan.accumulate)
    curve = plan.curve(world.size, steps)
    images = plan.batch_size * world.size

    if plan.sync_bn and world.size > 1:
        network = world.synced(network)
    freeze(network, plan.freeze)
    world.broadcast(list(network.state_dict().values()))
    optimizer = make_optimizer(network, plan)
    weights = [parameter for parameter in network.parameters() if not parameter.stop_gradient]
    ema = Ema(network, kind=plan.ema[0], decay=plan.ema[1]) if plan.ema else None
    precision = Precision(plan.amp)

    standing, scores = Standing(seed=plan.seed), dict[str, float]()
    origin = _origin(folder, resume, world)
    changed: dict[str, Any] = {}
    if origin is not None:
        states = store.read_checkpoint(origin, network, optimizer, ema)
        changed = _changes(origin, states.plan, plan)
        standing, scores = states.standing, states.scores
        precision.load(states.scaler)
        if world.rank == 0:
            store.discard_newer(folder, standing)
            _keep_best(folder, origin, standing, stem)
    agreed: Any = world.agree(asdict(standing))
    standing = Standing(**agreed)

    journal = Journal(folder, after_step=standing.step) if world.rank == 0 else None
    begun, before = time.monotonic(), standing.seconds
    rates: list[float] = []
    window = Window()

    def tell(event: Event) -> None:
        if journal:
            journal(event)
        report(event)

    def seconds() -> float:
        """Spent on the run. Workers need one opinion where it decides anything."""
        spent = before + time.monotonic() - begun
        return float(str(world.agree(spent))) if plan.minutes else spent

    def progress(done: int) -> float:
        """Share of the run that is done, after so many batches of the present epoch; 1 or more when it is over."""
        by_length = standing.step if plan.unit == "iterations" else standing.epoch + done / per_epoch
        by_time = seconds() / (60 * plan.minutes) if plan.minutes else 0.0
        return max(by_length / plan.length, by_time)

    def log() -> None:
        """The losses since the last time; a run that has diverged ends here, before it is saved."""
        losses = window.take(world)
        event = {"event": "step", **_where(standing), "progress": round(share, 6), "seconds": round(seconds(), 1)}
        tell(event | {"rate": float(f"{rates[-1]:.6g}"), **{name: float(f"{value:.6g}") for name, value in losses.items()}})
        if not all(math.isfinite(value) for value in losses.values()):
            raise RaysegError(diverged(f"losses {losses} are not finite"))

    def diverged(what: str) -> str:
        return (
            f"step {standing.step}: {what}; training has diverged. Lower Train.learning_rate (the rate is {rates[-1]:.2g} now) "
            "or clip gradients (Train.clip=10), and start again: the run goes on from its last checkpoint, if there is one"
        )

    def score_and_save() -> None:
        if evaluate is not None:
            network.eval()
            with ema.in_place() if ema else nullcontext(), paddle.no_grad():
                found = evaluate(network)
            scores.clear()
            scores.update(_agreed(found, plan, world))
        if best := _is_best(scores, standing, plan):
            standing.best_score = scores.get(plan.metric)
            standing.best_epoch, standing.best_step = standing.epoch, standing.step
        standing.seconds = seconds()
        if scores:
            tell({"event": "evaluated", **_where(standing), **scores, "best": best})
        if world.rank == 0:
            state = States(standing, _plain(plan), settings, dict(scores), precision.state(), ema.steps if ema else None)
            place = store.write_checkpoint(folder, network, optimizer, ema, state, unit=plan.unit)
            if best:
                store.mark_best(folder, place, stem=stem)
            store.prune(folder, keep=plan.keep)
        world.barrier()
        path = store.place_of(folder, standing, plan.unit)
        tell({"event": "saved", **_where(standing), "path": str(path), "metrics": dict(scores), "best": best})

    facts: Event = {"workers": world.size, "global_batch": plan.global_batch(world.size)}
    facts |= {"steps": steps, "steps_per_epoch": per_epoch, "learning_rate": plan.learning_rate, "peak_rate": curve.peak}
    facts |= {"weights": sum(int(w.size) for w in weights), "precision": precision.dtype}
    tell({"event": "started", **_where(standing), **facts})
    if origin is not None:
        tell({"event": "resumed", **_where(standing), "path": str(origin), "changed": changed})

    share = progress(standing.images // images)
    while share < 1:
        start = standing.images // images
        if start >= per_epoch:  # another number of workers leaves out another rest
            standing.epoch, standing.images = standing.epoch + 1, 0
            share = progress(0)
            continue
        stream = batches(standing.epoch, start=start)
        set_training(network, plan.freeze)
        if hasattr(network, "set_epoch"):
            network.set_epoch(standing.epoch)
        for first in range(start, per_epoch, plan.accumulate):
            count = min(plan.accumulate, per_epoch - first)
            optimizer.set_lr(curve(share))
            rates.append(float(optimizer.get_lr()))
            for micro, batch in enumerate(_next(stream, count, standing, per_epoch)):
                seed_all(plan.seed, standing.step, micro, world.rank)
                try:
                    with averaging(world.all_reduce_mean if world.size > 1 else None, world.size):
                        losses = precision.losses(network, to_tensors(batch.inputs), to_tensors(batch.targets))
                except (ValueError, RuntimeError) as error:
                    if all(bool(paddle.isfinite(weight).all()) for weight in weights):
                        raise
                    raise RaysegError(diverged("weights are not finite")) from error  # some operators refuse NaN
                precision.backward(world.tied(losses["loss"]) / count)
                window.add(losses)
            average(weights, world)
            precision.unscale(optimizer)
            if plan.clip:
                clip(weights, *plan.clip)
            precision.step(optimizer)
            for weight in weights:
                weight.clear_gradient(False)  # none rather than zero: what the next step does not use does not decay
            if ema:
                ema.update()

            standing.step += 1
            standing.images = (first + count) * images
            if first + count == per_epoch:
                standing.epoch, standing.images = standing.epoch + 1, 0
            share = progress(standing.images // images)
            due = share >= 1 or _at_interval(standing, plan)
            if due or standing.step % plan.log_interval == 0:
                log()
            if due:
                score_and_save()
                set_training(network, plan.freeze)
            if share >= 1:
                break

    standing.seconds = seconds()
    best_place = folder / store.BEST
    result = FitResult(
        folder=folder,
        best=best_place if best_place.exists() else None,
        best_score=standing.best_score,
        best_epoch=standing.best_epoch,
        best_step=standing.best_step,
        epoch=standing.epoch,
        step=standing.step,
        seconds=standing.seconds,
        scores=scores,
        first_rate=rates[0] if rates else None,
        highest_rate=max(rates) if rates else None,
        resumed_from=origin,
    )
    tell({"event": "finished", **_where(standing), "seconds": round(standing.seconds, 1), "best_score": standing.best_score})
    return result


def _equal_everywhere(count: int, world: World) -> int:
    """The number of batches of an epoch. Workers that differ in it would wait for each other for ever."""
    first = int(str(world.agree(count)))
    off = paddle.to_tensor([float(abs(count - first))])
    world.all_reduce_mean([off])
    if off.item() > 0:
        raise DatasetError(f"rank {world.rank} has {count} batches in an epoch, rank 0 has {first}; every worker needs the same")
    if count < 1:
        raise DatasetError("an epoch has no batch: there are fewer images than one batch takes")
    return count


def _origin(folder: Path, resume: Path | None, world: World) -> Path | None:
    """The checkpoint to go on from, by rank 0's eyes unless each worker was given one."""
    if resume is not None:
        return store.find_checkpoint(Path(resume))
    newest = world.agree(str(store.latest(folder) or "") if world.rank == 0 else "")
    return Path(str(newest)) if newest else None


def _changes(origin: Path, was: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Settings that differ from the checkpoint's, as name: [was, is]; what would make it another run is refused."""
    now = _plain(plan)
    changed = {name: [was.get(name), now[name]] for name in now if was.get(name) != now[name]}
    for name in _KEPT_ON_RESUME:
        if name in changed:
            raise ConfigError(f"{origin}: was trained with {name} {changed[name][0]!r}, not {now[name]!r}; choose another folder")
    return changed


def _keep_best(folder: Path, origin: Path, standing: Standing, stem: str) -> None:
    """Make best_model and the standing agree: a kill may have come between the two, or the checkpoint is from elsewhere."""
    place = folder / store.BEST
    if standing.best_step == standing.step:
        if not place.exists() or store.read_states(place).standing.step != standing.step:
            store.mark_best(folder, origin, stem=stem)
    elif not place.exists():
        standing.best_score, standing.best_step, standing.best_epoch = None, -1, -1


def _next(stream: Iterator[Batch], count: int, standing: Standing, per_epoch: int) -> Iterator[Batch]:
    for _ in range(count):
        batch = next(stream, None)
        if batch is None:
            raise DatasetError(f"epoch {standing.epoch}: the data ended before the {per_epoch} batches they promised")
        yield batch


def _agreed(found: dict[str, float], plan: Plan, world: World) -> dict[str, float]:
    """Scores that every worker takes for its own."""
    scores: Any = world.agree({name: float(value) for name, value in found.items()})
    if plan.metric not in scores:
        raise ConfigError(f"the evaluation has no {plan.metric!r}; it has {sorted(scores)}")
    return dict(scores)


def _is_best(scores: dict[str, float], standing: Standing, plan: Plan) -> bool:
    """Whether these are the best scores so far; a score that is no number beats nothing but having none."""
    if not scores or standing.best_score is None:
        return True
    score, best = scores[plan.metric], standing.best_score
    return math.isnan(best) or (score > best if plan.mode == "max" else score < best)


def _at_interval(standing: Standing, plan: Plan) -> bool:
    if plan.unit == "iterations":
        return standing.step % plan.eval_interval == 0
    return standing.images == 0 and standing.epoch % plan.eval_interval == 0


def _where(standing: Standing) -> dict[str, int]:
    return {"epoch": standing.epoch, "step": standing.step}


def _plain(plan: Plan) -> dict[str, Any]:
    """As JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    return plain
