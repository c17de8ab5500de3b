"""Data that a search may open, and one small search that several tests look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rayseg.config.train import Settings
from rayseg.tuning.result import TuneResult
from rayseg.tuning.search import tune
from tests.tuning import fakes


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with a bright square each, as PaddleX lays out semantic sets."""
    root, names = tmp_path_factory.mktemp("squares"), []
    for folder in ("images", "annotations"):
        (root / folder).mkdir()
    for index in range(3):
        picture, mask = np.full((64, 64, 3), 30, np.uint8), np.zeros((64, 64), np.uint8)
        picture[8 : 30 + index, 8:40], mask[8 : 30 + index, 8:40] = 220, 1
        cv2.imwrite(str(root / "images" / f"{index}.png"), picture)
        cv2.imwrite(str(root / "annotations" / f"{index}.png"), mask)
        names.append(f"images/{index}.png annotations/{index}.png\n")
    (root / "train.txt").write_text("".join(names[:2]))
    (root / "val.txt").write_text(names[2])
    return root


@pytest.fixture
def asked(tmp_path: Path, data: Path) -> Callable[..., Settings]:
    """Settings of a search over toys, by what the section Search says and changes to Train."""

    def settings(search: dict[str, Any], **train: Any) -> Settings:
        return fakes.settings_for(tmp_path / "out", data, search=search, **train)

    return settings


@dataclass(frozen=True)
class Searched:
    """A search that has ended."""

    settings: Settings
    result: TuneResult
    events: list[dict[str, Any]]
    out: Path


@pytest.fixture(scope="module")
def searched(ray_local: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Three rates of which one raises, then two lengths of which one was there before; one trial's process is lost once."""
    out, events = tmp_path_factory.mktemp("search") / "out", list[dict[str, Any]]()
    space = [
        {"Train.learning_rate": [0.01, 0.02], "Train.weight_decay": [0.0, 0.5]},
        {"Train.epochs_iters": [4, 6]},
    ]
    settings = fakes.settings_for(out, data, search={"space": space})
    result = tune(settings, report=events.append, train=fakes.train_toy)
    return Searched(settings, result, events, out)
