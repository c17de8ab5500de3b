"""The best trial, the cost, the tables, and a page that does no harm."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import pytest

from rayseg.config.train import Settings
from rayseg.tuning.page import render
from rayseg.tuning.records import Record
from rayseg.tuning.result import TuneResult, aligned, best_record, write_tables

EVIL = "<script>alert('x')</script>&\"\n\u202e"


def trial(name: str, score: float | None, **changes) -> Record:
    scores = [{"evaluation": n, "step": 10 * n, "score": score} for n in (1, 2)]
    usual = {"status": "done", "seconds": 10.0, "epochs": 2, "steps": 20, "first_rate": 0.1, "best_step": 20, "best_epoch": 2}
    return Record(
        name, int(name[0]), {"Train.pretrain_weight_path": name}, best_score=score, scores=scores, **{**usual, **changes}
    )


@pytest.fixture
def result(tmp_path) -> TuneResult:
    first = [
        trial("1-001", 0.5),
        trial("1-002", 0.7, workers=2, gpus=0.5),
        trial("1-003", 0.9, status="failed", reason=EVIL),
        trial("1-004", 0.2, status="stopped", reason="stopped after 2 evaluations"),
    ]
    second = [replace(first[1], id="2-001", stage=2, same_as="1-002")]
    (tmp_path / "best_model").mkdir()
    return TuneResult(
        folder=tmp_path,
        model="PP-LiteSeg-T",
        metric="miou",
        mode="max",
        keys=["Train.pretrain_weight_path"],
        stages=[first, second],
        shown={
            record.id: {"Train.pretrain_weight_path": EVIL if record.id == "1-001" else record.id} for record in first + second
        },
        best=first[1],
        best_model=tmp_path / "best_model",
        seconds=12.0,
        at_once=2,
    )


def test_the_best_trial_has_the_best_score_of_those_that_did_not_fail():
    records = [trial("1-001", 0.5), trial("1-002", 0.5), trial("1-003", None), trial("1-004", 0.9, status="failed")]
    assert best_record(records, "max").id == "1-001"
    assert best_record([*records, trial("1-005", 0.1, status="stopped")], "min").id == "1-005"
    assert best_record(records[2:], "max") is None


def test_cost_counts_workers_and_gpus_and_nothing_twice(result):
    assert result.cost == {"trial_seconds": 40.0, "worker_seconds": 50.0, "gpu_seconds": 10.0}


def test_tables_tell_every_trial_and_can_be_read_by_anything(result):
    write_tables(result)
    told = json.loads((result.folder / "tune_result.json").read_text(), parse_constant=pytest.fail)
    assert told["done_flag"] is True and told["best"]["trial"] == "1-002" and told["best"]["best_model"] == "best_model"
    assert told["counts"] == {"done": 3, "stopped": 1, "failed": 1}
    assert [t["reason"] for t in told["trials"]][2] == EVIL and told["trials"][4]["folder"] == "trials/1-002"
    with (result.folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["1-001", "1-002", "1-003", "1-004", "2-001"]
    assert rows[0]["Train.pretrain_weight_path"] == EVIL and rows[1]["best_score"] == "0.7"


def test_the_text_has_one_aligned_table_a_stage(result):
    first, second, hint = result.to_text().split("\n\n")
    assert "A failed trial is tried again" in hint
    assert first.startswith("Stage 1: Train.pretrain_weight_path\n") and "1-003" in first and "is 1-002" in second
    table = aligned(["a", "bbb"], [["1", "2"], ["333", "4"]])
    assert table == "a    bbb\n---  ---\n1    2\n333  4"


def test_nothing_from_outside_becomes_markup_and_nothing_is_fetched(result):
    page = render(result, settings=Settings.from_mapping({"Global": {"model": "PP-LiteSeg-T", "dataset_dir": EVIL}}))
    assert "<script" not in page and "alert(" in page and "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert not re.findall(r'(?:src|href)="?(?!#)', page) and "url(" not in page
    assert "default-src 'none'" in page
    assert page.count("<polyline") == 5 and page.count('class="failed"') == 1


def test_a_page_without_any_score_to_draw_is_still_a_page(result):
    bare = [[replace(record, scores=[]) for record in records] for records in result.stages]
    assert "<svg" not in render(
        replace(result, stages=bare), settings=Settings.from_mapping({"Global": {"model": "PP-LiteSeg-T"}})
    )
