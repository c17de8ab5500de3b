"""What the process of one trial does: train into the trial's folder as `rayseg train` does, tell Ray Tune each score, and prove
that it trained with what it was asked to.

A trial of one worker trains right here, with the CPUs and GPUs it has reserved; one of several starts workers through Ray Train.
"""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from rayseg.config.train import Settings
from rayseg.errors import OutputError
from rayseg.pipeline.lock import locked
from rayseg.pipeline.storage import Store
from rayseg.training.journal import read_history
from rayseg.tuning.points import Point, trial_settings
from rayseg.tuning.records import Record, begun, evaluations, folder_of, with_history, write_record
from rayseg.tuning.room import Room

if TYPE_CHECKING:
    from rayseg.training.loop import Event, FitResult, Report

log = logging.getLogger(__name__)
Train = Callable[[Settings, "Report"], "FitResult"]
"""Trains into `Global.output` as `rayseg.training.run.train` does."""
PATIENCE_S = 60.0
"""With the process of an earlier run of the search that still trains the trial."""
SHARED_GPU = {"FLAGS_allocator_strategy": "auto_growth"}
"""Paddle otherwise takes most of a GPU's memory for itself."""


def run_trial(config: dict[str, Any], *, base: dict[str, Any], out: str, room: Room, train: Train | None = None) -> None:
    """Train one trial; Ray Tune calls it in a process of its own.

    Args:
        config: id, stage and parameters of a point.
        base: the settings of the search, without the parameters.
        out: absolute path of the search's folder, which all machines see.
        train: see `rayseg.tuning.search.tune`.

    Raises:
        RaysegError: whatever training raises, or the proof. The reason is written into the trial's record first.
    """
    if 0 < room.resources.gpus < 1:
        os.environ.update({key: os.environ.get(key, value) for key, value in SHARED_GPU.items()})  # before Paddle is loaded
    for message in ("No ccache found", "When training, we now always track"):  # Paddle, on import and for each network trained
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    point = Point(config["id"], config["stage"], config["parameters"])
    record = replace(begun(Path(out), point), status="running", reason=None)
    try:
        done = _train(Path(out), record, Settings.from_mapping(base), room, train)
    except Exception as error:
        write_record(Path(out), replace(record, reason=reason_of(error)))
        raise
    write_record(Path(out), done)


def reason_of(error: BaseException) -> str:
    """In one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _train(out: Path, record: Record, base: Settings, room: Room, train: Train | None) -> Record:
    from rayseg.tuning.proof import Proof

    folder = folder_of(out, record.id)
    settings = trial_settings(base, record.parameters, folder=folder, resources=room.resources)
    proof, wrong = Proof(settings), list[Exception]()
    metric, mode = str(settings.search.metric), settings.search.mode
    number, steps = 0, 0
    best: float | None = None

    def tell(event: Event) -> None:
        nonlocal number, best, steps
        try:
            proof(event)
        except Exception as error:
            wrong.append(error)
            if room.direct:
                raise
        if event["event"] == "started":
            steps = event["steps"]
            past = evaluations(read_history(folder), metric, until_step=event["step"])
            number, best = len(past), best_of([entry["score"] for entry in past], mode)
        if event["event"] == "saved" and metric in event["metrics"]:
            number += 1
            score = float(event["metrics"][metric])
            best = best_of([best, score], mode)
            # Asked once more than needed at the end: the last score must not stop what is done
            place = {"evaluation": number, "epoch": event["epoch"], "step": event["step"], "last": event["step"] >= steps}
            tune.report({"score": score, "best": score if best is None else best, **place})

    with _alone(folder, hold=room.direct):
        result = train(settings, tell) if train else _run(settings, tell, direct=room.direct)
    if wrong:
        raise wrong[0]
    proof.finish(result, record.parameters)
    return with_history(
        out,
        replace(
            record,
            status="done",
            best_score=finite(result.best_score),
            best_epoch=result.best_epoch,
            best_step=result.best_step,
            epochs=result.epoch,
            steps=result.step,
            seconds=round(result.seconds, 3),
            first_rate=result.first_rate,
            first_rate_step=None if result.first_rate is None else proof.begins_at,
            highest_rate=result.highest_rate,
        ),
        metric=metric,
    )


def _run(settings: Settings, tell: Any, *, direct: bool) -> FitResult:
    if direct:
        from rayseg.training.run import train

        return train(settings, report=tell)
    from rayseg.tuning.workers import train_noted

    return train_noted(settings, tell)


@contextmanager
def _alone(folder: Path, *, hold: bool) -> Iterator[None]:
    """No other process trains into the folder. After a driver was killed, its trials take a few seconds to die.

    Args:
        hold: keep the lock; else whoever trains takes it.

    Raises:
        OutputError: one still does after a minute.
    """
    store, patience_s = Store(str(folder)), time.monotonic() + PATIENCE_S
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(store))
            except OutputError:
                if time.monotonic() > patience_s:
                    raise
            else:
                if not hold:
                    stack.close()
                yield
                return
        time.sleep(0.5)


def best_of(scores: list[float | None], mode: str) -> float | None:
    """The best that is a number."""
    numbers = [score for score in scores if score is not None and math.isfinite(score)]
    if not numbers:
        return None
    return max(numbers) if mode == "max" else min(numbers)


def finite(score: float | None) -> float | None:
    """None for what is no number."""
    return score if score is not None and math.isfinite(score) else None
