"""A real network over two workers: normalised over both, its losses divided by the pixels of both."""

from __future__ import annotations

import numpy as np
import pytest

from tests.distributed.group import in_group
from tests.distributed.zoo_gradients import of_all, of_one_worker


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PP-LiteSeg-T", "PP-YOLOE_seg-S"])
def test_two_workers_have_the_gradients_of_one_with_the_whole_batch(tmp_path, name):
    """The instance model's second worker has no object at all: its backward pass has less to do, and must not get out of step."""
    loss, wanted = of_all(name)
    _, nudged = of_all(name, change=1e-6)
    (first, found), (second, other) = in_group(of_one_worker, 2, tmp_path, name)
    assert (first + second) / 2 == pytest.approx(loss, rel=1e-5) and abs(first - second) > 0.01
    largest = max(np.linalg.norm(g) for g in wanted.values())
    compared = 0
    for key, gradient in wanted.items():
        assert (found[key] == other[key]).all(), key
        norm = np.linalg.norm(gradient)
        if norm < 1e-6 * largest:
            continue  # a bias before a batch norm: rounding alone
        rounding = np.linalg.norm(nudged[key] - gradient)
        assert np.linalg.norm(found[key] - gradient) <= 1e-4 * norm + 10 * rounding, key
        compared += 1
    assert compared > 100
