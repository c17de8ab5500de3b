"""Which trials are stopped: as Ray's rule says of all trials of the stage, whenever they ran, but never at their end."""

from __future__ import annotations

from types import SimpleNamespace

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from rayseg.config.search import SearchSettings
from rayseg.tuning.stopping import scheduler


class Trial:
    def __init__(self, name):
        self.trial_id, self.config = f"ray-{name}", {"id": name}


def result(evaluation, score, *, last=False):
    return {"evaluation": evaluation, "score": score, "last": last}


def made(kind, *, past=None, over=(), mode="max", **changes):
    found = scheduler(SearchSettings(scheduler=kind, **changes), evaluations=9, past=past or {}, over=over)
    assert found.set_search_properties("score", mode)
    return found


def decide(rule, name, *results):
    """What is said of each result of a new trial."""
    trial = Trial(name)
    rule.on_trial_add(SimpleNamespace(), trial)
    return [rule.on_trial_result(SimpleNamespace(), trial, r) for r in results]


def test_without_a_scheduler_all_trials_end():
    assert isinstance(scheduler(SearchSettings(), evaluations=1, past={}, over=[]), FIFOScheduler)


def test_the_weaker_one_is_stopped_whether_the_stronger_ran_now_or_before_the_driver_was_killed():
    stop, on = TrialScheduler.STOP, TrialScheduler.CONTINUE
    live = made("asha", reduction_factor=2)
    assert decide(live, "a", result(1, 0.9)) == [on]
    assert decide(live, "b", result(1, 0.1)) == [stop]
    for over in (["a"], []):
        again = made("asha", past={"a": [result(1, 0.9), result(2, 0.95)]}, over=over, reduction_factor=2)
        if not over:  # it is taken up again first
            decide(again, "a", result(3, 0.95))
        assert decide(again, "b", result(1, 0.1)) == [stop]
        assert decide(again, "c", result(1, 0.95)) == [on]


def test_the_median_of_trials_from_before_counts():
    past = {name: [result(1, 0.5), result(2, 0.6)] for name in "abc"}
    rule = made("median", past=past, over=list(past))
    assert decide(rule, "d", result(1, 0.1)) == [TrialScheduler.STOP]
    assert decide(rule, "e", result(1, 0.7)) == [TrialScheduler.CONTINUE]


def test_a_trial_that_is_taken_up_again_and_was_too_weak_is_stopped_at_its_next_score():
    for kind in ("median", "asha"):
        past = {name: [result(1, 0.5), result(2, 0.6)] for name in "abc"} | {"d": [result(1, 0.1), result(2, 0.2)]}
        rule = made(kind, past=past, over=list("abc"))
        assert decide(rule, "d", result(3, 0.3)) == [TrialScheduler.STOP]
        rule = made(kind, past=past, over=list("abc"))
        assert decide(rule, "d", result(3, 0.3, last=True)) == [TrialScheduler.CONTINUE]


def test_less_is_better_where_the_mode_says_so():
    rule = made("asha", mode="min", past={"a": [result(1, 0.1)]}, over=["a"], reduction_factor=2)
    assert decide(rule, "b", result(1, 0.9)) == [TrialScheduler.STOP]


def test_a_trial_is_never_stopped_at_its_end():
    rule = made("asha", past={"a": [result(1, 0.9)]}, over=["a"], reduction_factor=2)
    assert decide(rule, "b", result(1, 0.1, last=True)) == [TrialScheduler.CONTINUE]
    survivor = made("asha", grace_period=9)
    assert decide(survivor, "a", *(result(n, 0.5) for n in range(1, 10)))[-1] == TrialScheduler.CONTINUE


def test_a_score_that_is_no_number_does_no_harm():
    rule = made("asha", past={"a": [result(1, None), result(2, 0.5)]}, over=["a"], reduction_factor=2)
    assert decide(rule, "b", result(1, float("nan"))) == [TrialScheduler.CONTINUE]
