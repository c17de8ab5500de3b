"""Writes are whole or not at all; passing faults are ridden out, final ones are not."""

from __future__ import annotations

import errno
import os
import pickle

import pytest

from rayseg.errors import OutputError, SourceError
from rayseg.pipeline import storage
from rayseg.pipeline.storage import Store, filesystem, is_final, with_retries


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> Store:
    return Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out")


def test_a_file_is_read_back_as_written_and_listed_with_its_size(store):
    store.write("images/a.parquet", b"12345")
    store.write("images/a.parquet", b"123")
    assert store.read("images/a.parquet") == b"123"
    assert store.list("images") == {"a.parquet": 3}
    assert store.exists("images/a.parquet")


def test_what_is_not_there_is_empty_and_deleting_it_is_no_error(store):
    assert store.list("images") == {}
    assert not store.exists("images/a.parquet")
    store.delete("images/a.parquet")
    store.delete_folder("images")
    with pytest.raises(FileNotFoundError):
        store.read("images/a.parquet")


def test_a_store_travels_to_other_processes(store):
    store.write("a", b"x")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"x"


def test_what_lies_below_a_relative_folder_is_the_same_from_any_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    travelling = pickle.dumps(Store("out").below("tiles"))
    monkeypatch.chdir("/")
    pickle.loads(travelling).write("a", b"1")
    assert (tmp_path / "out/tiles/a").read_bytes() == b"1"


def test_a_full_disk_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    store.write("a", b"old")

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write a \(3 bytes\).*No space left.*run the same command again"):
        store.write("a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert store.read("a") == b"old"


def test_passing_faults_are_tried_again_up_to_the_limit(monkeypatch):
    pauses, tries = [], []
    monkeypatch.setattr(storage.time, "sleep", pauses.append)

    def flaky():
        tries.append(1)
        if len(tries) < 4:
            raise ConnectionResetError("peer")
        return "ok"

    assert with_retries(flaky, attempts=4, what="x") == "ok"
    assert len(pauses) == 3
    assert pauses[2] > pauses[0]
    tries.clear()
    with pytest.raises(ConnectionResetError):
        with_retries(flaky, attempts=3, what="x")


@pytest.mark.parametrize(
    "error", [FileNotFoundError("a"), PermissionError("a"), OSError(errno.ENOSPC, "full"), ValueError("bad")]
)
def test_final_errors_are_raised_at_once(error, monkeypatch):
    monkeypatch.setattr(storage.time, "sleep", lambda s: pytest.fail("paused for an error that is final"))
    assert is_final(error)
    with pytest.raises(type(error)):
        with_retries(lambda: (_ for _ in ()).throw(error), attempts=5, what="x")


def test_an_unknown_protocol_names_the_remedy():
    with pytest.raises(SourceError, match="nosuch://.*Install"):
        filesystem("nosuch://bucket/x")
