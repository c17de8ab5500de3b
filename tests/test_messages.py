"""What a user reads when a command cannot do as asked: one line, with the value and the remedy. Nothing here starts Ray."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rayseg.cli import REFUSED, main

SEGMENT = ["segment", "in", "out", "-m", "fake:instance"]


class Harmful:
    """Calls a function of its choice when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("harm.done"),))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with files that cannot be used, as the current one."""
    (tmp_path / "cut.yaml").write_text("a: [1\n")
    (tmp_path / "words.yaml").write_text("only words\n")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "harmful.pdparams").write_bytes(pickle.dumps({"w": Harmful()}, protocol=2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "value", "remedy"),
    [
        (["segment", "in", "out"], "no model", "--model DIR"),
        ([*SEGMENT, "-c", "cut.yaml"], "cut.yaml: not a YAML file: expected ',' or ']'", "line 2, column 1"),
        ([*SEGMENT, "-c", "words.yaml"], "words.yaml", "expected `key: value` lines"),
        ([*SEGMENT, "-o", "threshold=[1"], "-o 'threshold=[1': the value is not a YAML scalar", "line 1, column 3"),
        ([*SEGMENT, "--storage-option", "anon"], "--storage-option 'anon'", "expected key=value"),
        ([*SEGMENT, "--scenes", "--save-label-maps"], "save_label_maps", "Leave it out"),
        (["export", "SOLOv2", "new", "--draw-threshold", "3"], "--draw-threshold", "[0, 1], got 3.0"),
        (["export", "SOLOv2", "new", "--labels", "gone.txt"], "--labels gone.txt: there is no such file", "names as a,b,c"),
        (["export", "SOLOv2"], "where to?", "rayseg export SOLOv2 DIR"),
        (["export", "SOLOv2", "new", "--weights", "harmful.pdparams"], "harmful.pdparams: refused", "pickle"),
        (["evaluate"], "evaluate needs -c FILE", "rayseg evaluate OUT --truth FILE"),
        (["verify", "empty"], "empty: no job.json there", "not the output of a rayseg job"),
        (["jobs", "status"], "which job?", "rayseg jobs list"),
        (["jobs", "list", "a"], "takes no ID, got a", "status, logs and stop take one"),
        (["await", "--cpus", "1"], "no command to run", "name one of segment"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_refusal_is_one_line_with_the_value_and_the_remedy(here, capsys, words, value, remedy):
    assert main(words) == REFUSED
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("rayseg: "), said
    assert value in said and remedy in said, said
    assert not (here / "harm.done").exists() and not (here / "new").exists()


def test_a_reader_that_has_enough_ends_a_command_quietly():
    command = [sys.executable, "-m", "rayseg.cli", "models"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        said = running.stderr.read()
    assert running.returncode == 128 + signal.SIGPIPE
    assert not said
