"""A run that is stopped and goes on ends where an undisturbed one ends, bit for bit; one that goes wrong says so."""

from __future__ import annotations

import json
import math

import numpy as np
import paddle
import pytest
from paddle import nn

from rayseg.errors import ConfigError, DatasetError, RaysegError, WeightsError
from rayseg.models.recipe import Schedule, Warmup
from rayseg.models.weights import read_pdparams
from rayseg.training.checkpoint import BEST, checkpoints, latest, read_states
from tests.training.toys import STEPS, Toy, ToyData, arrays_of, assert_same, closeness, plan_of, run


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
@pytest.mark.parametrize("cut_at", [(1, 1), (3, 0), (4, 2)])
def test_a_stopped_run_ends_like_an_undisturbed_one(tmp_path, optimizer, cut_at):
    plan = plan_of(optimizer=optimizer, schedule=Schedule("cosine", warmup=Warmup(0.2)), clip=("global_norm", 1.0))
    run(tmp_path / "whole", plan)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", plan, data=ToyData(cut_at=cut_at))
    nn.Linear(3, 3)  # Paddle counts layers: from here on its internal names differ
    ended = run(tmp_path / "cut", plan)
    assert_same(tmp_path / "whole" / "epoch_6", tmp_path / "cut" / "epoch_6")
    assert (ended.epoch, ended.step) == (6, 6 * STEPS)
    for name in ("history.csv", "history.jsonl"):
        whole, cut = ((tmp_path / part / name).read_text() for part in ("whole", "cut"))
        if name.endswith("csv"):
            assert whole == cut
        else:
            assert _losses(whole) == _losses(cut)


