"""The worlds that several tests share, each somewhere else on the ground, and the command of a job on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rasterio import Affine

from . import worlds

TILE_PX, OVERLAP_PX = 100, 30
WORLDS = {
    "utm.tif": worlds.cells(330, 402, n=90, seed=11),
    "turned.tif": worlds.rivers(240, 251, seed=12),
    "degrees.tif": worlds.rings(190, 260, seed=13),
    "nowhere.tif": worlds.cells(180, 150, seed=14),
    "small.tif": worlds.cells(60, 50, n=9, seed=15),
    "empty.tif": np.zeros((60, 150), dtype=int),
}
_PROFILES = {
    "turned.tif": {"crs": "EPSG:32719", "transform": Affine(2, 0.5, 300_000.0, 0.5, -2, 6_000_000.0)},
    "degrees.tif": {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 11.0, 0, -1e-4, 47.0)},
    "nowhere.tif": {"crs": None, "transform": Affine.identity()},
}


def write_all(folder: Path) -> None:
    """Write them."""
    for name, world in WORLDS.items():
        worlds.write(folder / name, world, **_PROFILES.get(name, {}))


def segment(source: Path | str, out: Path | str, *more: str, delay_ms: float = 0) -> list[str]:
    """The command of a job with the oracle."""
    tiles = ["--tile-px", str(TILE_PX), "--overlap-px", str(OVERLAP_PX), "--chunk-images", "4"]
    run = ["--num-cpus", "2", "--predictors", "1", "--no-report", "-q"]
    return ["segment", str(source), str(out), "-m", f"{worlds.ORACLE}&delay_ms={delay_ms:g}", *tiles, *run, *more]
