"""What `rayseg submit` and `rayseg jobs` refuse, upload and send, without a cluster. Real ones are in test_two_nodes.py."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rayseg.cli import main
from rayseg.cli.jobs import _table
from rayseg.cli.submit import environment
from rayseg.errors import ConfigError
from rayseg.pipeline import remote
from rayseg.pipeline.capacity import large_enough
from rayseg.pipeline.remote import Job, JobServer
from rayseg.pipeline.upload import check_size, files_to_upload, pack

ROOT = Path(__file__).resolve().parents[2]
OUT = ["s3://bucket/in", "s3://bucket/out", "--model", "fake:instance"]
TRAIN = ["-c", "configs/semantic_segmentation/PP-LiteSeg-T.yaml", "-o", "Global.dataset_dir=/mnt/data"]


@pytest.fixture
def sent(monkeypatch) -> list[dict]:
    """What a job server was handed, in place of a cluster. The files of an archive are read before it is gone."""
    found: list[dict] = []

    class Server:
        def __init__(self, address):
            self.address = address or "http://here:8265"

        def submit(self, entrypoint, *, job_id, archive, env):
            files = zipfile.ZipFile(archive).namelist() if archive else None
            found.append({"command": shlex.split(entrypoint), "id": job_id, "files": files, "env": env, "at": self.address})

        def follow(self, job_id):
            yield "said\n"

        def job(self, job_id):
            return Job(job_id, "FAILED", 2, "", "", None, None)

    monkeypatch.setattr(remote, "JobServer", Server)
    monkeypatch.chdir(ROOT)
    return found


@pytest.fixture
def answering() -> Iterator[tuple[str, dict]]:
    """A web server, and what it answers to each path: (status, text)."""
    answers: dict[str, tuple[int, str]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = answers.get(self.path, (404, "not here"))
            if callable(text):
                status, text = text(self.headers)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


def refused(capsys, *arguments: str) -> str:
    """What a command that is refused says."""
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_a_job_is_sent_with_its_arguments_the_checkout_and_nothing_that_git_ignores(sent, capsys):
    words = [*OUT, "--address", "http://head:8265", "--storage-option", "region=eu west", "--max-failures", "1%"]
    assert main(["submit", "--exclude", "demo", "segment", *words, "--exclude", "tests", "--job-id", "mine"]) == 0
    job = sent[0]
    expected = ["python", "-m", "rayseg.cli", "segment", *OUT, "--storage-option", "region=eu west", "--max-failures", "1%"]
    assert job["command"] == expected and job["at"] == "http://head:8265" and job["id"] == "mine"
    assert {"rayseg/cli/__init__.py", "jobs/segment.py", "configs/segment.yaml", "rayseg/pipeline/report/style.css"} <= set(
        job["files"]
    )
    assert not any(name.startswith(("demo/", "tests/", ".git/")) or "__pycache__" in name for name in job["files"])
    assert capsys.readouterr().out == "mine\n"


def test_nothing_is_uploaded_where_rayseg_is_installed_and_machines_can_be_waited_for(sent, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = ["submit", "segment", *OUT, "--installed", "--await-cpus", "8", "--await-gpus", "1", "--await-s", "60"]
    command += ["--python", "python3.11"]
    assert main(command) == 0
    assert sent[0]["files"] is None
    waiting = ["python3.11", "-m", "rayseg.cli", "await", "--cpus", "8", "--gpus", "1", "--patience-s", "60", "segment", *OUT]
    assert sent[0]["command"] == waiting
    assert main(["submit", "segment", *OUT, "--installed"]) == 0
    assert sent[1]["id"].startswith("rayseg-segment-") and sent[1]["id"] != sent[0]["id"]


def test_with_follow_the_exit_status_is_the_jobs(sent, capsys):
    assert main(["submit", "segment", *OUT, "--follow", "--job-id", "x"]) == 2
    said = capsys.readouterr()
    assert said.out == "said\n" and "x: FAILED, exit status 2" in said.err


@pytest.mark.parametrize(
    "status, code, expected",
    [("SUCCEEDED", 0, 0), ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", -9, 1), ("FAILED", None, 1), ("STOPPED", -15, 130)],
)
def test_each_end_of_a_job_has_its_exit_status(status, code, expected):
    assert Job("a", status, code, "", "", None, None).exit_status == expected


def test_variables_are_named_rather_than_written_out(sent, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    assert main(["submit", "--env", "A=1", "segment", *OUT, "--env", "AWS_SECRET_ACCESS_KEY", "--env", "B=x=y"]) == 0
    assert sent[0]["env"] == {"A": "1", "AWS_SECRET_ACCESS_KEY": "s3cret", "B": "x=y"}
    assert "s3cret" not in str(capsys.readouterr()) and "s3cret" not in str(sent[0]["command"])


@pytest.mark.parametrize(
    "given, message",
    [
        ("NOT_SET_ANYWHERE", "not set here"),
        ("1X=2", "expected NAME or NAME=VALUE"),
        ("RAY_ADDRESS=x", "the cluster sets this itself"),
        ("AWS_SECRET_ACCESS_KEY=abc", "seen by all of this machine"),
    ],
)
def test_variables_that_cannot_be_are_refused(given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        environment([given])
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    "words, message",
    [
        (["segment", "images", *OUT[1:]], "SRC images: a relative path"),
        (["segment", OUT[0], "out", *OUT[2:]], "OUT out: a relative path"),
        (["segment", *OUT[:2], "--model", "nowhere/model"], "nowhere/model is not there"),
        (["segment", *OUT[:2], "--model", "s3://bucket/model"], "a model is read from a folder"),
        (["segment", *OUT[:2], "--model", "demo/model", "--exclude", "demo"], "is left out of what is uploaded; add --include"),
        (["segment", *OUT, "-o", "model=nowhere"], "nowhere is not there"),
        (["segment", *OUT, "--num-cpus", "4"], "--num-cpus is about"),
        (["segment", *OUT, "--storage-option", "secret=abc"], "--env AWS_ACCESS_KEY_ID"),
        (["segment", *OUT, "-o", "source_options={secret: abc}"], "--env AWS_ACCESS_KEY_ID"),
        (["segment", *OUT, "--job-id", "a b"], "--job-id 'a b'"),
        (["segment", *OUT, "--max-upload-mib", "0.5"], "Largest: "),
        (["segment", *OUT, "--include", "../elsewhere"], "--include ../elsewhere"),
        (["segment", *OUT, "--working-dir", "nowhere"], "--working-dir nowhere: no such folder"),
        (["segment", *OUT, "--working-dir", "demo"], "no checkout of rayseg"),
        (["segment", *OUT[:2], "--model", "m", "--installed"], "nothing is uploaded"),
        (["train", *TRAIN], "Global.output output: a relative path"),
        (["train", *TRAIN[:2], "-o", "Global.output=/mnt/out", "-o", "Global.dataset_dir=no/data"], "no/data is not there"),
        (["train", "-c", "nowhere.yaml"], "nowhere.yaml is not there"),
        (["train", *TRAIN, "-o", "Global.output=/mnt/o", "-o", "Train.lerning_rate=1"], "learning_rate"),
    ],
)
def test_what_would_mean_something_else_on_the_cluster_is_refused_before_anything_is_sent(sent, capsys, words, message):
    said = refused(capsys, "submit", *words)
    assert message in said and "abc" not in said, said
    assert sent == []


def test_arguments_that_the_command_does_not_know_are_refused_here(sent, capsys):
    with pytest.raises(SystemExit):
        main(["submit", "segment", *OUT, "--treshold", "0.5"])
    assert "--treshold" in capsys.readouterr().err and sent == []


def test_local_paths_that_may_be_the_same_everywhere_are_let_through_with_a_word(sent, capsys):
    assert main(["submit", "segment", "/mnt/in", "/mnt/out", "--model", "demo/model"]) == 0
    said = capsys.readouterr().err
    assert "OUT /mnt/out: it must be the same storage" in said and "--model demo/model: travels with this job only" in said
    assert main(["submit", "train", *TRAIN, "-o", "Global.output=/mnt/out"]) == 0
    assert "Global.dataset_dir /mnt/data: it must be the same storage" in capsys.readouterr().err


def test_an_upload_leaves_out_environments_results_caches_and_credentials(tmp_path):
    kept = ["a.py", "deep/er/b.yaml", "model/inference.json"]
    left = [".git/config", "env/pyvenv.cfg", "env/lib/x.py", "out/job.json", "out/plan/p.parquet", "x/__pycache__/c.pyc", ".env"]
    for name in [*kept, *left, "data/huge.tif", "results/run/table.csv"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert files_to_upload(tmp_path, exclude=["data", "results/run"]) == kept
    assert files_to_upload(tmp_path, exclude=["*.tif", "results/"], include=["./out"]) == [
        *kept,
        "out/job.json",
        "out/plan/p.parquet",
    ]


def test_what_git_ignores_travels_only_when_it_is_named(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("runs/\n")
    (tmp_path / "runs/model").mkdir(parents=True)
    (tmp_path / "runs/model/m.json").write_text("{}")
    (tmp_path / "new.py").write_text("")
    assert files_to_upload(tmp_path) == [".gitignore", "new.py"]
    assert files_to_upload(tmp_path, include=["runs/model"]) == [".gitignore", "new.py", "runs/model/m.json"]
    with pytest.raises(ConfigError, match="--include runs/none: nothing there"):
        files_to_upload(tmp_path, include=["runs/none"])


def test_the_same_files_make_the_same_archive_and_too_many_bytes_are_refused_by_name(tmp_path):
    folder = tmp_path / "f"
    (folder / "data").mkdir(parents=True)
    (folder / "data/x.bin").write_bytes(b"x" * 3000)
    (folder / "a.py").write_text("1")
    names = files_to_upload(folder)
    first = pack(folder, names, tmp_path / "1.zip").read_bytes()
    (folder / "a.py").write_text("1")
    assert pack(folder, names, tmp_path / "2.zip").read_bytes() == first
    assert check_size(folder, names, limit=3001) == 3001
    with pytest.raises(ConfigError, match=r"2 files of .* Largest: data 0.0 MiB, a.py 0.0 MiB. .*--exclude"):
        check_size(folder, names, limit=3000)


def test_an_address_that_is_none_and_one_where_nothing_or_something_else_answers_are_told_apart(answering):
    with pytest.raises(ConfigError, match="--address head:6379: expected the URL of the dashboard"):
        JobServer("head:6379")
    with pytest.raises(ConfigError, match="no Ray dashboard there .*ray dashboard cluster.yaml"):
        JobServer("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="answers, but not as a Ray dashboard .*404"):
        JobServer(answering[0])


def test_a_missing_token_and_a_wrong_one_are_told_apart(answering, monkeypatch, tmp_path):
    address, answers = answering
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)

    def version(headers):
        if "Authorization" not in headers:
            return 401, "Unauthorized: Missing authentication token"
        right = headers["Authorization"] == "Bearer right"
        return (200, json.dumps({"ray_version": "2.60.0"})) if right else (403, "Forbidden: Invalid authentication token")

    answers["/api/version"] = (200, version)
    answers["/api/jobs/"] = (200, "[]")
    with pytest.raises(ConfigError, match="asks for a token, and none was sent. Set RAY_AUTH_MODE=token"):
        JobServer(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(ConfigError, match="refuses this token.*RAY_AUTH_TOKEN_PATH"):
        JobServer(address)
    (tmp_path / "token").write_text("right\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # what is given counts
    assert JobServer(address).jobs() == []
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no token can be read there"):
        JobServer(address)


def test_the_token_of_the_home_directory_is_sent_only_where_the_mode_asks_for_it(monkeypatch, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert remote._headers() == {}
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert remote._headers() == {"Authorization": "Bearer mine"}


def test_a_broken_connection_is_taken_up_where_it_broke(monkeypatch):
    server = object.__new__(JobServer)
    server.address = "http://x"
    tails = iter([["one ", "two ", OSError("cut")], ["one ", "two thr", OSError("cut")], ["one two three"]])
    states = iter(["RUNNING", "SUCCEEDED"])

    def tail(job_id):
        for part in next(tails):
            if isinstance(part, Exception):
                raise part
            yield part

    monkeypatch.setattr(server, "_tail", tail)
    monkeypatch.setattr(server, "job", lambda job_id: Job(job_id, next(states), 0, "", "", None, None))
    monkeypatch.setattr(remote.time, "sleep", lambda s: None)
    assert "".join(server.follow("a")) == "one two three"


def test_a_cluster_that_is_lost_for_long_ends_the_following_but_not_the_job(monkeypatch):
    server = object.__new__(JobServer)
    server.address = "http://x"

    def tail(job_id):
        raise OSError("gone")
        yield

    monkeypatch.setattr(server, "_tail", tail)
    monkeypatch.setattr(server, "job", lambda job_id: Job(job_id, "RUNNING", None, "", "", None, None))
    with pytest.raises(ConfigError, match="lost sight of a for 0 s .gone.*rayseg jobs status a"):
        list(server.follow("a", patience_s=0))


def test_jobs_are_listed_with_their_state_in_columns():
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    rows = [
        Job("a", "SUCCEEDED", 0, "python -m rayseg.cli segment x", "", start, start.replace(hour=4)),
        Job("longer", "PENDING", None, "b", "", None, None),
    ]
    lines = _table(rows)
    assert " ".join(lines[1].split()) == "a SUCCEEDED 0 2026-01-02 03:04:05 1:00:00 python -m rayseg.cli segment x"
    assert lines[2].split() == ["longer", "PENDING", "-", "-", "-", "b"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["jobs", "list", "a"], "list takes no ID"),
        (["jobs", "stop"], "which job? rayseg jobs stop ID"),
        (["jobs", "stop", "a", "--follow"], "--follow belongs to"),
        (["await", "--cpus", "1"], "no command to run"),
        (["await", "--cpus", "1", "verify", "x"], "'verify' is not a command it runs; name one of"),
        (["await", "--cpus", "1", "--patience-s", "0", "segment", "x"], "must be above 0"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(capsys, words, message):
    assert message in refused(capsys, *words)


def test_waiting_for_machines_needs_a_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ConfigError, match="RAY_ADDRESS is not set"), large_enough(cpus=1, patience_s=1):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "x")
    with pytest.raises(ConfigError, match="at least one of them must be above 0"), large_enough(cpus=0, patience_s=1):
        pass