def _losses(text: str) -> list[tuple[int, float]]:
    events = [json.loads(line) for line in text.splitlines()]
    return [(event["step"], event["loss"]) for event in events if event["event"] == "step"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_counted_in_iterations_goes_on_in_the_middle_of_an_epoch(tmp_path, accumulate):
    plan = plan_of(unit="iterations", length=11, eval_interval=4, accumulate=accumulate)
    data = ToyData(steps_per_epoch=5)
    run(tmp_path / "whole", plan, data=ToyData(steps_per_epoch=5))
    cut_at = (1, 4) if accumulate == 1 else (1, 3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", plan, data=ToyData(steps_per_epoch=5, cut_at=cut_at))
    resumed_at = read_states(latest(tmp_path / "cut")).standing
    assert resumed_at.images > 0
    ended = run(tmp_path / "cut", plan, data=data)
    assert data.asked[0] == (resumed_at.epoch, resumed_at.images // 8)
    assert_same(tmp_path / "whole" / "iter_11", tmp_path / "cut" / "iter_11")
    assert [path.name for path in checkpoints(tmp_path / "cut")] == ["iter_4", "iter_8", "iter_11"]
    assert ended.step == 11


def test_evaluating_more_often_changes_no_weight(tmp_path):
    def noisy(network):
        paddle.seed(9)
        paddle.rand([7])
        return closeness(network)

    run(tmp_path / "seldom", plan_of(eval_interval=6))
    run(tmp_path / "often", plan_of(eval_interval=1), evaluate=noisy)
    assert_same(tmp_path / "seldom" / "epoch_6", tmp_path / "often" / "epoch_6")


def test_a_finished_run_does_nothing_more(tmp_path):
    run(tmp_path)
    before = (tmp_path / "epoch_6" / "model.pdparams").stat()
    events = []
    ended = run(tmp_path, events=events)
    assert [event["event"] for event in events] == ["started", "resumed", "finished"]
    assert (tmp_path / "epoch_6" / "model.pdparams").stat() == before
    assert ended.scores == read_states(tmp_path / "epoch_6").scores and ended.best == tmp_path / BEST


def test_a_run_may_be_made_longer(tmp_path):
    run(tmp_path, plan_of(length=4))
    events = []
    ended = run(tmp_path, plan_of(length=6, log_interval=1), events=events)
    assert events[1]["changed"] == {"length": [4, 6], "log_interval": [2, 1]}
    assert ended.epoch == 6 and ended.resumed_from == tmp_path / "epoch_4"


def test_training_learns_and_keeps_the_best_average(tmp_path):
    events = []
    ended = run(tmp_path, plan_of(length=40), events=events, stem="best_model")
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    scores = {event["epoch"]: event["score"] for event in events if event["event"] == "evaluated"}
    assert ended.best_score == max(scores.values()) == scores[ended.best_epoch]
    best = read_pdparams(tmp_path / BEST / "best_model.pdparams")
    assert set(best) == set(Toy().state_dict())
    assert -float(((best["out.weight"] - 1) ** 2).mean()) == pytest.approx(ended.best_score, rel=1e-4)
    assert {file.name for file in (tmp_path / BEST).iterdir()} == {
        f"best_model.{kind}" for kind in ("pdparams", "pdema", "pdopt", "pdstates")
    }


def test_a_metric_may_be_better_when_smaller(tmp_path):
    ended = run(tmp_path, plan_of(metric="error", mode="min"), evaluate=lambda network: {"error": -closeness(network)["score"]})
    rows = (tmp_path / "history.csv").read_text().splitlines()[1:]
    assert ended.best_score == min(float(row.split(",")[2]) for row in rows)


def test_a_metric_that_is_not_measured_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"the evaluation has no 'ap'; it has \['score'\]"):
        run(tmp_path, plan_of(metric="ap"))


def test_evaluation_sees_the_average_and_gives_the_weights_back(tmp_path):
    network, seen = Toy(), []

    def look(given):
        seen.append((given.training, given.out.weight.numpy().copy()))
        return {"score": 0.0}

    run(tmp_path, plan_of(length=2), network=network, evaluate=look)
    saved = arrays_of(tmp_path / "epoch_2")
    assert not seen[0][0]
    assert (seen[0][1] == saved[".pdparams:out.weight"]).all()
    assert (network.out.weight.numpy() == saved[".pdema:out.weight"]).all()
    assert (saved[".pdema:out.weight"] != saved[".pdparams:out.weight"]).any()


def test_without_an_average_the_weights_themselves_are_kept(tmp_path):
    network = Toy()
    run(tmp_path, plan_of(length=2, ema=None), network=network)
    assert (arrays_of(tmp_path / "epoch_2")[".pdparams:out.weight"] == network.out.weight.numpy()).all()
    assert not list(tmp_path.glob("*/*.pdema"))


def test_without_an_evaluation_the_newest_is_the_best(tmp_path):
    events = []
    ended = run(tmp_path, evaluate=None, events=events)
    assert "evaluated" not in {event["event"] for event in events}
    assert ended.best_score is None and ended.best_epoch == 6
    assert read_states(tmp_path / BEST).standing.epoch == 6


def test_the_last_epoch_is_evaluated_even_out_of_turn_and_each_evaluation_is_saved_once(tmp_path):
    events = []
    run(tmp_path, plan_of(length=5), events=events)
    assert [event["epoch"] for event in events if event["event"] == "evaluated"] == [2, 4, 5]
    assert [event["epoch"] for event in events if event["event"] == "saved"] == [2, 4, 5]


def test_a_score_that_cannot_be_measured_still_leaves_weights_and_loses_to_one_that_can(tmp_path):
    scores = iter([math.nan, 0.1, math.nan])
    ended = run(tmp_path, evaluate=lambda network: {"score": next(scores)})
    assert ended.best_score == 0.1 and ended.best_epoch == 4


def test_the_network_is_told_each_epoch(tmp_path):
    network = Toy()
    run(tmp_path, plan_of(length=3), network=network)
    assert network.epochs_seen == [0, 1, 2]


def test_minutes_end_a_run_before_its_epochs(tmp_path):
    ended = run(tmp_path, plan_of(length=10**6, minutes=0.005, eval_interval=10**6))
    assert ended.epoch < 10**6 and ended.seconds >= 0.3
    assert latest(tmp_path) is not None


def test_the_rates_are_read_back_from_the_optimizer(tmp_path):
    events = []
    schedule = Schedule("constant", warmup=Warmup(0.5, start=0.1))
    ended = run(tmp_path, plan_of(schedule=schedule, rate_batch=4, accumulate=3, log_interval=1), events=events)
    peak = 0.05 * 8 * 3 / 4
    assert events[0]["peak_rate"] == pytest.approx(peak) and events[0]["global_batch"] == 24
    assert ended.first_rate == pytest.approx(0.1 * peak) and ended.highest_rate == pytest.approx(peak)
    assert [e["rate"] for e in events if e["event"] == "step"] == pytest.approx([peak * f for f in (0.1, 0.4, 0.7, 1, 1, 1)])


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(tmp_path):
    with pytest.raises(RaysegError, match=r"step 10: losses .*nan.* Lower Train.learning_rate"):
        run(tmp_path, plan_of(eval_interval=1), data=ToyData(poison=3))
    assert latest(tmp_path).name == "epoch_3"


def test_what_a_report_raises_ends_the_run_and_leaves_it_resumable(tmp_path):
    def stop(event):
        if event["event"] == "saved" and event["epoch"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", report=stop)
    run(tmp_path / "cut")
    run(tmp_path / "whole")
    assert_same(tmp_path / "whole" / "epoch_6", tmp_path / "cut" / "epoch_6")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": 2}, "was trained with seed 1, not 2; choose another folder"),
        ({"optimizer": "momentum"}, "was trained with optimizer 'adamw', not 'momentum'"),
        ({"unit": "iterations"}, "was trained with unit 'epochs', not 'iterations'"),
    ],
)
def test_going_on_as_another_run_is_refused(tmp_path, changes, message):
    run(tmp_path, plan_of(length=2))
    with pytest.raises((ConfigError, WeightsError), match=message):
        run(tmp_path, plan_of(**changes))


def test_going_on_without_the_average_is_refused(tmp_path):
    run(tmp_path, plan_of(length=2))
    with pytest.raises(WeightsError, match="was trained with averaged weights, this run is without"):
        run(tmp_path, plan_of(ema=None))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run(tmp_path, plan_of(length=1))
    with pytest.raises(WeightsError, match="written for another network: .* tensors differ"):
        run(tmp_path, network=Toy(width=5))


def test_going_back_to_an_earlier_checkpoint_takes_the_later_ones_away(tmp_path):
    run(tmp_path / "a")
    kept = arrays_of(tmp_path / "a" / "epoch_6")
    events = []
    run(tmp_path / "a", resume=tmp_path / "a" / "epoch_2" / "model.pdparams", events=events)
    assert events[1]["epoch"] == 2
    again = arrays_of(tmp_path / "a" / "epoch_6")
    assert all(kept[name].tobytes() == again[name].tobytes() for name in kept)
    lines = (tmp_path / "a" / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "2", "4", "6"]


def test_a_checkpoint_of_another_folder_can_be_gone_on_from(tmp_path):
    run(tmp_path / "a", plan_of(length=4))
    ended = run(tmp_path / "b", resume=tmp_path / "a")
    run(tmp_path / "whole")
    assert_same(tmp_path / "whole" / "epoch_6", tmp_path / "b" / "epoch_6")
    assert ended.best is not None and (tmp_path / "b" / BEST).exists()


def test_data_that_end_early_are_named(tmp_path):
    class Short(ToyData):
        def __call__(self, epoch, *, start=0):
            yield next(super().__call__(epoch, start=start))

    with pytest.raises(DatasetError, match="epoch 0: the data ended before the 3 batches they promised"):
        run(tmp_path, data=Short())


def test_no_data_at_all_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="an epoch has no batch"):
        run(tmp_path, data=ToyData(steps_per_epoch=0))


