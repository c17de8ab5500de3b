"""What is kept of a search on disk, and whom a folder belongs to."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rayseg.errors import JobMismatch, OutputError
from rayseg.tuning.points import Point
from rayseg.tuning.records import Record, begun, claim, read_record, read_stage, with_history, write_record

POINT = Point("1-002", 1, {"Train.learning_rate": 0.5})


def test_a_record_comes_back_as_it_was(tmp_path):
    record = Record("1-002", 1, {"Train.train_size": [64, 64]}, status="failed", reason="ü <b>", scores=[{"score": 0.5}])
    write_record(tmp_path, record)
    assert read_record(tmp_path, "1-002") == record
    assert read_stage(tmp_path, 1) == [record] and read_stage(tmp_path, 2) == []
    write_record(tmp_path, replace(record, best_score=float("nan")))
    found = read_record(tmp_path, "1-002")
    assert found is not None and found.best_score is None, "other readers of JSON know no NaN"


def test_a_trial_of_that_name_with_other_parameters_is_refused(tmp_path):
    assert begun(tmp_path, POINT).status == "running"
    write_record(tmp_path, Record("1-002", 1, {"Train.learning_rate": 0.1}))
    with pytest.raises(OutputError, match="1-002: holds a trial with .*0.1.* this search has .*0.5"):
        begun(tmp_path, POINT)


def test_a_record_that_is_not_ours_is_refused_with_what_to_do(tmp_path):
    write_record(tmp_path, begun(tmp_path, POINT))
    (tmp_path / "trials/1-002/trial.json").write_text('{"id": 1')
    with pytest.raises(OutputError, match="not the record of a trial .* remove the folder"):
        read_record(tmp_path, "1-002")


def test_a_trial_without_an_end_is_told_by_its_log(tmp_path):
    write_record(tmp_path, begun(tmp_path, POINT))
    events = [
        {"event": "step", "epoch": 0, "step": 1, "rate": 0.1, "seconds": 2.0},
        {"event": "step", "epoch": 0, "step": 2, "rate": 0.3, "seconds": 4.0},
        {"event": "evaluated", "epoch": 1, "step": 2, "miou": 0.7, "best": True},
        {"event": "evaluated", "epoch": 2, "step": 4, "miou": 0.6, "best": False},
    ]
    lines = [json.dumps(event) for event in events] + ['{"event": "st']
    (tmp_path / "trials/1-002/history.jsonl").write_text("\n".join(lines))
    found = with_history(tmp_path, begun(tmp_path, POINT), metric="miou")
    assert (found.best_score, found.best_step, found.epochs, found.steps, found.seconds) == (0.7, 2, 2, 4, 4.0)
    assert (found.first_rate, found.first_rate_step, found.highest_rate) == (0.1, 0, 0.3)
    assert [(s["evaluation"], s["score"]) for s in found.scores] == [(1, 0.7), (2, 0.6)]


def test_a_folder_belongs_to_one_search_wherever_that_runs(asked, tmp_path):
    settings = asked({"space": {"Train.learning_rate": [0.1, 0.2]}})
    claim(tmp_path, settings)
    claim(tmp_path, settings.with_values({"Cluster.address": "auto", "Search.max_concurrent_trials": 1, "Global.mode": "tune"}))
    with pytest.raises(JobMismatch, match="Train.epochs_iters was 4, is 5"):
        claim(tmp_path, settings.with_values({"Train.epochs_iters": 5}))
    with pytest.raises(JobMismatch, match=r"Search.space was .*0.2.*, is .*0.3"):
        claim(tmp_path, settings.with_values({"Search.space": {"Train.learning_rate": [0.1, 0.3]}}))
    with pytest.raises(JobMismatch, match="Cluster.num_workers was None, is 2"):
        claim(tmp_path, settings.with_values({"Cluster.num_workers": 2}))
    (tmp_path / "tune.json").write_text("[]")
    with pytest.raises(OutputError, match="not a search of rayseg"):
        claim(tmp_path, settings)
