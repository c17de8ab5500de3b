"""Which trials a search has, and that each trains with the base plus its parameters and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.config.search import Dimension, SearchSettings
from rayseg.config.train import Settings
from rayseg.distributed.resources import Resources
from rayseg.errors import ConfigError
from rayseg.models.defaults import effective
from rayseg.tuning.points import check_stopping, list_points, most_evaluations, plain_value, trial_settings, value_of

ONE = Resources(1, 1, use_gpu=False, cpus=1.0, gpus=0.0)
VALUES = {
    "Train.learning_rate": st.floats(1e-6, 1.0),
    "Train.epochs_iters": st.integers(1, 500),
    "Train.train_size": st.tuples(st.integers(32, 64), st.integers(32, 64)),
    "Train.ema": st.booleans(),
    "Train.optimizer": st.sampled_from(["momentum", "adamw"]),
}
GRIDS = st.sets(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3).flatmap(
    lambda keys: st.fixed_dictionaries(
        {
            key: st.lists(VALUES[key], min_size=1, max_size=3, unique=True).map(lambda v: Dimension("grid", tuple(v)))
            for key in keys
        }
    )
)


def base(**train) -> Settings:
    return Settings.from_mapping({"Global": {"model": "PP-LiteSeg-T", "output": "out"}, "Train": train})


def points(space, *, seed=0, **search):
    found = list_points(space, SearchSettings(space=(space,), **search), stage=1, chosen={}, seed=seed)
    return [point.parameters for point in found]


def as_counts(parameters):
    return Counter(repr(sorted(p.items())) for p in parameters)


@given(GRIDS, st.integers(1, 3))
def test_a_grid_covers_the_product_each_point_as_often_as_asked(space, repeats):
    found = points({**space, "Train.seed": Dimension("grid", (0,))}, num_samples=repeats)
    product = [{}]
    for key, dimension in {**space, "Train.seed": Dimension("grid", (0,))}.items():
        product = [{**p, key: plain_value(value)} for p in product for value in dimension.values]
    assert as_counts(found) == Counter({text: n * repeats for text, n in as_counts(product).items()})
    assert len(found) == repeats * math.prod(len(d.values) for d in space.values())


@given(GRIDS)
def test_a_trials_settings_are_the_base_plus_its_parameters_and_its_place(space):
    settings = base(weight_decay=0.125)
    for parameters in points(space)[:3]:
        found = trial_settings(settings, parameters, folder=Path("out/trials/x"), resources=ONE)
        by_hand = effective(settings.with_values({**parameters, "Global.output": "out/trials/x"}))
        place = {"Global.mode": "train", "Global.device": "cpu", "Cluster.num_workers": 1}
        assert found == by_hand.with_values(place)
        for key, value in parameters.items():
            assert plain_value(value_of(found, key)) == value
        assert found.train.weight_decay == 0.125


def test_what_was_left_open_follows_the_parameters():
    found = trial_settings(base(), {"Train.epochs_iters": 500}, folder=Path("x"), resources=ONE)
    assert found.train.eval_interval == 50
    fixed = trial_settings(base(eval_interval=7), {"Train.epochs_iters": 500}, folder=Path("x"), resources=ONE)
    assert fixed.train.eval_interval == 7
    other = trial_settings(base(), {"Global.model": "SegFormer-B0"}, folder=Path("x"), resources=ONE)
    assert other.train.optimizer == "adamw" and other.evaluate.weight_path == "x/best_model/model.pdparams"


@given(st.integers(0, 50))
def test_draws_stay_in_their_ranges_and_follow_from_the_seed(seed):
    space = {
        "Train.learning_rate": Dimension("loguniform", (1e-4, 1e-1)),
        "Train.warmup_steps": Dimension("randint", (0, 5)),
        "Train.train_size": Dimension("choice", ((64, 64), (64, 96))),
        "Train.ema": Dimension("grid", (True, False)),
    }
    search = SearchSettings(space=(space,), num_samples=4, seed=seed)
    found = list_points(space, search, stage=1, chosen={}, seed=0)
    assert [p.parameters["Train.ema"] for p in found] == 4 * [True, False]
    for p in found:
        assert 1e-4 <= p.parameters["Train.learning_rate"] <= 1e-1 and p.parameters["Train.warmup_steps"] in range(5)
        assert p.parameters["Train.train_size"] in ([64, 64], [64, 96])
    assert len({p.parameters["Train.learning_rate"] for p in found}) == 8, "drawn anew for each cell of the grid"
    assert list_points(space, search, stage=1, chosen={}, seed=0) == found
    other = list_points(space, search, stage=2, chosen={}, seed=0)
    assert [p.parameters for p in other] != [p.parameters for p in found]


def test_repeats_of_a_grid_differ_in_their_seed():
    space = {"Train.learning_rate": Dimension("grid", (0.1, 0.2))}
    assert points(space, num_samples=2, seed=7) == [
        {"Train.learning_rate": 0.1},
        {"Train.learning_rate": 0.2},
        {"Train.learning_rate": 0.1, "Train.seed": 8},
        {"Train.learning_rate": 0.2, "Train.seed": 8},
    ]


def test_names_count_within_a_stage_and_parameters_keep_what_was_found_before():
    space = {"Train.epochs_iters": Dimension("grid", (5, 9))}
    found = list_points(space, SearchSettings(space=(space,)), stage=2, chosen={"Train.learning_rate": 0.5}, seed=0)
    assert [point.id for point in found] == ["2-001", "2-002"]
    assert found[1].parameters == {"Train.learning_rate": 0.5, "Train.epochs_iters": 9}


def test_a_scheduler_that_could_stop_nothing_is_refused():
    settings = base(epochs_iters=10, eval_interval=5)
    space = {"Train.epochs_iters": Dimension("grid", (10, 21))}
    assert most_evaluations(settings, {"Train.learning_rate": Dimension("grid", (1.0,))}) == 2
    assert most_evaluations(settings, space) == 5
    check_stopping(SearchSettings(scheduler="asha", grace_period=4), 5)
    check_stopping(SearchSettings(scheduler="none"), 1)
    with pytest.raises(ConfigError, match="Search.scheduler median looks at trials after 5 evaluations .* the longest has 5"):
        check_stopping(SearchSettings(scheduler="median", grace_period=5), 5)
