"""These tests need the extra `geo`. One job that nothing happened to serves several of them."""

from __future__ import annotations

import fcntl
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import shared_folder

collect_ignore_glob = [] if all(find_spec(name) for name in ("rasterio", "shapely", "pyproj")) else ["test_*.py"]


@pytest.fixture(scope="session")
def _common(tmp_path_factory) -> Path:
    return shared_folder(tmp_path_factory, "scenes")


@pytest.fixture(scope="session")
def places(_common) -> Path:
    """A folder of worlds in several places on the ground, and one in none; nobody writes there."""
    from tests.scenes import places

    with open(_common / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (_common / "places").is_dir():
            places.write_all(_common / "new")
            (_common / "new").rename(_common / "places")
    return _common / "places"


@pytest.fixture(scope="session")
def undisturbed(_common, places) -> Path:
    """The output of `rayseg segment` on `places` that nothing happened to; nobody writes there."""
    from tests.faults import drivers
    from tests.scenes.places import segment

    with open(_common / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (_common / "undisturbed").is_dir():
            status, said = drivers.run(segment(places, _common / "job"))
            assert status == 0, said
            (_common / "job").rename(_common / "undisturbed")
    return _common / "undisturbed"
