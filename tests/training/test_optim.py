"""The rate curve, the optimizers and the running average do what their formulas say."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

from rayseg.errors import ConfigError
from rayseg.training.optim import Cosine, Ema, make_optimizer


@given(st.floats(0.0, 0.9), st.floats(0.0, 1.0), st.floats(-1.0, 2.0))
def test_the_rate_never_leaves_its_range(warmup, final, progress):
    rate = Cosine(0.1, warmup=warmup, final=final)
    assert 0 <= rate(progress) <= 0.1 + 1e-12


@given(st.floats(0.01, 0.9), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_rate_rises_to_its_peak_and_falls_from_there(warmup, a, b):
    rate = Cosine(0.1, warmup=warmup)
    early, late = sorted([a, b])
    if late <= warmup:
        assert rate(early) <= rate(late) + 1e-12
    if early >= warmup:
        assert rate(early) >= rate(late) - 1e-12


def test_the_rate_at_the_corners():
    rate = Cosine(2.0, warmup=0.25, final=0.1)
    assert [round(rate(p), 6) for p in (0, 0.125, 0.25, 1)] == [0, 1, 2, 0.2]


def test_a_rate_without_peak_is_refused():
    with pytest.raises(ConfigError, match="peak > 0"):
        Cosine(0.0)


@pytest.mark.parametrize("kind", ["adamw", "momentum"])
def test_an_optimizer_walks_downhill(kind):
    paddle.seed(0)
    layer, x = nn.Linear(3, 1), paddle.randn([16, 3])
    optimizer = make_optimizer(layer, kind=kind, weight_decay=1e-4, clip_norm=5.0)
    optimizer.set_lr(0.05)
    losses = []
    for _ in range(50):
        loss = ((layer(x) - x.sum(-1, keepdim=True)) ** 2).mean()
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("kind", ["adamw", "momentum"])
def test_decay_shrinks_matrices_and_spares_vectors(kind):
    layer = nn.Linear(2, 2)
    layer.weight.set_value(paddle.ones([2, 2]))
    layer.bias.set_value(paddle.ones([2]))
    optimizer = make_optimizer(layer, kind=kind, weight_decay=0.5)
    optimizer.set_lr(0.1)
    ((layer.weight * 0).sum() + (layer.bias * 0).sum()).backward()
    optimizer.step()
    assert (layer.weight.numpy() < 0.99).all()
    assert (layer.bias.numpy() == 1).all()


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="optimizer 'lion' is unknown; choose adamw or momentum"):
        make_optimizer(nn.Linear(1, 1), kind="lion", weight_decay=0.0)


def test_the_average_follows_its_formula():
    layer = nn.BatchNorm1D(2)
    average = Ema(layer, decay=0.6)
    wanted = {name: tensor.numpy().copy() for name, tensor in layer.state_dict().items()}
    rng = np.random.default_rng(0)
    for step in range(1, 9):
        for tensor in layer.state_dict().values():
            tensor.set_value(rng.normal(size=tensor.shape).astype(np.float32))
        average.update()
        decay = min(0.6, (1 + step) / (10 + step))
        for name, tensor in layer.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * tensor.numpy()
    for name, array in average.state_dict().items():
        assert np.allclose(array, wanted[name], atol=1e-6)
    assert "_mean" in wanted  # running statistics are averaged too


def test_averaging_does_not_touch_the_model():
    layer = nn.Linear(2, 2)
    before = layer.weight.numpy().copy()
    average = Ema(layer, decay=0.9)
    layer.weight.set_value(layer.weight + 1)
    average.update()
    assert np.allclose(layer.weight.numpy(), before + 1)
    average.copy_to(layer)
    assert (layer.weight.numpy() < before + 1).all()
