"""Proof that a trial trained with what it was asked to: its settings as it stored them, and the rates that were in the optimizer.

The rates are worked out again here, from the settings alone, and compared with those that the loop read back from the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayseg.config.train import Settings, load_settings
from rayseg.errors import RaysegError
from rayseg.training.loop import Event, FitResult
from rayseg.training.plan import Plan, plan_from
from rayseg.training.schedule import Curve
from rayseg.tuning.points import plain_value, value_of

TOLERANCE = 1e-5
"""Of a rate, relative; logged ones have six digits."""


class Proof:
    """Follows one trial through its events.

    Args:
        settings: the trial's, effective.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._plan: Plan = plan_from(settings)
        self._curve: Curve | None = None
        self._steps, self._per_epoch = 0, 1
        self._steady = len(set(settings.worker_range())) == 1
        self.begins_at = 0
        """Steps that were done before this process began."""

    def __call__(self, event: Event) -> None:
        """Look at an event.

        Raises:
            RaysegError: the optimizer had another rate than the settings ask for.
        """
        if event["event"] == "started":
            self._steps, self._per_epoch = event["steps"], event["steps_per_epoch"]
            self._curve = self._plan.curve(event["workers"], self._steps)
            self.begins_at = event["step"]
        elif event["event"] == "step" and "rate" in event:
            self._compare("rate", event["rate"], event["step"] - 1)

    def finish(self, result: FitResult, asked: Mapping[str, Any]) -> None:
        """Look at a run that has ended.

        Args:
            asked: the trial's parameters, by `Section.key`.

        Raises:
            RaysegError: the stored settings or the rates are not what was asked for.
        """
        check_settings(result.folder, self._settings, asked)
        if self._curve is None or result.first_rate is None or result.highest_rate is None:
            return
        self._compare("first rate", result.first_rate, self.begins_at)
        if self._steady:
            highest = max((self._expected(step) for step in range(self.begins_at, result.step)), default=result.highest_rate)
            _equal("highest rate", result.highest_rate, highest)

    def _compare(self, what: str, rate: float, step: int) -> None:
        if self._curve is None:
            return
        if self._steady:
            _equal(f"{what} of step {step + 1}", rate, self._expected(step))
        elif rate > self._curve.peak * (1 + TOLERANCE):
            raise RaysegError(f"{what} of step {step + 1}: the optimizer had {rate:.6g}, above the peak {self._curve.peak:.6g}")

    def _expected(self, step: int) -> float:
        """The rate after so many steps, of a run whose number of workers does not change."""
        assert self._curve is not None
        plan = self._plan
        if plan.unit == "iterations":
            return self._curve(step / plan.length)
        each = math.ceil(self._per_epoch / plan.accumulate)
        epoch, inside = divmod(step, each)
        return self._curve((epoch + inside * plan.accumulate / self._per_epoch) / plan.length)


def check_settings(folder: Path, settings: Settings, asked: Mapping[str, Any]) -> None:
    """Compare what a run has stored as its settings with what it was given, and with the parameters one by one.

    Raises:
        RaysegError: they differ; what and how is named.
    """
    stored = load_settings(folder / "config.yaml")
    for key, value in asked.items():
        found = plain_value(value_of(stored, key))
        if found != plain_value(value):
            raise RaysegError(f"{folder}: trained with {key} {found!r}, but {value!r} was asked for")
    wanted = settings.to_mapping()
    for section, values in stored.to_mapping().items():
        for name, found in values.items():
            if found != wanted[section][name]:
                raise RaysegError(
                    f"{folder}: trained with {section}.{name} {found!r}, but {wanted[section][name]!r} was asked for"
                )


def _equal(what: str, found: float, wanted: float) -> None:
    if not math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=1e-12):
        raise RaysegError(f"{what}: the optimizer had {found:.6g}, the settings ask for {wanted:.6g}; its score tells nothing")
