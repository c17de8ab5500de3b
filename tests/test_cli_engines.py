"""`rayseg engines`: what it refuses at once, and what it prints."""

from __future__ import annotations

import json

import pytest

from rayseg.cli import DONE, INCOMPLETE, REFUSED, engines, main
from rayseg.predict.backends import trial
from rayseg.predict.backends.compare import Change
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.backends.trial import Choice, Trial

ROWS = (
    Trial("paddle", "fp32", "right", "the measure of the others", 1, 100.0, 2.0, 12),
    Trial("openvino", "fp32", "failed", "its process crashed (SIGSEGV)"),
    Trial("openvino", "bf16", "changed", "of 12 objects 1 lost, 0 new", 1, 20.0, 1.0, 0, Change(12, 1, 0, 0.9)),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fake:instance", "."], "fake models have no engines to choose from"),
        (["fake:instance", ".", "--precision", "int8"], "--precision 'int8' is unknown; use fp32, bf16, fp16 or all"),
        (["fake:instance", ".", "--images", "0"], "--images must be at least 1, got 0"),
        (["fake:instance", ".", "--threads", "0"], "--threads must be at least 1, got 0"),
        (["fake:instance", ".", "--budget-s", "nan"], "--budget-s must be above 0, got nan"),
        (["nowhere", "."], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(arguments, message, capsys):
    assert main(["engines", *arguments]) == REFUSED
    assert message in capsys.readouterr().err


@pytest.fixture
def answered(monkeypatch, tmp_path):
    """A command whose trial and scores are known; gives what it was asked."""
    from tests.pipeline.jobs import archive

    asked = {}

    def try_engines(spec, images, **settings):
        asked.update(settings, images=len(images))
        return Choice(
            "paddle" if settings["precision"] == "fp32" else None, settings["precision"], 1, ROWS, 2, 0.5, "none has it"
        )

    monkeypatch.setattr(trial, "try_engines", try_engines)
    monkeypatch.setattr("rayseg.predict.model_dir.load_model_dir", lambda path: _Real(fake_spec()))
    monkeypatch.setattr(
        engines, "_scores", lambda *_, **__: {("paddle", "fp32"): {"ap": 0.25}, ("openvino", "bf16"): "it crashed"}
    )
    monkeypatch.setattr("rayseg.evaluation.engines.open_truth", lambda *_: None)
    asked["source"] = str(archive(tmp_path / "images", 5))
    return asked


class _Real:
    """A fake that says that it is none."""

    scripted = False

    def __init__(self, spec):
        self._spec = spec

    def __getattr__(self, name):
        return getattr(self._spec, name)


def test_the_table_has_a_row_for_each_engine_and_precision(answered, capsys):
    arguments = [
        "engines",
        "model",
        answered["source"],
        "--device",
        "cpu",
        "--images",
        "3",
        "--precision",
        "all",
        "--truth",
        "t.json",
    ]
    assert main(arguments) == DONE
    printed = capsys.readouterr().out
    head, plain, crashed, fewer, unscored, last = printed.splitlines()
    assert head.split() == ["engine", "precision", "ms/image", "at", "once", "start", "s", "verdict", "ap", "reason"]
    assert "0.2500" in plain and "SIGSEGV" in crashed and "1 lost" in fewer
    assert unscored == "openvino bf16 was not scored: it crashed" and last == "compared on 2 images; chosen: paddle fp32"
    assert (answered["images"], answered["precision"], answered["also"]) == (3, "fp32", ["bf16", "fp16"])


def test_json_holds_the_choice_and_no_choice_is_no_success(answered, capsys):
    assert main(["engines", "model", answered["source"], "--device", "cpu", "--precision", "bf16", "--json"]) == INCOMPLETE
    found = json.loads(capsys.readouterr().out)
    assert found["engine"] is None and found["reason"] == "none has it"
    assert found["trials"][2]["change"]["lost"] == 1 and found["scores"] == {}
