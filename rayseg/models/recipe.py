"""How a model of the zoo was trained, as values: what fine-tuning starts from.

Numbers are those of PaddleDetection's and PaddleSeg's configurations, which PaddleX trains with. Where a schedule
counted epochs or iterations it is told here as shares of the run, so that a shorter run keeps its shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Warmup:
    """A straight rise of the learning rate at the start."""

    share: float
    """Of the run."""
    start: float = 0.0
    """First rate as a share of the peak."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate after the warm-up, as a share of its peak.

    constant; step: times 0.1 at each of `milestones`; cosine: half a cosine that would reach 0 at `span`;
    poly: (1 - progress) to the power `power`.
    """

    kind: Literal["constant", "step", "cosine", "poly"]
    milestones: tuple[float, ...] = ()
    """Shares of the run."""
    span: float = 1.0
    """In runs: above 1 the cosine is cut before it reaches 0."""
    power: float = 1.0
    warmup: Warmup | None = None


@dataclass(frozen=True)
class Recipe:
    """Training settings of one model."""

    length: int
    unit: Literal["epochs", "iterations"]
    batch_size: int
    """Images per step, over all devices, that `learning_rate` was meant for."""
    learning_rate: float
    """At its peak."""
    optimizer: Literal["momentum", "adamw"]
    """Momentum is 0.9."""
    weight_decay: float
    schedule: Schedule
    augmentation: str
    """In words."""
    clip: tuple[Literal["global_norm", "norm"], float] | None = None
    """Gradients are cut at this norm: of all together, or of each tensor."""
    ema: tuple[Literal["exponential", "threshold"], float] | None = None
    """Average of the weights: how the decay grows, and its final value."""
    head_rate: float = 1.0
    """Factor on the rate of all but the backbone. Factors inside a backbone belong to its parameters."""
