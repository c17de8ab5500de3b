"""Which trials are stopped early: Ray's rules, told of what was before this run, and kept from stopping a trial that is over.

Ray's schedulers forget when their driver dies. Here the records of trials are played to them first, so that a trial is compared
with all others of its stage, whenever those ran.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from rayseg.config.search import SearchSettings

Result = dict[str, Any]
CLOCK = "evaluation"
"""What is counted, in each result."""


def scheduler(
    search: SearchSettings, *, evaluations: int, past: Mapping[str, Sequence[Result]], over: Sequence[str]
) -> TrialScheduler:
    """The scheduler of a stage.

    Args:
        evaluations: of the longest trial.
        past: results by trial, of trials that were begun in an earlier run.
        over: those of them that are not run again.
    """
    if search.scheduler == "none":
        return FIFOScheduler()
    inner: TrialScheduler
    if search.scheduler == "asha":
        inner = ASHAScheduler(
            time_attr=CLOCK,
            max_t=evaluations,
            grace_period=search.grace_period,
            reduction_factor=search.reduction_factor,
            stop_last_trials=False,
        )
    else:
        # Paused trials would give their place to others and begin again; ours only stop or go on
        inner = MedianStoppingRule(time_attr=CLOCK, grace_period=search.grace_period, min_time_slice=float("inf"))
    return Remembering(inner, past, over)


@dataclass(frozen=True)
class Former:
    """Stands for a trial of an earlier run."""

    trial_id: str


class Remembering(TrialScheduler):
    """A scheduler that knows what happened before it was made."""

    def __init__(self, inner: TrialScheduler, past: Mapping[str, Sequence[Result]], over: Sequence[str]) -> None:
        super().__init__()
        self._inner, self._past, self._over = inner, {k: list(v) for k, v in past.items()}, list(over)
        self._condemned: set[str] = set()

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Ray calls this once, before any trial; trials that are over are played here."""
        known = bool(self._inner.set_search_properties(metric, mode, **spec))
        for trial in self._over:
            former, results = Former(trial), self._past.get(trial, [])
            self._play(former, results)
            if results:
                self._inner.on_trial_complete(None, former, results[-1])
        return known

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial that is taken up again brings its earlier results; what they say of it holds from its next one."""
        if self._play(trial, self._past.get(trial.config["id"], []), controller=tune_controller):
            self._condemned.add(trial.trial_id)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Result) -> str:
        """Whether the trial goes on."""
        if trial.trial_id in self._condemned:  # its scheduler wants to hear no more of it
            stop = True
        else:
            stop = self._inner.on_trial_result(tune_controller, trial, result) != TrialScheduler.CONTINUE
        return str(TrialScheduler.STOP if stop and not result.get("last") else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Result) -> None:
        """Passed on."""
        if "score" in result:
            self._inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Passed on."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Passed on."""
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Passed on."""
        return self._inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """Passed on."""
        return str(self._inner.debug_string())

    def _play(self, trial: Any, results: Sequence[Result], *, controller: Any = None) -> bool:
        """Tell of a trial's results until one would have stopped it; returns whether one did."""
        self._inner.on_trial_add(controller, trial)
        decisions = (self._inner.on_trial_result(controller, trial, r) for r in results if r.get("score") is not None)
        return any(decision != TrialScheduler.CONTINUE for decision in decisions)
