"""Which trial comes next, and what Optuna is told."""

from __future__ import annotations

import builtins

import pytest
from ray.tune.search import Searcher

from rayseg.config.search import Dimension
from rayseg.errors import ConfigError
from rayseg.tuning.handing import Handing, OptunaLearner
from rayseg.tuning.points import Point
from rayseg.tuning.records import read_record

SPACE = {
    "Train.learning_rate": Dimension("loguniform", (1e-4, 1e-1)),
    "Train.train_size": Dimension("choice", ((64, 64), (64, 96))),
    "Train.warmup_steps": Dimension("randint", (0, 3)),
}


class Listening:
    """A learner that counts."""

    def __init__(self):
        self.heard = []

    def ask(self):
        return {"Train.seed": len(self.heard)}

    def tell(self, parameters, score):
        self.heard.append((dict(parameters), score))


def test_what_was_left_over_comes_first_then_what_the_learner_finds_each_written_down(tmp_path):
    learner = Listening()
    left = Point("2-003", 2, {"Train.learning_rate": 0.1, "Train.seed": 9})
    handing = Handing(tmp_path, [left], more=1, learner=learner, stage=2, chosen={"Train.learning_rate": 0.1}, number=4)
    assert handing.total == 2
    assert handing.suggest("a") == {"id": "2-003", "stage": 2, "parameters": left.parameters}
    handing.on_trial_complete("a", {"best": 0.5})
    assert learner.heard == [({"Train.seed": 9}, 0.5)], "what earlier stages decided is not the learner's"
    given = handing.suggest("b")
    assert given == {"id": "2-004", "stage": 2, "parameters": {"Train.learning_rate": 0.1, "Train.seed": 1}}
    assert read_record(tmp_path, "2-004").parameters == given["parameters"]
    handing.on_trial_complete("b", error=True)
    assert learner.heard[-1] == ({"Train.seed": 1}, None)
    assert handing.suggest("c") == Searcher.FINISHED


def test_optuna_stays_in_the_ranges_and_learns_from_trials_of_an_earlier_run():
    pytest.importorskip("optuna")
    learner = OptunaLearner(SPACE, mode="max", seed=0)
    for _ in range(4):
        found = learner.ask()
        assert 1e-4 <= found["Train.learning_rate"] <= 1e-1 and found["Train.warmup_steps"] in range(3)
        assert found["Train.train_size"] in ([64, 64], [64, 96])
        learner.tell(found, 0.5)
    learner.tell(learner.ask(), None)
    later = OptunaLearner(SPACE, mode="max", seed=0, told=4)
    point = {"Train.learning_rate": 0.05, "Train.train_size": [64, 96], "Train.warmup_steps": 1}
    later.tell(point, 0.9)
    assert later._study.best_value == 0.9 and later._study.best_params["Train.learning_rate"] == 0.05


def test_a_search_that_goes_on_does_not_draw_its_first_points_again():
    pytest.importorskip("optuna")
    first = OptunaLearner(SPACE, mode="max", seed=3).ask()
    assert first == OptunaLearner(SPACE, mode="max", seed=3).ask()
    assert first != OptunaLearner(SPACE, mode="max", seed=3, told=1).ask()


def test_without_optuna_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"pip install 'rayseg\[optuna\]'"):
        OptunaLearner({}, mode="max", seed=0)
