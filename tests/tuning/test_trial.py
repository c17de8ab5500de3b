"""What a trial's process does besides training."""

from __future__ import annotations

import threading
import time

import pytest

from rayseg.errors import DatasetError, OutputError
from rayseg.pipeline.lock import locked
from rayseg.pipeline.storage import Store
from rayseg.tuning import trial
from rayseg.tuning.trial import best_of, reason_of


def test_a_trial_waits_for_the_process_of_a_killed_search_and_then_has_the_folder_to_itself(tmp_path):
    held, store = threading.Event(), Store(str(tmp_path))

    def former() -> None:
        with locked(store):
            held.set()
            time.sleep(0.8)

    thread = threading.Thread(target=former)
    thread.start()
    assert held.wait(5)
    with trial._alone(tmp_path, hold=True):
        assert not thread.is_alive()
        with pytest.raises(OutputError), locked(store):
            pass
    with trial._alone(tmp_path, hold=False), locked(store):
        pass  # whoever trains takes the lock
    thread.join()


def test_a_folder_that_stays_taken_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "PATIENCE_S", 0.0)
    with (
        locked(Store(str(tmp_path))),
        pytest.raises(OutputError, match="is writing there now"),
        trial._alone(tmp_path, hold=True),
    ):
        pass
    with pytest.raises(OutputError, match="mine"), trial._alone(tmp_path, hold=True):
        raise OutputError("mine")


def test_reasons_are_one_line_and_the_best_score_is_a_number():
    assert reason_of(DatasetError("a\nb")) == "DatasetError: a" and reason_of(KeyError()) == "KeyError"
    assert best_of([None, float("nan"), 0.2, 0.5], "max") == 0.5 and best_of([0.2, 0.5], "min") == 0.2
    assert best_of([None, float("nan")], "max") is None
