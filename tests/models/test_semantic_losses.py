"""Losses of semantic networks against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.models.semantic.losses import cross_entropy

IGNORE = 255


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(2, 4), st.integers(1, 5), st.integers(1, 5))
def test_cross_entropy_equals_a_loop_over_the_labelled_pixels(seed, batch, classes, height, width):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, classes, height, width)).astype("float32")
    labels = rng.choice([*range(classes), IGNORE], size=(batch, height, width)).astype("uint8")
    terms = []
    for n, y, x in np.argwhere(labels != IGNORE):
        scores = logits[n, :, y, x].astype(float)
        terms.append(math.log(sum(math.exp(s) for s in scores)) - scores[labels[n, y, x]])
    wanted = sum(terms) / len(terms) if terms else 0.0
    got = cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(labels), ignore_index=IGNORE)
    assert got.shape == []
    assert float(got) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_without_a_labelled_pixel_loss_and_gradient_are_zero():
    logits = paddle.randn([1, 3, 4, 4])
    logits.stop_gradient = False
    loss = cross_entropy(logits, paddle.full([1, 4, 4], IGNORE, dtype="int64"))
    loss.backward()
    assert float(loss) == 0.0
    assert not logits.grad.numpy().any()
