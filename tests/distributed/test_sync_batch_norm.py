"""Two workers' batch norms against Paddle's own on both batches in one process."""

from __future__ import annotations

import numpy as np
import pytest
from paddle import nn

from tests.distributed import said


def test_two_workers_normalise_and_differentiate_as_one_with_both_batches(answers):
    one = said.passes(said.small_network(), np.concatenate(said.UNEVEN), 1.0)
    two = [a["uneven"] for a in answers]
    for name in one:
        if name in ("output", "input gradient", "evaluated"):
            found = np.concatenate([t[name] for t in two])
        elif name.startswith("gradient"):
            found = sum(t[name] for t in two)  # each worker holds the part of its own batch
        else:
            found = two[0][name]
            np.testing.assert_array_equal(found, two[1][name], err_msg=f"{name} differs between the workers")
        scale = max(1.0, np.abs(one[name]).max())
        np.testing.assert_allclose(found / scale, one[name] / scale, atol=2e-6, rtol=0, err_msg=name)


def test_large_means_do_not_swallow_the_variance(answers):
    both = np.concatenate(said.FAR).astype(np.float64)
    mean, variance = both.mean((0, 2, 3)), both.var((0, 2, 3))
    for answer in answers:
        np.testing.assert_allclose(answer["far"]["mean"], mean, rtol=1e-6)
        np.testing.assert_allclose(answer["far"]["variance"], variance, rtol=1e-3)
    found = np.concatenate([a["far"]["output"] for a in answers])
    wanted = (both - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_half_precision_comes_back_as_half_with_statistics_in_float32(answers):
    whole = np.concatenate([a["half"][1] for a in answers])
    assert {(a["half"][0], a["half"][2]) for a in answers} == {("paddle.bfloat16", "paddle.float32")}
    np.testing.assert_allclose(whole.mean((0, 2, 3)), 0, atol=0.01)
    np.testing.assert_allclose(whole.std((0, 2, 3)), 1, atol=0.01)


def test_only_layers_that_look_at_their_batch_are_replaced(answers):
    assert answers[0]["layers"] == {
        "0": "SharedBatchNorm", "1": "BatchNorm2D", "2": "Sequential", "2.0": "SharedBatchNorm", "3": "LayerNorm",
    }  # fmt: skip


def test_a_batch_norm_with_channels_last_is_refused():
    from rayseg.distributed.sync_batch_norm import share_batch_norms

    with pytest.raises(NotImplementedError, match="channels first"):
        share_batch_norms(nn.Sequential(nn.BatchNorm2D(3, data_format="NHWC")))
