"""The average of the weights follows its formula and leaves the network alone."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from rayseg.errors import ConfigError, WeightsError
from rayseg.training.ema import Ema

DECAYS = {
    "threshold": lambda t, decay: min(decay, (1 + t) / (10 + t)),
    "exponential": lambda t, decay: decay * (1 - math.exp(-(t + 1) / 2000)),
}


def layer() -> nn.Layer:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1D(3))


def disturb(network: nn.Layer, rng: np.random.Generator) -> None:
    for tensor in network.state_dict().values():
        tensor.set_value(rng.normal(size=tensor.shape).astype(np.float32))


@pytest.mark.parametrize("kind", list(DECAYS))
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), decay=st.floats(0.0, 0.999))
def test_the_average_follows_its_formula(kind, seed, decay):
    network, rng = layer(), np.random.default_rng(seed)
    average = Ema(network, kind=kind, decay=decay)
    wanted = {name: tensor.numpy().astype(np.float64) for name, tensor in network.state_dict().items()}
    for step in range(6):
        disturb(network, rng)
        average.update()
        share = DECAYS[kind](step, decay)
        for name, tensor in network.state_dict().items():
            wanted[name] = share * wanted[name] + (1 - share) * tensor.numpy()
    for name, tensor in average.state_dict().items():
        assert np.allclose(tensor.numpy(), wanted[name], atol=1e-5), name
    assert "1._mean" in wanted  # running statistics are averaged too


def test_frozen_parameters_are_not_averaged_but_taken_as_they_are():
    network = layer()
    network[0].weight.stop_gradient = True
    average = Ema(network, kind="threshold", decay=0.9)
    disturb(network, np.random.default_rng(0))
    average.update()
    state = average.state_dict()
    assert (state["0.weight"].numpy() == network[0].weight.numpy()).all()
    assert (state["0.bias"].numpy() != network[0].bias.numpy()).any()
    assert (state["1._mean"].numpy() != network[1]._mean.numpy()).any()


def test_in_place_gives_the_weights_back_bit_for_bit_even_after_an_error():
    network = layer()
    average = Ema(network, kind="threshold", decay=0.9)
    disturb(network, np.random.default_rng(0))
    average.update()
    before = {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}
    averaged = average.state_dict()["0.weight"].numpy()
    seen = []

    def look() -> None:
        with average.in_place():
            seen.append(network[0].weight.numpy().copy())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    assert (seen[0] == averaged).all()
    assert {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()} == before


def test_an_average_goes_on_where_it_stopped():
    network = layer()
    one = Ema(network, kind="exponential", decay=0.99)
    disturb(network, np.random.default_rng(0))
    one.update()
    other = Ema(network, kind="exponential", decay=0.99)
    other.load({name: tensor.numpy() for name, tensor in one.state_dict().items()}, steps=one.steps)
    assert other.next_decay() == one.next_decay()
    disturb(network, np.random.default_rng(1))
    for average in (one, other):
        average.update()
    for name, tensor in one.state_dict().items():
        assert (other.state_dict()[name].numpy() == tensor.numpy()).all()


def test_an_average_that_lacks_a_tensor_is_refused():
    network = layer()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items() if name != "0.bias"}
    with pytest.raises(WeightsError, match="average of 1 tensors is missing, first '0.bias'"):
        Ema(network, kind="threshold", decay=0.9).load(state, steps=1)


@pytest.mark.parametrize("wrong", [{"kind": "normal"}, {"decay": 1.0}, {"decay": -0.1}])
def test_an_average_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match="average of weights"):
        Ema(paddle.nn.Linear(1, 1), **{"kind": "threshold", "decay": 0.9, **wrong})
