"""Ray Tune's news of trials, as events for people and as records on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune import Callback

from rayseg.tuning.records import Record, folder_of, read_record, with_history, write_record
from rayseg.tuning.workers import release

Report = Callable[[dict[str, Any]], None]


class Watching(Callback):
    """Writes down what only the driver knows: that a trial was stopped early, or that its process is gone.

    Args:
        report: called with each event: `event` is started, evaluated, stopped, failed, retried or done.
    """

    def __init__(self, out: Path, *, metric: str, report: Report) -> None:
        self._out, self._metric, self._report = out, metric, report

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A process trains it."""
        self._tell("started", trial, parameters=trial.config["parameters"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A score."""
        if "score" in result:
            self._tell("evaluated", trial, **{key: result[key] for key in ("evaluation", "epoch", "step", "score", "best")})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has ended, or its scheduler has ended it."""
        record = self._record(trial)
        if record.status == "running" and record.reason is None:
            reason = f"stopped after {(trial.last_result or {}).get('evaluation', 0)} evaluations"
            record = self._close(replace(record, status="stopped", reason=reason))
            self._release(trial)
        self._tell(record.status, trial, best=record.best_score)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed and is tried again."""
        self._release(trial)
        self._tell("retried", trial, reason=self._record(trial).reason or _lost(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed for good."""
        record = self._record(trial)
        record = self._close(replace(record, status="failed", reason=record.reason or _lost(trial)))
        self._release(trial)
        self._tell("failed", trial, reason=record.reason)

    def __getstate__(self) -> dict[str, Any]:
        return {"_out": self._out, "_metric": self._metric, "_report": nobody}

    def _record(self, trial: Any) -> Record:
        config = trial.config
        return read_record(self._out, config["id"]) or Record(config["id"], config["stage"], config["parameters"])

    def _release(self, trial: Any) -> None:
        release(folder_of(self._out, trial.config["id"]))

    def _close(self, record: Record) -> Record:
        record = with_history(self._out, record, metric=self._metric)
        write_record(self._out, record)
        return record

    def _tell(self, event: str, trial: Any, **what: Any) -> None:
        self._report({"event": event, "trial": trial.config["id"], **what})


def describe(event: dict[str, Any]) -> str:
    """One line of text."""
    rest = {key: value for key, value in event.items() if key not in ("event", "trial")}
    words = [f"{key}={f'{value:.5g}' if isinstance(value, float) else value}" for key, value in rest.items()]
    return " ".join([f"trial {event['trial']}", event["event"], *words])


def _lost(trial: Any) -> str:
    """A trial that could not say why itself."""
    error = trial.get_pickled_error() or trial.get_error()
    lines = [line for line in str(error or "").splitlines() if line.strip()]
    said = f" ({type(error).__name__}: {lines[0].strip()[:200]})" if lines else ""
    return f"the trial's process was lost; often the system kills it when memory runs out{said}"


def nobody(event: dict[str, Any]) -> None:
    """Reports to nobody."""
