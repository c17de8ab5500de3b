"""bench/against_sahi.py: the judge counts each kind of error as what it is, and perfect fragments give no error."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"
KINDS = np.asarray([-1, 0, 0])  # two objects: columns 0 to 9 and 10 to 19 of a strip of 4 rows


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module("against_sahi")
        for name in ("against_sahi", "_fragments"):
            del sys.modules[name]


def errors(bench, *spans):
    """What the judge says of results that fill these columns; errors other than 0, for each of the two objects."""
    cores = np.repeat([[1] * 10 + [2] * 10], 4, axis=0).astype(np.int32)
    windows = np.asarray([[x0, 0, x1, 4] for x0, x1 in spans], dtype=np.int64).reshape(-1, 4)
    found = bench.judged(cores, KINDS, bench.Masks(windows, [np.ones((4, x1 - x0), dtype=bool) for x0, x1 in spans]))
    return {name: value / 500 for name, value in found.items() if value and not name.startswith("wrong")}


@pytest.mark.parametrize(
    "spans, wanted",
    [
        ([(0, 10), (10, 20)], {}),
        ([(0, 10)], {"missing": 1}),
        ([(0, 20)], {"merged": 1}),
        ([(0, 10), (10, 15), (15, 20)], {"cut": 1, "extra": 1}),
        ([(0, 10), (10, 18)], {"cut": 1}),
        ([(0, 10), (10, 20), (11, 20)], {"doubled": 1, "extra": 1}),
        ([(0, 10), (0, 10), (0, 10), (10, 20)], {"doubled": 1, "extra": 2}),
    ],
)
def test_every_error_is_counted_as_what_it_is(bench, spans, wanted):
    assert errors(bench, *spans) == wanted


def test_perfect_fragments_are_joined_without_an_error(bench, tmp_path):
    (exact, noisy) = list(bench.compare(150, python=None, settings=[], limit_s=1, seed=3, folder=tmp_path))
    assert exact["tiles"] > 1 and exact["fragments"] > exact["objects"] > 150
    assert [exact[name] for name in ("cut", "merged", "doubled", "missing", "extra")] == [0] * 5
    assert noisy["cut"] + noisy["merged"] + noisy["missing"] < 20


def test_masks_survive_their_file(bench, tmp_path):
    rng = np.random.default_rng(0)
    windows = np.asarray([[0, 0, 3, 5], [7, 2, 8, 3], [1, 1, 12, 4]])
    masks = [rng.random((y1 - y0, x1 - x0)) < 0.5 for x0, y0, x1, y1 in windows.tolist()]
    bench.Masks(windows, masks).save(tmp_path / "masks.npz", score=np.ones(3))
    with np.load(tmp_path / "masks.npz") as file:
        again = bench.Masks.load(file)
        assert file["score"].tolist() == [1, 1, 1]
    assert np.array_equal(again.windows, windows)
    assert all(np.array_equal(a, b) for a, b in zip(again.masks, masks, strict=True))
