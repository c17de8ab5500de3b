"""What workers say to each other: every method, every type that travels."""

from __future__ import annotations

import math

import pytest

from rayseg.distributed.world import current_world
from rayseg.training.world import ALONE


@pytest.fixture
def told(answers):
    return [a["world"] for a in answers]


def test_a_process_outside_a_group_is_alone():
    assert current_world() is ALONE


def test_workers_know_who_they_are(told):
    assert [(a["rank"], a["size"]) for a in told] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_the_mean_is_taken_in_place_and_keeps_its_type(told, dtype):
    assert all(a[f"mean {dtype}"] == ([2.0, -0.5], f"paddle.{dtype}", [0]) for a in told)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64"])
def test_everyone_gets_what_rank_0_has_in_any_type(told, dtype):
    assert all(a[f"broadcast {dtype}"] == ([1, 1], f"paddle.{dtype}") for a in told)


def test_a_parameter_takes_the_value_of_rank_0_and_stays_trainable(told):
    assert all(a["parameter"] == ([[7.0], [7.0]], False) for a in told)


def test_everyone_agrees_with_rank_0_whatever_it_says(told):
    for answer in told:
        said_by_first = answer["agree"]
        assert math.isnan(said_by_first.pop("nan"))
        assert said_by_first == {"score": 0.5, "path": "/tmp/ä", "list": [1, None, True]}
        assert answer["agree nothing"] is None


def test_everyone_gets_what_everyone_has_by_rank(told):
    assert all(answer["gathered"] == [{"rank": 0}, {"rank": 1}] for answer in told)
