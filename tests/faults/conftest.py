"""One archive and one undisturbed job for all tests of this folder, shared by the test processes of a session."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tests.conftest import shared_folder
from tests.faults import drivers
from tests.pipeline.jobs import archive


@pytest.fixture(scope="session")
def _common(tmp_path_factory) -> Path:
    return shared_folder(tmp_path_factory, "faults")


@pytest.fixture(scope="session")
def images(_common) -> Path:
    """UNITS images in three folders; nobody writes there."""
    with open(_common / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (_common / "images").is_dir():
            archive(_common / "new", drivers.UNITS)
            (_common / "new").rename(_common / "images")
    return _common / "images"


@pytest.fixture(scope="session")
def undisturbed(_common, images) -> Path:
    """The output of a job on `images` that nothing happened to; nobody writes there."""
    with open(_common / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (_common / "undisturbed").is_dir():
            status, said = drivers.run(drivers.segment(images, _common / "job", delay_ms=0))
            assert status == 0, said
            (_common / "job").rename(_common / "undisturbed")
    return _common / "undisturbed"
