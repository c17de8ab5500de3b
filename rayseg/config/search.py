"""The section Search: which settings are tried, with what values, and how trials are chosen and stopped.

Whether a setting exists and takes such a value is checked in train.py, which knows the sections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayseg.config.checks import at_least, one_of
from rayseg.config.load import nearest
from rayseg.errors import ConfigError

KINDS = ("grid", "choice", "uniform", "loguniform", "randint")
RANGES = ("uniform", "loguniform", "randint")
SEARCHERS = ("random", "grid", "optuna")
SCHEDULERS = ("none", "asha", "median")
SEARCHED_BESIDES_TRAIN = ("Global.model", "Global.train_annotations")
"""What decides how well a network is trained: these, and the section Train. The rest says where things are, how trials are
scored, which has to be the same for all, or what a trial may use of the cluster, which they share."""
NOT_SEARCHED = {
    "Train.resume_path": "it goes on with one run; every trial starts from Train.pretrain_weight_path",
    "Train.log_interval": "it changes nothing of what is trained",
    "Train.keep_checkpoints": "it changes nothing of what is trained",
    "Train.workers": "it changes nothing of what is trained",
    "Train.num_classes": "it is the data's",
}
"""Settings of Train that no search is about, and why."""


@dataclass(frozen=True)
class Dimension:
    """The values one setting may take."""

    kind: str
    """grid: each in turn; choice: one of them drawn; uniform, loguniform, randint: drawn from a range."""
    values: tuple[Any, ...]
    """Of a range: its two ends; randint leaves out the upper."""

    def __post_init__(self) -> None:
        one_of("kind of dimension", self.kind, KINDS)
        if not self.values:
            raise ConfigError(f"a dimension {self.kind} needs values, got an empty list")
        if self.kind in RANGES:
            self._check_range()

    def _check_range(self) -> None:
        wanted = (int,) if self.kind == "randint" else (int, float)
        numbers = all(isinstance(v, wanted) and not isinstance(v, bool) for v in self.values)
        if len(self.values) != 2 or not numbers or not self.values[0] < self.values[1]:
            what = "whole numbers" if self.kind == "randint" else "numbers"
            raise ConfigError(f"{self.kind} {list(self.values)}: expected [low, high], two {what} with low < high")
        if self.kind == "loguniform" and self.values[0] <= 0:
            raise ConfigError(f"loguniform {list(self.values)}: both ends must be above 0")

    def probes(self) -> tuple[Any, ...]:
        """Values that stand for all: if the setting takes these, it takes any that may be drawn."""
        if self.kind == "randint":
            return (self.values[0], self.values[1] - 1)
        return self.values if self.kind not in RANGES else tuple(float(v) for v in self.values)

    def to_plain(self) -> Any:
        """As it is written in YAML."""
        values = [list(v) if isinstance(v, tuple) else v for v in self.values]
        return values if self.kind == "grid" else {self.kind: values}


@dataclass(frozen=True)
class SearchSettings:
    """A search over settings of Train, the model, or the annotations it is trained on."""

    space: tuple[dict[str, Dimension], ...] = ()
    """Stages, one after another; each begins with the best settings of the one before. Keys such as Train.learning_rate."""
    num_samples: int = 1
    """How many are drawn; how often each point is repeated where all is grid, with Train.seed one higher each time."""
    searcher: str = "random"
    """random: grids are crossed and the rest is drawn; grid: nothing is drawn; optuna: learns from earlier trials."""
    scheduler: str = "none"
    """none, or what stops weak trials early: asha, median."""
    grace_period: int = 1
    """Evaluations before a trial may be stopped."""
    reduction_factor: int = 3
    """asha: one in so many goes on."""
    max_concurrent_trials: int | None = None
    """None: as many as the cluster has room for."""
    metric: str | None = None
    """None: mask AP or mean IoU."""
    mode: str = "max"
    """max or min: which end of the metric is better."""
    seed: int = 0
    """Of what is drawn."""
    max_failures: int = 0
    """How often a trial that failed is tried again, from its last checkpoint."""

    def __post_init__(self) -> None:
        one_of("Search.searcher", self.searcher, SEARCHERS)
        one_of("Search.scheduler", self.scheduler, SCHEDULERS)
        one_of("Search.mode", self.mode, ("max", "min"))
        for name in ("num_samples", "grace_period", "max_concurrent_trials"):
            at_least(f"Search.{name}", getattr(self, name), 1)
        at_least("Search.reduction_factor", self.reduction_factor, 2)
        at_least("Search.seed", self.seed, 0)
        at_least("Search.max_failures", self.max_failures, 0)
        if not all(self.space):
            raise ConfigError("Search.space holds a stage without settings; drop it")
        for stage in self.space:
            self._check_searcher(stage)

    def _check_searcher(self, stage: Mapping[str, Dimension]) -> None:
        drawn = [key for key, dimension in stage.items() if dimension.kind != "grid"]
        if self.searcher == "grid" and drawn:
            raise ConfigError(
                f"Search.searcher is grid, but {drawn[0]} is drawn ({stage[drawn[0]].kind}); list its values, or use random"
            )
        if self.searcher == "optuna" and len(drawn) < len(stage):
            key = next(key for key in stage if key not in drawn)
            raise ConfigError(f"Search.searcher optuna draws values and cannot cross grids; write {key}: {{choice: [...]}}")


def parse_space(given: Any, *, where: str) -> tuple[dict[str, Dimension], ...]:
    """`Search.space` as it stands in a file: one mapping, or a list of them, of setting to list or `{kind: list}`.

    Raises:
        ConfigError: anything else, or a dimension that cannot be.
    """
    stages = given if isinstance(given, (list, tuple)) else [given] if given else []
    if not all(isinstance(stage, Mapping) for stage in stages):
        raise ConfigError(f"{where}: expected `Section.key: [values]` lines, or a list of such mappings, got {given!r}")
    return tuple({str(key): _dimension(value, f"{where}: {key}") for key, value in stage.items()} for stage in stages)


def _dimension(given: Any, where: str) -> Dimension:
    if isinstance(given, Dimension):
        return given
    if isinstance(given, (list, tuple)):
        given = {"grid": given}
    if not isinstance(given, Mapping) or len(given) != 1:
        raise ConfigError(
            f"{where}: expected a list of values, or one of {', '.join(KINDS)} such as {{loguniform: [1e-5, 1e-3]}}"
        )
    (kind, values), *_ = given.items()
    if kind not in KINDS:
        raise ConfigError(f"{where}: unknown kind {kind!r}{nearest(str(kind), KINDS)}")
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"{where}: {kind} needs a list, got {values!r}")
    try:
        return Dimension(kind, tuple(tuple(v) if isinstance(v, list) else v for v in values))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
