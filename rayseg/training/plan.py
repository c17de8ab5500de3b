"""Everything the loop is told, in one value: no default of the zoo and no setting of the command line is left open.

`plan_from` reads it off the settings of a run and its model's row in the zoo; tests and the demo make it by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, cast

from rayseg.config.train import Settings
from rayseg.errors import ConfigError
from rayseg.models.recipe import Schedule, Warmup
from rayseg.models.zoo import find_model
from rayseg.training.schedule import Curve

T = TypeVar("T")
_OTHER_SHAPES = {
    "constant": Schedule("constant"),
    "step": Schedule("step", milestones=(2 / 3, 11 / 12)),
    "cosine": Schedule("cosine"),
    "poly": Schedule("poly", power=0.9),
}
"""Of schedules that are not the recipe's."""


@dataclass(frozen=True)
class Plan:
    """How one network is trained."""

    length: int
    """Epochs or iterations."""
    unit: Literal["epochs", "iterations"]
    """An iteration is one step of the optimizer."""
    batch_size: int
    """Images of one worker in one micro-step."""
    learning_rate: float
    """At its peak."""
    rate_batch: int | None = None
    """Images per step that `learning_rate` is meant for: the rate used grows with the global batch. None: it is used as it is."""
    accumulate: int = 1
    """Micro-steps whose gradients make one step."""
    schedule: Schedule = field(default_factory=lambda: Schedule("constant"))
    warmup_steps: int | None = None
    """In place of the share the schedule has; 0 for no warm-up."""
    final_rate: float = 0.0
    """Share of the peak that cosine and poly end at."""
    optimizer: Literal["momentum", "adamw"] = "momentum"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: tuple[Literal["global_norm", "norm"], float] | None = None
    """Gradients are cut at this norm, of all together or of each tensor."""
    ema: tuple[Literal["exponential", "threshold"], float] | None = None
    """Kind and final decay of the average of the weights, which is what is evaluated and kept."""
    head_rate: float = 1.0
    """Factor on the rate of parameters outside the backbone."""
    freeze: tuple[str, ...] = ()
    """Beginnings of names of parameters that do not train."""
    amp: Literal["OFF", "O1", "O2"] = "OFF"
    sync_bn: bool = True
    """Batch norms are computed over all workers."""
    seed: int = 0
    minutes: float | None = None
    """The run ends after so much time, however much of its length is left; the schedule follows whichever is further."""
    eval_interval: int = 1
    """Epochs or iterations between evaluations. A checkpoint is written at each."""
    log_interval: int = 10
    """Steps between log lines."""
    keep: int = 3
    """Newest checkpoints kept, besides the best."""
    metric: str = "score"
    """Which of the scores decides what is best."""
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "accumulate", "eval_interval", "log_interval", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name, value in (("learning_rate", self.learning_rate), ("head_rate", self.head_rate), ("minutes", self.minutes)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        for name, value in (("weight_decay", self.weight_decay), ("seed", self.seed), ("warmup_steps", self.warmup_steps or 0)):
            if value < 0:
                raise ConfigError(f"{name} is {value}; it must not be negative")
        if self.clip is not None and (self.clip[0] not in ("global_norm", "norm") or not self.clip[1] > 0):
            raise ConfigError(f"clip is {self.clip}; give global_norm or norm, and a norm above 0")

    def global_batch(self, workers: int) -> int:
        """Images of one step over all workers."""
        return self.batch_size * self.accumulate * workers

    def peak_rate(self, workers: int) -> float:
        """The highest rate of the run: scaled with the global batch where `rate_batch` says what it is meant for."""
        return self.learning_rate * (self.global_batch(workers) / self.rate_batch if self.rate_batch else 1.0)

    def curve(self, workers: int, steps: int) -> Curve:
        """The rate over a run of so many steps.

        Raises:
            ConfigError: the warm-up is not shorter than the run.
        """
        schedule = self.schedule
        if self.warmup_steps is not None:
            if self.warmup_steps >= steps:
                raise ConfigError(
                    f"warmup_steps is {self.warmup_steps}, but the whole run has {steps} steps; make it smaller or the run longer"
                )
            start = schedule.warmup.start if schedule.warmup else 0.0
            schedule = replace(schedule, warmup=Warmup(self.warmup_steps / steps, start) if self.warmup_steps else None)
        return Curve(schedule, self.peak_rate(workers), self.final_rate)


def plan_from(settings: Settings) -> Plan:
    """The plan of effective settings (`rayseg.models.defaults.effective`).

    Raises:
        ModelError: a model that is not in the zoo.
        ConfigError: a setting is out of range.
    """
    row, train = find_model(settings.general.model), settings.train
    recipe = row.recipe
    schedule = recipe.schedule
    if (kind := _given(train.schedule, "schedule")) != schedule.kind:
        # The warm-up is the recipe's whatever follows it.
        schedule = replace(_OTHER_SHAPES[kind], warmup=schedule.warmup)
    return Plan(
        length=_given(train.epochs_iters, "epochs_iters"),
        unit=recipe.unit,
        batch_size=_given(train.batch_size, "batch_size"),
        learning_rate=_given(train.learning_rate, "learning_rate"),
        rate_batch=recipe.batch_size if train.scale_rate else None,
        accumulate=train.accumulate_steps,
        schedule=schedule,
        warmup_steps=train.warmup_steps,
        optimizer=cast(Any, _given(train.optimizer, "optimizer")),
        weight_decay=_given(train.weight_decay, "weight_decay"),
        clip=(recipe.clip[0] if recipe.clip else "global_norm", train.clip) if train.clip else None,
        ema=(recipe.ema[0] if recipe.ema else "threshold", _given(train.ema_decay, "ema_decay")) if train.ema else None,
        head_rate=recipe.head_rate,
        freeze=tuple(train.freeze),
        amp=cast(Any, train.amp),
        sync_bn=train.sync_bn,
        seed=train.seed,
        eval_interval=_given(train.eval_interval, "eval_interval"),
        log_interval=train.log_interval,
        keep=train.keep_checkpoints,
        metric=_given(settings.search.metric, "metric", section="Search"),
        mode=cast(Any, settings.search.mode),
    )


def _given(value: T | None, name: str, *, section: str = "Train") -> T:
    if value is None:
        raise ConfigError(f"{section}.{name} is open; `effective` fills in what the model's recipe says")
    return value
