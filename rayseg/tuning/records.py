"""What is known of each trial, in one small file in its folder: OUT/trials/<id>/trial.json. These files are the only truth about
what is done; a search that is started again reads them, and Ray's own notes are thrown away.

OUT/tune.json says what was asked; a search with other settings is refused.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rayseg.config.train import Settings
from rayseg.errors import JobMismatch, OutputError
from rayseg.training.journal import read_history
from rayseg.tuning.points import Parameters, Point

TRIALS, NAME, ASKED = "trials", "trial.json", "tune.json"
Status = Literal["running", "done", "stopped", "failed"]
FREE = {
    "Global": ("mode", "output", "device"),
    "Cluster": ("address", "num_cpus", "use_gpu", "cpus_per_worker", "gpus_per_worker", "max_failures", "storage_path"),
    "Search": ("max_concurrent_trials", "max_failures"),
    "CheckDataset": None,
    "Export": None,
    "Predict": None,
}
"""What may differ when a search goes on; None: the whole section."""


@dataclass(frozen=True)
class Record:
    """One trial."""

    id: str
    stage: int
    parameters: Parameters
    status: Status = "running"
    """done: trained to its end; stopped: early, as the weaker one; failed: see `reason`."""
    reason: str | None = None
    best_score: float | None = None
    best_epoch: int | None = None
    best_step: int | None = None
    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Of training, over all restarts."""
    first_rate: float | None = None
    """Learning rate of the first step of the process that ended the trial, read back from the optimizer."""
    first_rate_step: int | None = None
    """Steps before that one: 0 unless the trial was taken up again."""
    highest_rate: float | None = None
    """As `first_rate`; or one that is in the log, if that is higher or the trial has no end."""
    workers: int = 1
    gpus: float = 0.0
    """Of each worker."""
    same_as: str | None = None
    """The trial with the very same settings whose outcome this is; nothing was run."""
    scores: list[dict[str, Any]] = field(default_factory=list)
    """One entry an evaluation: evaluation, epoch, step, seconds and what was measured."""


def folder_of(out: Path, trial: str) -> Path:
    """Where a trial trains."""
    return out / TRIALS / trial


def read_record(out: Path, trial: str) -> Record | None:
    """What is known of a trial; None before it was begun.

    Raises:
        OutputError: the file is not ours.
    """
    path = folder_of(out, trial) / NAME
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{path}: not the record of a trial ({error}); remove the folder to run the trial again") from error


def write_record(out: Path, record: Record) -> None:
    """The file is whole or as it was."""
    write_json(folder_of(out, record.id) / NAME, asdict(record))


def read_stage(out: Path, stage: int) -> list[Record]:
    """All trials of a stage that were begun, by number."""
    names = sorted(path.parent.name for path in (out / TRIALS).glob(f"{stage}-*/{NAME}"))
    return [record for name in names if (record := read_record(out, name)) is not None]


def begun(out: Path, point: Point) -> Record:
    """The record of a trial that is about to run, or did.

    Raises:
        OutputError: the folder has a trial of that name with other parameters.
    """
    found = read_record(out, point.id)
    if found is None:
        return Record(point.id, point.stage, point.parameters)
    if found.parameters != point.parameters:
        raise OutputError(
            f"{folder_of(out, point.id)}: holds a trial with {found.parameters}, this search has {point.parameters} there; "
            "a trial of an earlier stage may have been removed. Give another Global.output"
        )
    return found


def _highest(rate: float | None, logged: Sequence[float]) -> float | None:
    """Logged rates are rounded to six digits, so that only a higher one counts, not a rounded one."""
    top = max(logged, default=None)
    return top if rate is None or (top is not None and top > rate * (1 + 1e-5)) else rate


def taken_over(former: Record, point: Point) -> Record:
    """The record of a point whose outcome is another trial's."""
    return replace(former, id=point.id, stage=point.stage, parameters=point.parameters, same_as=former.id)


def with_history(out: Path, record: Record, *, metric: str) -> Record:
    """The record with what the trial's own log says of it: scores, length, time, rates."""
    folder = folder_of(out, record.id)
    events = read_history(folder)
    scores = evaluations(events, metric)
    rates = [event["rate"] for event in events if event["event"] == "step" and "rate" in event]
    best = next((score for score in reversed(scores) if score.get("best") and score["score"] is not None), None)
    first = next((event for event in events if event["event"] == "step" and event["step"] == 1), None)
    last = events[-1] if events else {}
    return replace(
        record,
        scores=scores,
        epochs=max(record.epochs, last.get("epoch", 0)),
        steps=max(record.steps, last.get("step", 0)),
        seconds=record.seconds or max((event.get("seconds", 0.0) for event in events), default=0.0),
        best_score=record.best_score if record.best_score is not None or best is None else best["score"],
        best_epoch=record.best_epoch if record.best_epoch is not None or best is None else best["epoch"],
        best_step=record.best_step if record.best_step is not None or best is None else best["step"],
        first_rate=record.first_rate if record.first_rate is not None or first is None else first["rate"],
        first_rate_step=record.first_rate_step if record.first_rate_step is not None or first is None else 0,
        highest_rate=_highest(record.highest_rate, rates),
    )


def evaluations(events: Sequence[Mapping[str, Any]], metric: str, *, until_step: int | None = None) -> list[dict[str, Any]]:
    """The evaluations among a run's events, numbered from 1, with the metric's value under `score` too.

    Args:
        until_step: later ones are left out, as a run that goes on from a checkpoint forgets them.
    """
    out: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "evaluated" and (until_step is None or event["step"] <= until_step):
            measured = {key: value for key, value in event.items() if key != "event"}
            out.append({"evaluation": len(out) + 1, "score": event.get(metric), **measured})
    return out


def claim(out: Path, settings: Settings) -> None:
    """Make the folder this search's, or see that it is.

    Raises:
        JobMismatch: it belongs to a search with other settings; they are named.
        OutputError: it cannot be written, or holds a tune.json that is not ours.
    """
    path, wanted = out / ASKED, _identity(settings)
    if not path.exists():
        try:
            write_json(path, wanted)
        except OSError as error:
            raise OutputError(f"{out}: cannot write there ({error.strerror}); name another Global.output") from error
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        different = [
            f"{section}.{key} was {found[section].get(key)!r}, is {value!r}"
            for section, values in wanted.items()
            for key, value in values.items()
            if found[section].get(key) != value
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{path}: not a search of rayseg ({error!r}); name another Global.output") from error
    if different:
        raise JobMismatch(f"{out} belongs to a search with other settings: {'; '.join(different)}. Name another Global.output")


def write_json(path: Path, values: Any) -> None:
    """The file is whole or as it was; numbers that are none become null, as other readers want it."""
    write_text(path, json.dumps(_finite(values), indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """The file is whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _identity(settings: Settings) -> dict[str, dict[str, Any]]:
    out = {}
    for section, values in settings.to_mapping().items():
        free = FREE.get(section, ())
        if free is not None:
            out[section] = {key: value for key, value in values.items() if key not in free}
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(out))
    return plain


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
