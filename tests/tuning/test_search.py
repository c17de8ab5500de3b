"""Whole searches on a small Ray, over toys."""

from __future__ import annotations

import json

import pytest
import ray

from rayseg.config.train import load_settings
from rayseg.errors import ConfigError, JobMismatch, OutputError, RaysegError
from rayseg.pipeline.lock import locked
from rayseg.pipeline.storage import Store
from rayseg.tuning.points import value_of
from rayseg.tuning.records import read_record
from rayseg.tuning.search import tune
from tests.tuning import fakes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]


def test_every_trial_trained_with_its_parameters(searched):
    assert [r.id for r in searched.result.trials] == ["1-001", "1-002", "1-003", "1-004", "2-001", "2-002"]
    for record in searched.result.trials:
        if record.status != "done" or record.same_as:
            continue
        stored = load_settings(searched.out / "trials" / record.id / "config.yaml")
        for key, value in record.parameters.items():
            assert value_of(stored, key) == value
        assert stored.train.batch_size == searched.settings.train.batch_size
        assert record.first_rate == pytest.approx(record.parameters["Train.learning_rate"]) and record.first_rate_step == 0
        assert record.highest_rate == pytest.approx(record.first_rate)


def test_a_trial_that_fails_is_told_with_its_reason_and_stops_no_other(searched):
    first, second = searched.result.stages
    assert [r.status for r in first] == ["done", "done", "failed", "failed"]
    assert first[2].reason == "DatasetError: the <b>data</b> are gone" and first[2].best_score is not None
    assert [r.status for r in second] == ["done", "done"]
    told = [event for event in searched.events if event["event"] == "failed"]
    assert {event["trial"] for event in told} == {"1-003", "1-004"}


def test_each_stage_begins_with_the_best_of_the_one_before(searched):
    best = {"Train.learning_rate": 0.02, "Train.weight_decay": 0.0}
    assert [r.parameters for r in searched.result.stages[1]] == [{**best, "Train.epochs_iters": n} for n in (4, 6)]
    assert searched.result.best.id == "2-002" and searched.result.best.parameters["Train.epochs_iters"] == 6


def test_a_trial_of_an_earlier_stage_with_the_same_settings_is_not_run_again(searched):
    same = searched.result.stages[1][0]
    assert same.same_as == "1-002" and fakes.starts(searched.out, "2-001") == 0
    assert same.best_score == searched.result.stages[0][1].best_score


def test_the_best_weights_and_settings_lie_where_a_training_run_leaves_them(searched):
    out = searched.out
    assert (out / "best_model" / "model.pdparams").read_bytes() == (out / "trials/2-002/best_model/model.pdparams").read_bytes()
    assert (out / "best_model" / "inference" / "inference.yml").exists()
    settings = load_settings(out / "config.yaml")
    assert settings.general.output == str(out) and settings.train.epochs_iters == 6
    assert settings.evaluate.weight_path == str(out / "best_model" / "model.pdparams")
    told = json.loads((out / "tune_result.json").read_text())
    assert told["best"]["score"] == searched.result.best.best_score and len(told["trials"]) == 6
    assert "2-002" in (out / "tune.html").read_text() and not (out / "ray").exists()


def test_the_same_search_again_runs_nothing_and_says_the_same(searched):
    again = tune(searched.settings, train=fakes.train_toy)
    assert [fakes.starts(searched.out, r.id) for r in again.trials] == [1, 1, 1, 1, 0, 1]
    assert again.stages == searched.result.stages and again.to_text() == searched.result.to_text()


def test_another_search_is_kept_out_of_the_folder(searched):
    other = searched.settings.with_values({"Train.seed": 5})
    with pytest.raises(JobMismatch, match="Train.seed was 0, is 5"):
        tune(other, train=fakes.train_toy)
    with locked(Store(str(searched.out))), pytest.raises(OutputError, match="is writing there now"):
        tune(searched.settings, train=fakes.train_toy)


def test_a_lost_process_is_a_failed_trial_and_a_run_that_is_not_what_was_asked_is_one_too(asked, tmp_path):
    lost = tune(asked({"space": {"Train.weight_decay": [0.0, 0.25]}}), train=fakes.train_toy)
    assert [r.status for r in lost.trials] == ["done", "failed"]
    assert "the trial's process was lost" in lost.trials[1].reason
    wrong = asked({"space": {"Train.learning_rate": [0.01]}}).with_values({"Global.output": str(tmp_path / "wrong")})
    with pytest.raises(
        RaysegError, match="no trial of stage 1 has a score .*rate of step 1: the optimizer had 0.02.* ask for 0.01"
    ):
        tune(wrong, train=fakes.train_otherwise)
    record = read_record(tmp_path / "wrong", "1-001")
    assert record.status == "failed" and fakes.starts(tmp_path / "wrong", "1-001") == 1


def test_a_trial_that_failed_is_tried_again_from_its_checkpoint_as_often_as_asked(asked, tmp_path):
    search = {"space": {"Train.weight_decay": [0.5]}, "max_failures": 1}
    with pytest.raises(RaysegError, match="the <b>data</b> are gone"):
        tune(asked(search), train=fakes.train_toy)
    assert fakes.starts(tmp_path / "out", "1-001") == 2


def test_weak_trials_are_stopped_early_and_keep_their_best_weights(asked, tmp_path):
    search = {
        "space": {"Train.learning_rate": [0.02, 0.5]},
        "scheduler": "asha",
        "reduction_factor": 2,
        "max_concurrent_trials": 1,
    }
    result = tune(asked(search, epochs_iters=6), train=fakes.train_toy)
    strong, weak = result.trials
    assert strong.status == "done" and weak.status == "stopped" and result.best.id == "1-001"
    assert weak.steps < 6 and weak.best_score == pytest.approx(weak.scores[0]["score"]) and weak.highest_rate
    assert (tmp_path / "out/trials/1-002/best_model/model.pdparams").exists()


def test_what_would_fail_every_trial_fails_before_one_starts(asked, tmp_path):
    with pytest.raises(ConfigError, match="Search.space is empty"):
        tune(asked({}))
    with pytest.raises(ConfigError, match="Train.resume_path goes on with one run"):
        tune(asked({"space": {"Train.seed": [1]}}, resume_path="x"))
    with pytest.raises(ConfigError, match="lower Train.eval_interval"):
        tune(asked({"space": {"Train.seed": [1]}, "scheduler": "asha", "grace_period": 9}))
    with pytest.raises(ConfigError, match="9 workers with 2 CPU each do not fit .*nodes: 4 CPU"):
        tune(asked({"space": {"Train.seed": [1]}}).with_values({"Cluster.num_workers": 9}))
    assert not (tmp_path / "out" / "trials").exists() and ray.is_initialized()
