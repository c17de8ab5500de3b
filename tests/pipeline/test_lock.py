"""One driver at a time; the lock ends with its holder and does not depend on free space."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from rayseg.errors import OutputError
from rayseg.pipeline import lock
from rayseg.pipeline.lock import locked
from rayseg.pipeline.storage import Store


def test_a_second_driver_is_refused_and_told_who_holds_the_output(tmp_path):
    store = Store(str(tmp_path / "out"))
    with locked(store), pytest.raises(OutputError, match=rf"process {os.getpid()} is writing there now"), locked(store):
        pass
    with locked(store):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from rayseg.pipeline.lock import locked\n"
        "from rayseg.pipeline.storage import Store\n"
        "with locked(Store(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = os.path.dirname(os.path.dirname(lock.__file__))
    env = {**os.environ, "PYTHONPATH": os.path.dirname(root)}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, env=env).returncode == -9
    with locked(Store(str(tmp_path))):
        pass


def test_a_full_disk_is_no_reason_not_to_lock(tmp_path, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock.os, "write", full)
    store = Store(str(tmp_path))
    with locked(store), pytest.raises(OutputError, match=r"process \? is writing there now"), locked(store):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OutputError, match=r"cannot write there: .*Give another output folder"),
        locked(Store(str(tmp_path / "file" / "out"))),
    ):
        pass
