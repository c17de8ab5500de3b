"""Small networks of the zoo's families under the names PaddleX's examples use, in a cache of our own, and pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.predict.conftest import CLASSES, LABELS, instance_network, pictures, semantic_network  # noqa: F401 - fixtures

NAMES = {"instance": ("Mask-RT-DETR-S", "Mask-RT-DETR-L"), "semantic": ("PP-LiteSeg-T",)}
"""What the examples call them; the family is decided by what a directory holds."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory, instance_network, semantic_network) -> Path:  # noqa: F811
    """A cache with the models of PaddleX's examples."""
    from rayseg.predict.export import export_model

    root = tmp_path_factory.mktemp("cache")
    networks = {"instance": (instance_network, LABELS), "semantic": (semantic_network, CLASSES)}
    for task, (network, labels) in networks.items():
        first, *others = (root / "official_models" / name for name in NAMES[task])
        export_model(network, first, name=first.name, labels=labels, flavour="paddlex", draw_threshold=0.3)
        for folder in others:
            shutil.copytree(first, folder)
            config = folder / "inference.yml"
            config.write_text(config.read_text().replace(first.name, folder.name))
    return root


@pytest.fixture
def cached(cache, monkeypatch, tmp_path):
    """A fresh working folder, and the models in the cache; returns the folder."""
    monkeypatch.setenv("RAYSEG_CACHE", str(cache))
    monkeypatch.setenv("PADDLE_PDX_CACHE_HOME", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def model_dirs(cache) -> dict[str, Path]:
    """Task -> a directory."""
    return {task: cache / "official_models" / names[0] for task, names in NAMES.items()}


def save(path: Path, rgb: np.ndarray) -> Path:
    """Write an RGB picture; the format is that of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert done
    path.write_bytes(data.tobytes())
    return path


RED, GREEN, BLUE = (255, 90, 90), (90, 255, 90), (90, 90, 255)  # bright enough for the fake model


def blob(colour=RED, *, size=(40, 60), at=(10, 30, 15, 45)) -> np.ndarray:
    """One bright rectangle on black, RGB: rows at[0]:at[1], columns at[2]:at[3]. What the fake model calls an object."""
    image = np.zeros((*size, 3), dtype=np.uint8)
    image[at[0] : at[1], at[2] : at[3]] = colour
    return image
