"""The cheapest pairing, against all pairings there are."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import ModelError
from rayseg.models.blocks.matching import match


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**16))
def test_no_other_pairing_costs_less(predictions, objects, seed):
    cost = np.random.RandomState(seed).normal(size=(predictions, objects)).astype("float32")
    rows, columns = match(cost)
    assert len(rows) == len(columns) == min(predictions, objects)
    assert (np.diff(rows) > 0).all() and len(set(columns.tolist())) == len(columns)
    wide = cost if predictions <= objects else cost.T
    every = (wide[range(len(wide)), list(p)].sum() for p in permutations(range(wide.shape[1]), len(wide)))
    assert cost[rows, columns].sum() == pytest.approx(min(every), abs=1e-5)


def test_tensors_and_arrays_are_paired_alike():
    cost = np.array([[5, 1], [0, 9], [0, 2]], "float32")
    for given_cost in (cost, paddle.to_tensor(cost)):
        rows, columns = match(given_cost)
        assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]
        assert rows.dtype == columns.dtype == np.int64


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_is_paired_where_one_side_is_empty(shape):
    for cost in (np.zeros(shape, "float32"), paddle.zeros(shape)):
        rows, columns = match(cost)
        assert rows.shape == columns.shape == (0,) and rows.dtype == columns.dtype == np.int64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_network_that_has_diverged_is_told_so(bad):
    with pytest.raises(ModelError, match="1 of 4 pairing costs are not finite.*learning rate"):
        match(np.array([[0, bad], [1, 2]]))


def test_only_a_matrix_can_be_paired():
    with pytest.raises(ModelError, match=r"\[predictions, objects\], got \[2, 3, 4\]"):
        match(np.zeros((2, 3, 4)))