def test_an_operator_that_refuses_what_is_no_number_is_a_run_that_has_diverged(tmp_path):
    class Strict(Toy):
        def loss(self, inputs, targets):
            found = super().loss(inputs, targets)
            if not np.isfinite(float(found["loss"])):
                raise ValueError("input must be greater than or equal to 0")
            return found

    plan = plan_of(learning_rate=3e38, optimizer="momentum", log_interval=100)
    with pytest.raises(RaysegError, match="weights are not finite; training has diverged"):
        run(tmp_path, plan, network=Strict())


def test_an_error_of_the_network_comes_out_as_it_is(tmp_path):
    class Broken(Toy):
        def loss(self, inputs, targets):
            raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer"):
        run(tmp_path, network=Broken())


def test_a_warm_up_longer_than_the_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="warmup_steps is 18, but the whole run has 18 steps"):
        run(tmp_path, plan_of(warmup_steps=18))


def test_mixed_precision_is_refused_where_it_would_do_nothing(tmp_path):
    if paddle.device.get_device() != "cpu":
        pytest.skip("this is no CPU")
    with pytest.raises(ConfigError, match="amp is O1, but Paddle has mixed precision on GPUs only and this is cpu"):
        run(tmp_path, plan_of(amp="O1"))


class Halves(ToyData):
    """The same batches, each in two halves."""

    def __call__(self, epoch, *, start=0):
        for batch in ToyData(steps_per_epoch=self.steps_per_epoch // 2)(epoch):
            for part in (slice(0, 4), slice(4, 8)):
                inputs, targets = {"image": batch.inputs["image"][part]}, {"wanted": batch.targets["wanted"][part]}
                yield batch._replace(inputs=inputs, targets=targets)


@pytest.mark.parametrize("clip", [None, ("global_norm", 0.5), ("norm", 0.1)])
@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_two_accumulated_halves_make_the_step_of_the_whole_batch(tmp_path, optimizer, clip):
    states = []
    for data, changes in ((ToyData(), {}), (Halves(steps_per_epoch=2 * STEPS), {"accumulate": 2, "batch_size": 4})):
        paddle.seed(5)
        network = Toy(norm=False, drop=0.0)
        run(tmp_path / str(len(states)), plan_of(**changes, optimizer=optimizer, clip=clip), data=data, network=network)
        states.append({name: tensor.numpy() for name, tensor in network.state_dict().items()})
    whole, halves = states
    for name in whole:
        assert np.allclose(whole[name], halves[name], atol=2e-6), name


def test_an_epoch_that_accumulation_does_not_divide_loses_nothing(tmp_path):
    events = []
    ended = run(tmp_path, plan_of(length=2, accumulate=2, log_interval=1), events=events)
    assert ended.step == 2 * 2  # of 3 batches each: two, then the one that is left
    assert events[0]["steps"] == 4
