"""What moves the weights: optimizer, learning-rate curve, and the running average of the weights (EMA)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn

from rayseg.errors import ConfigError


@dataclass(frozen=True)
class Cosine:
    """Learning rate over a run: a straight rise to `peak`, then half a cosine down to `peak * final`.

    It knows the run only as a fraction in [0, 1], so that a run may be measured in steps or in minutes.
    """

    peak: float
    warmup: float = 0.03
    """Share of the run spent rising."""
    final: float = 0.01
    """Last rate as a share of the peak."""

    def __post_init__(self) -> None:
        if not (self.peak > 0 and 0 <= self.warmup < 1 and 0 <= self.final <= 1):
            raise ConfigError(f"a rate curve needs peak > 0, warmup in [0, 1) and final in [0, 1], got {self}")

    def __call__(self, progress: float) -> float:
        """Rate when `progress` of the run is done."""
        progress = min(max(progress, 0.0), 1.0)
        if progress < self.warmup:
            return self.peak * progress / self.warmup
        down = (progress - self.warmup) / (1 - self.warmup)
        return self.peak * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * down)))


def make_optimizer(
    model: nn.Layer, *, kind: str, weight_decay: float, momentum: float = 0.9, clip_norm: float | None = None
) -> paddle.optimizer.Optimizer:
    """Optimizer over the trainable weights; its rate is set before every step.

    Args:
        kind: "momentum" (SGD with momentum, decay as an L2 term) or "adamw" (decoupled decay).
        weight_decay: left out for vectors, which are biases and norm parameters.
        clip_norm: largest norm of all gradients together.

    Raises:
        ConfigError: an unknown kind.
    """
    weights = [p for p in model.parameters() if not p.stop_gradient]
    clip = nn.ClipGradByGlobalNorm(clip_norm) if clip_norm else None
    if kind == "adamw":
        decayed = {p.name for p in weights if p.ndim > 1}
        return paddle.optimizer.AdamW(
            parameters=weights,
            weight_decay=weight_decay,
            apply_decay_param_fun=decayed.__contains__,
            grad_clip=clip,
        )
    if kind == "momentum":
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return paddle.optimizer.Momentum(momentum=momentum, parameters=groups, use_nesterov=True, grad_clip=clip)
    raise ConfigError(f"optimizer {kind!r} is unknown; choose adamw or momentum")


class Ema:
    """Exponential running average of everything in a model's state dict.

    Early on the average is short, `decay` being capped by (1 + t) / (10 + t) after t steps, so that it does not drag
    the random start along. That is the "threshold" kind of PaddleDetection's EMA. Counters and other whole numbers are
    copied.
    """

    def __init__(self, model: nn.Layer, *, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._model = model
        self._average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Take in the model's present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in self._model.state_dict().items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(tensor.detach(), 1 - decay)
            else:
                average.copy_(tensor, True)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The averaged weights under the model's names."""
        return {name: tensor.numpy() for name, tensor in self._average.items()}

    def load(self, state: dict[str, np.ndarray], *, steps: int) -> None:
        """Go on from an earlier average."""
        self.steps = steps
        for name, average in self._average.items():
            average.set_value(state[name])

    def copy_to(self, model: nn.Layer) -> None:
        """Give the averaged weights to a model of the same shape."""
        model.set_state_dict(self._average)
