"""Mixed precision on GPUs. Weights stay float32 at every level, so checkpoints and averages do not depend on it.

O1 runs what gains from it in the short type, O2 all but a list of operators that need the range. bfloat16 where the
device has it; float16 otherwise, with losses scaled so that small gradients do not vanish.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import paddle
from paddle import nn

from rayseg.errors import ConfigError


class Precision:
    """How one step computes: loss, backward, step."""

    def __init__(self, level: str) -> None:
        """Level: OFF, O1 or O2.

        Raises:
            ConfigError: an unknown level, or mixed precision on a device where Paddle would only warn and train without it.
        """
        if level not in ("OFF", "O1", "O2"):
            raise ConfigError(f"amp is {level!r}; choose OFF, O1 or O2")
        device = paddle.device.get_device()
        if level != "OFF" and not device.startswith("gpu"):
            raise ConfigError(f"amp is {level}, but Paddle has mixed precision on GPUs only and this is {device}; set it to OFF")
        self.level = level
        self.dtype = "float32"
        self._scaler: Any = None
        if level != "OFF":
            self.dtype = "bfloat16" if paddle.amp.is_bfloat16_supported() else "float16"
        if self.dtype == "float16":
            self._scaler = paddle.amp.GradScaler(init_loss_scaling=2.0**15)

    def losses(self, network: nn.Layer, inputs: Any, targets: Any) -> dict[str, paddle.Tensor]:
        """The network's losses."""
        context: AbstractContextManager[Any] = nullcontext()
        if self.level != "OFF":
            context = paddle.amp.auto_cast(level=self.level, dtype=self.dtype)
        with context:
            terms: dict[str, paddle.Tensor] = network.loss(inputs, targets)
        return terms

    def backward(self, loss: paddle.Tensor) -> None:
        """Add to the gradients."""
        loss = loss.astype("float32")
        (self._scaler.scale(loss) if self._scaler else loss).backward()

    def unscale(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Bring gradients back to their size, after they were averaged and before they are cut."""
        if self._scaler:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Move the weights; left out where a scaled gradient left the range of float16."""
        if self._scaler:
            self._scaler.step(optimizer)
            self._scaler.update()
        else:
            optimizer.step()

    def state(self) -> dict[str, float]:
        """Of the scaling, as plain numbers; empty without."""
        if not self._scaler:
            return {}
        held = self._scaler.state_dict()
        return {"scale": float(held["scale"].item()), "incr_count": held["incr_count"], "decr_count": held["decr_count"]}

    def load(self, state: dict[str, float]) -> None:
        """Go on from an earlier state; one of a run without scaling is empty, and leaves the start as it is."""
        if self._scaler and state:
            counts = {name: int(state[name]) for name in ("incr_count", "decr_count")}
            scale = np.array([state["scale"]], dtype=np.float32)
            self._scaler.load_state_dict({**self._scaler.state_dict(), **counts, "scale": scale})
