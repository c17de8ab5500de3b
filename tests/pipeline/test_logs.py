"""Log lines: as JSON one object a line that says what it is about, as text as they were."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from contextvars import copy_context
from pathlib import Path

import pytest

from rayseg import logs
from rayseg.pipeline.metrics import job_tag
from rayseg.pipeline.progress import Progress
from rayseg.tables import Unit

from .jobs import archive


@pytest.fixture
def lines():
    """A logger that writes JSON lines, and what it wrote."""
    stream, log = io.StringIO(), logging.getLogger("rayseg.test_logs")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    log.addHandler(handler)
    log.propagate = False
    yield log, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(handler)


def test_a_line_says_when_how_grave_who_and_what(lines):
    log, written = lines
    log.warning("%d of %d\nare “gone”", 1, 2)
    (line,) = written()
    assert line.pop("time")[:2] == "20"
    assert line == {"level": "WARNING", "logger": "rayseg.test_logs", "message": "1 of 2\nare “gone”"}


def test_what_a_line_is_about_is_of_the_record_or_else_of_the_block(lines):
    log, written = lines
    with logs.about(job="a"):
        with logs.about(job="b", chunk="c"):
            log.error("x", extra={"chunk": "d", "unit": "7", "other": "left out"})
        log.error("y")
    log.error("z")
    about = [{k: v for k, v in line.items() if k in (*logs.FIELDS, "other")} for line in written()]
    assert about == [{"job": "b", "chunk": "d", "unit": "7"}, {"job": "a"}, {}]


def test_a_thread_that_takes_the_context_along_is_about_the_same(lines):
    log, written = lines
    with logs.about(job="a"):
        thread = threading.Thread(target=copy_context().run, args=(log.error, "x"))
    thread.start()
    thread.join()
    assert written()[0]["job"] == "a"


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="never about.*jbo"), logs.about(jbo="a"):
        pass


def test_an_exception_stays_on_its_line(lines):
    log, written = lines
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("broke")
    (line,) = written()
    assert line["message"] == "broke" and "KeyError: 'k'" in line["traceback"]


def test_failed_units_are_lines_only_where_machines_read(caplog):
    failure = {"unit": "5", "uri": "a.png", "page": 0, "stage": "decode", "reason": "cut"}
    for log_units, n in ((False, 0), (True, 1)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="rayseg"):
            Progress(quiet=True, log_units=log_units).failed_unit("00-0-1", failure)
        assert len(caplog.records) == n
    assert (caplog.records[0].chunk, caplog.records[0].unit, caplog.records[0].stage) == ("00-0-1", "5", "decode")


def rayseg(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rayseg.cli", *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[2])


@pytest.mark.cluster
def test_a_whole_job_logs_one_object_a_line_with_its_failed_units(tmp_path):
    source, out = archive(tmp_path / "in", 3), tmp_path / "out"
    bad = source / "bad.png"
    bad.write_text("no image")
    flags = ["--model", "fake:instance", "--num-cpus", 2, "--log-json", "--no-report"]
    done = rayseg("segment", source, out, *flags)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 0
    ours = [line for line in lines if line["logger"].startswith("rayseg")]
    assert [line for line in ours if line.get("job") != job_tag(str(out))] == []
    (failed,) = [line for line in lines if "unit" in line]
    assert (failed["unit"], failed["uri"], failed["stage"]) == (str(Unit(str(bad)).unit_id), str(bad), "decode")
    assert failed["chunk"] and failed["level"] == "WARNING"
    assert "3 ok, 1 failed" in ours[-1]["message"]


def test_refusals_are_lines_too(tmp_path):
    refused = rayseg("retry", tmp_path, "--log-json")
    (line,) = [json.loads(text) for text in refused.stderr.splitlines()]
    assert refused.returncode == 2 and line["level"] == "ERROR" and line["error"] == "OutputError"


def test_what_others_write_to_stderr_becomes_lines_too():
    script = """
import logging, os, sys, warnings
from rayseg import logs
logs.set_up(logging.INFO, as_json=True)
os.write(2, b"from C++\\n\\n")
print("printed", file=sys.stderr)
warnings.warn("warned")
os.system("echo child >&2")
raise SystemExit("the end")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    messages = [line["message"] for line in lines if line["logger"] == "stderr"]
    assert messages == ["from C++", "printed", "child", "the end"]
    assert any("warned" in line["message"] for line in lines if line["logger"] == "py.warnings")
