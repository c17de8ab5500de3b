"""A plan says what settings and the zoo say together, and refuses what cannot be."""

from __future__ import annotations

import pytest

from rayseg.config.train import Settings
from rayseg.errors import ConfigError
from rayseg.models.defaults import effective
from rayseg.models.recipe import Schedule, Warmup
from rayseg.models.zoo import MODELS
from rayseg.training.plan import plan_from
from tests.training.toys import plan_of


def plan_for(model: str, **train):
    return plan_from(effective(Settings.from_mapping({"Global": {"model": model}, "Train": train})))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_of_the_zoo_is_planned_as_its_recipe_says(name):
    plan, recipe = plan_for(name), MODELS[name].recipe
    assert (plan.unit, plan.optimizer, plan.weight_decay) == (recipe.unit, recipe.optimizer, recipe.weight_decay)
    assert (plan.schedule, plan.clip, plan.ema, plan.head_rate) == (recipe.schedule, recipe.clip, recipe.ema, recipe.head_rate)
    assert plan.rate_batch == recipe.batch_size
    assert plan.metric == ("ap" if recipe.unit == "epochs" else "miou")


def test_settings_come_before_the_recipe():
    plan = plan_for(
        "PP-YOLOE_seg-S",
        epochs_iters=7,
        learning_rate=0.5,
        scale_rate=False,
        schedule="poly",
        clip=3.0,
        ema=False,
        accumulate_steps=2,
        freeze=["backbone"],
        seed=4,
        warmup_steps=9,
    )
    assert (plan.length, plan.learning_rate, plan.rate_batch, plan.accumulate) == (7, 0.5, None, 2)
    assert plan.schedule == Schedule("poly", power=0.9, warmup=Warmup(5 / 80))
    assert (plan.clip, plan.ema, plan.freeze, plan.seed) == (("global_norm", 3.0), None, ("backbone",), 4)
    assert plan.curve(1, 100).schedule.warmup == Warmup(0.09, 0.0)


def test_the_rate_grows_with_the_images_of_a_step():
    plan = plan_of(batch_size=4, accumulate=2, rate_batch=16, learning_rate=0.1)
    assert plan.global_batch(3) == 24
    assert plan.peak_rate(3) == pytest.approx(0.1 * 24 / 16)
    assert plan_of(batch_size=4, learning_rate=0.1).peak_rate(3) == 0.1


def test_no_warm_up_is_a_choice():
    plan = plan_of(schedule=Schedule("poly", warmup=Warmup(0.1, 0.5)), warmup_steps=0)
    assert plan.curve(1, 10)(0.0) == 0.05


def test_settings_that_were_not_completed_are_refused():
    with pytest.raises(ConfigError, match="Train.schedule is open; `effective` fills in"):
        plan_from(Settings.from_mapping({"Global": {"model": "PP-LiteSeg-T"}}))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"length": 0}, "length is 0; it must be at least 1"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"minutes": -1.0}, "minutes is -1.0"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001; it must not be negative"),
        ({"clip": ("value", 1.0)}, "clip is .*value"),
        ({"clip": ("norm", 0.0)}, "clip is .*norm above 0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(**wrong)
