"""The running average of a network's weights (EMA), which predicts better than the weights of any one step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import numpy as np
import paddle
from paddle import nn

from rayseg.errors import ConfigError, WeightsError

GAMMA = 2000.0
"""Steps in which the decay of the exponential kind comes within 1 / e of its final value; PaddleDetection's."""
RUNNING_STATISTICS = ("_mean", "_variance")
"""How the state of a batch norm is called."""


class Ema:
    """average = decay * average + (1 - decay) * weights, after every step, starting from the weights at the start.

    The decay grows, so that the start is soon forgotten. After t earlier steps it is
    threshold: min(decay, (1 + t) / (10 + t)); exponential: decay * (1 - exp(-(t + 1) / 2000)).
    Parameters that do not train and whole numbers are not averaged but taken as they are; running statistics of
    batch norms are averaged.
    """

    def __init__(self, network: nn.Layer, *, kind: Literal["exponential", "threshold"], decay: float) -> None:
        if kind not in ("exponential", "threshold"):
            raise ConfigError(f"the average of weights {kind!r} is unknown; choose exponential or threshold")
        if not 0 <= decay < 1:
            raise ConfigError(f"the decay of the average of weights is {decay}; it must be in [0, 1)")
        self.kind = kind
        self.decay = decay
        self.steps = 0
        self._network = network
        # Paddle lists running statistics among the parameters that do not train.
        fixed = {
            name
            for name, parameter in network.named_parameters()
            if parameter.stop_gradient and not name.endswith(RUNNING_STATISTICS)
        }
        self._average = {
            name: tensor.detach().clone()
            for name, tensor in network.state_dict().items()
            if name not in fixed and tensor.is_floating_point()
        }

    def next_decay(self) -> float:
        """Of the next update."""
        if self.kind == "threshold":
            return min(self.decay, (1 + self.steps) / (10 + self.steps))
        return self.decay * (1 - math.exp(-(self.steps + 1) / GAMMA))

    @paddle.no_grad()
    def update(self) -> None:
        """Take in the network's present weights."""
        share = 1 - self.next_decay()
        state = self._network.state_dict()
        for name, average in self._average.items():
            average.lerp_(state[name].detach(), share)
        self.steps += 1

    def state_dict(self) -> dict[str, paddle.Tensor]:
        """A whole state of the network, averaged where there is an average."""
        return dict(self._network.state_dict()) | self._average

    def load(self, state: Mapping[str, np.ndarray], *, steps: int) -> None:
        """Go on from an earlier average; `state` holds all that is averaged, and may hold more."""
        absent = [name for name in self._average if name not in state]
        if absent:
            raise WeightsError(f"the average of {len(absent)} tensors is missing, first {absent[0]!r}; was it frozen before?")
        self.steps = steps
        for name, average in self._average.items():
            average.set_value(state[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the network has the averaged weights; afterwards its own again, bit for bit."""
        state = self._network.state_dict()
        own = {name: state[name].detach().clone() for name in self._average}
        self._copy(self._average, state)
        try:
            yield
        finally:
            self._copy(own, state)

    @staticmethod
    @paddle.no_grad()
    def _copy(source: Mapping[str, paddle.Tensor], target: Mapping[str, paddle.Tensor]) -> None:
        for name, tensor in source.items():
            target[name].copy_(tensor, True)
