"""What a group of two processes found, once for all tests that look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import said
from tests.distributed.group import in_group


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `said.everything` returned in each of two workers, by rank, without Ray."""
    folder = tmp_path_factory.mktemp("group")
    return [answer | {"run": folder / "run"} for answer in in_group(said.everything, 2, folder, str(folder / "run"))]


@pytest.fixture(scope="session")
def undisturbed(answers: list[dict[str, Any]]) -> Path:
    """The folder of the toy's run on two workers that nothing happened to."""
    folder: Path = answers[0]["run"]
    return folder


@pytest.fixture
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train looks after its workers more often, so that tests wait less."""
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
