"""Stochastic depth against what its paper promises."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from rayseg.models.blocks.drop_path import DropPath, drop_path_rates


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_each_image_is_dropped_whole_or_scaled_so_that_the_mean_stays(rate):
    paddle.seed(0)
    layer = DropPath(rate)
    x = np.random.default_rng(0).normal(size=(4000, 3, 2)).astype("float32")
    found = layer(paddle.to_tensor(x)).numpy()
    dropped = (found == 0).all(axis=(1, 2))
    np.testing.assert_allclose(found[~dropped], x[~dropped] / (1 - rate), rtol=1e-5)
    assert dropped.mean() == pytest.approx(rate, abs=0.03)


def test_the_seed_decides_what_is_dropped():
    layer, x = DropPath(0.5), paddle.ones([64, 1])

    def draw(seed):
        paddle.seed(seed)
        return layer(x).numpy()

    assert (draw(1) == draw(1)).all()
    assert (draw(1) != draw(2)).any()


def test_nothing_happens_in_eval_mode_or_at_rate_zero():
    x = paddle.randn([8, 3])
    for layer in (DropPath(0.9), DropPath(0.0)):
        if layer.rate:
            layer.eval()
        assert (layer(x).numpy() == x.numpy()).all()


@pytest.mark.parametrize(("depth", "wanted"), [(0, []), (1, [0.0]), (2, [0.0, 0.1]), (5, [0.0, 0.025, 0.05, 0.075, 0.1])])
def test_rates_rise_evenly_from_zero(depth, wanted):
    assert drop_path_rates(0.1, depth) == pytest.approx(wanted)
