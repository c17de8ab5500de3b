"""The learning rate is what its closed form says, whatever the length of the run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import ConfigError
from rayseg.models.recipe import Schedule, Warmup
from rayseg.models.zoo import MODELS
from rayseg.training.schedule import Curve

shares = st.floats(0.0, 0.9)
SCHEDULES = st.sampled_from(
    [
        Schedule("constant"),
        Schedule("step", milestones=(0.5, 0.9)),
        Schedule("cosine"),
        Schedule("cosine", span=1.2),
        Schedule("poly", power=0.9),
    ]
)


@given(SCHEDULES, shares, shares, st.floats(-1.0, 2.0))
def test_the_rate_never_leaves_its_range(schedule, warmup, start, progress):
    curve = Curve(Schedule(schedule.kind, schedule.milestones, schedule.span, schedule.power, Warmup(warmup, start)), 0.1)
    assert -1e-12 <= curve(progress) <= 0.1 + 1e-12


@given(SCHEDULES, st.floats(0.01, 0.4), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_rate_rises_through_the_warm_up_and_never_after(schedule, warmup, a, b):
    curve = Curve(Schedule(schedule.kind, schedule.milestones, schedule.span, schedule.power, Warmup(warmup)), 0.1)
    early, late = sorted([a, b])
    if late <= warmup:
        assert curve(early) <= curve(late) + 1e-12
    if early >= warmup:
        assert curve(early) >= curve(late) - 1e-12


@given(st.integers(1, 5000))
def test_milestones_are_reached_by_the_epoch_they_name_in_a_run_of_any_number_of_steps(steps_per_epoch):
    curve = Curve(Schedule("step", milestones=(8 / 12, 11 / 12)), 1.0)
    total = 12 * steps_per_epoch
    for epoch, wanted in ((8, 0.1), (11, 0.01)):
        first = epoch * steps_per_epoch
        assert curve(first / total) == pytest.approx(wanted)
        assert curve((first - 1) / total) == pytest.approx(10 * wanted)


def test_poly_with_a_warm_up_equals_the_schedule_of_paddleseg():
    """Its warm-up of W steps is followed by a polynomial over the T - W that are left."""
    total, warm, power, start = 1000, 100, 0.9, 0.001
    curve = Curve(Schedule("poly", power=power, warmup=Warmup(warm / total, start)), 0.01)
    for step in range(total):
        if step < warm:
            wanted = 0.01 * (start + (1 - start) * step / warm)
        else:
            wanted = 0.01 * (1 - (step - warm) / (total - warm)) ** power
        assert curve(step / total) == pytest.approx(wanted, rel=1e-9)


def test_cosine_with_a_warm_up_equals_the_schedule_of_paddledetection():
    """Its cosine starts where the warm-up ends and reaches 0 after 96 epochs, of which 80 are run."""
    steps, epochs, span, warm = 50, 80, 96, 5
    curve = Curve(MODELS["PP-YOLOE_seg-S"].recipe.schedule, 1e-3)
    for step in range(0, steps * epochs, 7):
        if step < warm * steps:
            wanted = 1e-3 * step / (warm * steps)
        else:
            wanted = 1e-3 * 0.5 * (math.cos((step - warm * steps) * math.pi / ((span - warm) * steps)) + 1)
        assert curve(step / (steps * epochs)) == pytest.approx(wanted, abs=1e-12)


def test_cosine_ends_at_its_last_rate():
    curve = Curve(Schedule("cosine", warmup=Warmup(0.25)), 2.0, final=0.1)
    assert [round(curve(p), 6) for p in (0, 0.125, 0.25, 1)] == [0, 1, 2, 0.2]


def test_every_recipe_of_the_zoo_makes_a_curve():
    for row in MODELS.values():
        curve = Curve(row.recipe.schedule, row.recipe.learning_rate)
        assert max(curve(p / 1000) for p in range(1000)) == pytest.approx(row.recipe.learning_rate, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"peak": 0.0},
        {"schedule": Schedule("constant", warmup=Warmup(1.0))},
        {"final": 1.5},
        {"schedule": Schedule("cosine", span=0.5)},
    ],
)
def test_a_curve_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ConfigError):
        Curve(**{"schedule": Schedule("constant"), "peak": 1.0, **changes})


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ConfigError, match="schedule 'one_cycle' is unknown; choose constant, step, cosine or poly"):
        Curve(Schedule("one_cycle"), 1.0)(0.5)
