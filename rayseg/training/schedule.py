"""The learning rate over a run, as a function of the share of the run that is done.

Shares rather than steps: a run of another length, of minutes, or on another number of workers keeps its shape. The
formulas are those PaddleDetection and PaddleSeg train with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayseg.errors import ConfigError
from rayseg.models.recipe import Schedule, Warmup

_ROUNDING = 1e-9
"""A milestone at 8 / 12 is reached by epoch 8 of 12 whatever the last bits say."""


@dataclass(frozen=True)
class Curve:
    """`rate = peak * warm-up * decay`, the decay being 1 until the warm-up ends (but for steps).

    With p the progress and w the share of the warm-up: constant is 1; step is 0.1 to the number of milestones passed;
    cosine is half a cosine over (p - w) / (span - w); poly is (1 - (p - w) / (1 - w)) ** power. Cosine and poly end at
    `final`, a share of the peak.
    """

    schedule: Schedule
    peak: float
    final: float = 0.0

    def __post_init__(self) -> None:
        warmup = self.schedule.warmup or Warmup(0.0)
        if not (self.peak > 0 and 0 <= warmup.share < 1 and 0 <= warmup.start <= 1 and 0 <= self.final <= 1):
            raise ConfigError(
                f"a learning rate needs a peak above 0, a warm-up shorter than the run that starts within 0 and 1, and an "
                f"end within 0 and 1 of the peak; got peak {self.peak}, {warmup}, end {self.final}"
            )
        if self.schedule.span < 1 or self.schedule.power < 0:
            raise ConfigError(f"span must be at least 1 and power at least 0, got {self.schedule}")

    def __call__(self, progress: float) -> float:
        """Rate when `progress` of the run is done; below 0 and above 1 as at the ends."""
        progress = min(max(progress, 0.0), 1.0)
        return self.peak * self._warmth(progress) * self._decay(progress)

    def _warmth(self, progress: float) -> float:
        warmup = self.schedule.warmup
        if warmup is None or progress >= warmup.share:
            return 1.0
        return warmup.start + (1 - warmup.start) * progress / warmup.share

    def _decay(self, progress: float) -> float:
        kind = self.schedule.kind
        if kind == "constant":
            return 1.0
        if kind == "step":
            return float(0.1 ** sum(progress + _ROUNDING >= milestone for milestone in self.schedule.milestones))
        warm = self.schedule.warmup.share if self.schedule.warmup else 0.0
        if kind == "cosine":
            down = max(progress - warm, 0.0) / (self.schedule.span - warm)
            return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * down))
        if kind == "poly":
            down = max(progress - warm, 0.0) / (1 - warm)
            return float(self.final + (1 - self.final) * (1 - down) ** self.schedule.power)
        raise ConfigError(f"schedule {kind!r} is unknown; choose constant, step, cosine or poly")
