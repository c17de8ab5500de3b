"""Laws of jobs of scenes: objects are the true ones, exactly, however the scene is stored and cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rayseg.pipeline.scenes.check import verify_scenes
from rayseg.pipeline.storage import Store

from . import worlds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]

# (tile, overlap, chunk): seams two tiles share, or nine; files of one tile each; a tile that is larger than all scenes but one.
CUTS = [(64, 7, None), (60, 42, None), (97, 30, 1), (300, 20, None)]
STRIPED = {"tiled": False, "blockxsize": None, "blockysize": 5}

WORLDS = {
    "cells.tif": worlds.cells(190, 233, seed=1),
    "rivers.tif": worlds.rivers(150, 301, seed=2),
    "rings.tif": worlds.rings(257, 141, seed=3),
    "strips.tif": worlds.cells(233, 160, n=80, seed=4),
    "stream.png": worlds.rivers(131, 170, seed=5),
    "tiny.tif": worlds.cells(31, 50, n=7, seed=6),
    "row.tif": worlds.cells(1, 300, n=20, seed=7),
    "column.tif": worlds.cells(290, 1, n=20, seed=8),
    "pixel.tif": np.full((1, 1), 0x123456),
    "one.tif": np.full((150, 140), 0xFFFFFF),
    "empty.tif": np.zeros((130, 120), dtype=int),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    for name, world in WORLDS.items():
        worlds.write(folder / name, world, **(STRIPED if name == "strips.tif" else {}))
    return folder


@pytest.mark.parametrize(("tile_px", "overlap_px", "chunk_images"), CUTS)
def test_stitched_objects_are_the_true_ones_whatever_the_tiles(source, tmp_path, tile_px, overlap_px, chunk_images):
    out = tmp_path / "out"
    result = worlds.run(source, out, scenes={"tile_px": tile_px, "overlap_px": overlap_px}, chunk_images=chunk_images)
    assert result.complete and result.findings.failed == 0
    found, rows = worlds.found(out), worlds.ledger(out)
    assert {*rows} == {*WORLDS}
    for name, world in WORLDS.items():
        assert found.get(name, []) == worlds.truth(world, worlds.windows(out, name)), name
        assert (rows[name]["status"], rows[name]["height"], rows[name]["width"]) == ("ok", *world.shape)
        assert rows[name]["n_objects"] == len(found.get(name, []))
    assert verify_scenes(Store(str(out)), Store(str(out / "tiles"))).ok
    _tiles_are_as_planned(out, tile_px, overlap_px)
    for row in rows.values():  # where one tile sees the scene, nothing is stitched
        assert row["tiles"] > 1 or (row["joined"], row["dropped"]) == (0, 0)


def _tiles_are_as_planned(out: Path, tile_px: int, overlap_px: int) -> None:
    """Every pixel lies in a tile, neighbours share what was asked for, and each tile is once in the ledger."""
    rows = worlds.tile_rows(out)
    assert (rows["status"] == "ok").all()
    for name, world in WORLDS.items():
        tiles = rows[rows["name"] == name]["window"].tolist()
        assert worlds.covered(world.shape, tiles).min() >= 1
        assert all(w.width == min(tile_px, world.shape[1]) and w.height == min(tile_px, world.shape[0]) for w in tiles)
        for axis in ({(w.x0, w.x1) for w in tiles}, {(w.y0, w.y1) for w in tiles}):
            edges = sorted(axis)
            assert all(a[1] - b[0] >= overlap_px for a, b in pairwise(edges))
        assert rows[rows["name"] == name]["unit_id"].is_unique
