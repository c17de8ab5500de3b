"""Scenes that are damaged, in whole or in part: what is lost, what is not, and what `rayseg retry` brings back."""

from __future__ import annotations

import os
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from rasterio.features import rasterize

from rayseg.cli import DONE, main
from rayseg.errors import TooManyFailures
from rayseg.geometry import Window
from rayseg.pipeline import ledger
from rayseg.pipeline.scenes import job as scenes_job
from rayseg.pipeline.scenes.check import forget_failed, verify_scenes
from rayseg.pipeline.storage import Store
from tests.geo import rasters

from . import places, worlds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]
TILES = {"tile_px": places.TILE_PX, "overlap_px": places.OVERLAP_PX}
STRIPED = {"tiled": False, "blockxsize": None, "blockysize": 5}
WORLDS = {
    "utm.tif": places.WORLDS["utm.tif"],
    "strips.tif": worlds.rivers(233, 160, seed=52),
    "good.tif": worlds.rivers(120, 250, seed=53),
}
BLOCK = Window(192, 128, 256, 192)
STRIP = Window(0, 100, 160, 105)
LOST = {"utm.tif": BLOCK, "strips.tif": STRIP}
RETRY = ["--predictors", "1", "--no-report", "-q"]


class Damage:
    """A block of a GeoTIFF overwritten, to be mended."""

    def __init__(self, path: Path, column: int, row: int) -> None:
        with rasterio.open(path) as file:
            where, n = (int(file.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
        self.path, self._where = path, where
        self._bytes = path.read_bytes()[where : where + n]
        self._put(b"\xff" * n)
        self._time = path.stat().st_mtime_ns

    def mend(self) -> None:
        self._put(self._bytes)

    def give_time_back(self) -> None:
        os.utime(self.path, ns=(self._time, self._time))

    def _put(self, data: bytes) -> None:
        with open(self.path, "r+b") as file:
            file.seek(self._where)
            file.write(data)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    for name, world in WORLDS.items():
        worlds.write(folder / name, world, **(STRIPED if name == "strips.tif" else {}))
    (folder / "broken.tif").write_bytes(b"II*\0 no more of it")
    return folder


@pytest.fixture(scope="module")
def damages(source) -> list[Damage]:
    return [Damage(source / "utm.tif", 3, 2), Damage(source / "strips.tif", 0, 20)]


@pytest.fixture(scope="module")
def out(source, damages, ray_local, tmp_path_factory) -> Path:
    """A job on all of it. The tests below take it through its life in their order."""
    out = tmp_path_factory.mktemp("job") / "out"
    result = worlds.run(source, out, scenes=TILES)
    assert result.complete
    return out


def meets(a: Window, b: Window) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def test_damage_costs_the_tiles_that_lie_on_it_and_no_others(out):
    rows = worlds.tile_rows(out)
    for name in WORLDS:
        mine = rows[rows["name"] == name]
        on_it = [name in LOST and meets(w, LOST[name]) for w in mine["window"]]
        assert ((mine["status"] == "failed") == on_it).all()
        assert sum(on_it) == {"utm.tif": 4, "strips.tif": 2, "good.tif": 0}[name]
        assert set(mine["stage"].dropna()) <= {"decode"}
        assert mine[mine["status"] == "failed"]["reason"].str.contains(name).all()


def test_a_scene_with_holes_says_so_and_everything_else_in_it_is_exact(out):
    found, rows = worlds.found(out), worlds.ledger(out)
    assert {name: row["status"] for name, row in rows.items()} == {
        "utm.tif": "incomplete",
        "strips.tif": "incomplete",
        "good.tif": "ok",
        "broken.tif": "failed",
    }
    for name, world in WORLDS.items():
        seen = worlds.windows(out, name)
        assert found[name] == worlds.truth(world, seen), name
        assert found[name] != worlds.truth(world, worlds.windows(out, name, status=("ok", "failed"))) or name == "good.tif"
        assert rows[name]["failed_tiles"] == len(worlds.windows(out, name, status=("failed",)))
    assert rows["utm.tif"]["reason"].startswith("4 of 30 tiles failed: ")
    assert rows["broken.tif"]["stage"] == "decode" and "broken.tif" in rows["broken.tif"]["reason"]


def test_holes_are_what_no_tile_saw(out, source):
    for path in sorted((out / "images").glob("*.parquet")):
        row = geopandas.read_parquet(path)
        name = row["uri"].iloc[0].rsplit("/", 1)[-1]
        if name not in LOST:
            assert row["holes"].isna().all()
            continue
        with rasterio.open(source / name) as file:
            transform, size = file.transform, file.shape
        (hole,) = row["holes"]
        hole = hole if isinstance(hole, shapely.Geometry) else shapely.from_wkb(hole)
        blind = worlds.covered(size, worlds.windows(out, name)) == 0
        assert blind.any() and hole.is_valid
        assert (rasterize([(hole, 1)], out_shape=size, transform=transform).astype(bool) == blind).all()
        assert hole.area == pytest.approx(blind.sum() * 0.25)


def test_failed_scenes_and_tiles_leave_the_job_complete_and_are_counted(out):
    found = verify_scenes(Store(str(out)), Store(str(out / "tiles")))
    assert found.ok
    assert (found.tiles.failed, found.scenes.failed, found.scenes.incomplete) == (6, 1, 2)


def test_retry_refuses_a_file_that_was_replaced_and_says_what_helps_if_only_its_damage_was_mended(out, damages, capsys):
    for damage in damages:
        damage.mend()
        os.utime(damage.path)
    assert main(["retry", str(out), *RETRY]) == DONE
    assert "6 failed tiles run again, and 3 scenes are put together again" in capsys.readouterr().out
    rows = worlds.tile_rows(out)
    failed = rows[rows["status"] == "failed"]
    assert len(failed) == 6 and set(failed["stage"]) == {"fetch"}
    assert failed["reason"].str.contains("was replaced since the job was planned").all()
    for damage in damages:
        (said,) = failed[failed["uri"] == str(damage.path)]["reason"].unique()
        command = said.partition("retry: ")[2].split()
        assert command[:2] == ["touch", "-d"]
        seconds, _, ns = command[2].removeprefix("@").partition(".")
        assert int(seconds) * 10**9 + int(ns) == damage._time
    assert {name: row["status"] for name, row in worlds.ledger(out).items()}["utm.tif"] == "incomplete"


def test_what_is_mended_is_whole_after_retry_and_equal_to_the_undamaged_run(out, damages, source, undisturbed, capsys):
    before = worlds.tile_rows(out).set_index("unit_id")
    for damage in damages:
        damage.give_time_back()
    mended = worlds.cells(150, 130, seed=54)
    (source / "broken.tif").unlink()
    worlds.write(source / "broken.tif", mended)
    assert main(["retry", str(out), *RETRY]) == DONE
    assert verify_scenes(Store(str(out)), Store(str(out / "tiles"))).ok
    found = worlds.found(out)
    for name, world in {**WORLDS, "broken.tif": mended}.items():
        row = worlds.ledger(out)[name]
        assert (row["status"], row["failed_tiles"]) == ("ok", 0)
        assert pd.isna(row["holes"]) and pd.isna(row["reason"])
        assert found[name] == worlds.truth(world, worlds.windows(out, name)), name
    after = worlds.tile_rows(out).set_index("unit_id")
    kept = before[before["status"] == "ok"]
    pd.testing.assert_frame_equal(after.loc[kept.index], kept)  # timings too: they were not done again
    assert len(after) == len(before) + len(worlds.windows(out, "broken.tif"))
    named = ["unit_id", "uri", "scene_id"]
    whole, other = (
        table[table["uri"].str.endswith("utm.tif")].drop(columns=named).sort_values("object_id", ignore_index=True)
        for table in (worlds.objects(out), worlds.objects(undisturbed))
    )
    pd.testing.assert_frame_equal(whole, other)


def test_a_job_stops_above_so_many_failed_tiles_and_goes_on_where_more_are_allowed(source, damages, tmp_path):
    out, again = tmp_path / "out", Damage(source / "utm.tif", 3, 2)
    try:
        with pytest.raises(TooManyFailures, match=r"[1-4] tiles failed, --max-failures allows 0 of "):
            worlds.run(source, out, scenes=TILES, max_failures="0", chunk_images=4)
        assert not (out / "objects").exists()
        result = worlds.run(source, out, scenes=TILES, max_failures="4")
        assert result.complete and result.within_limit and result.findings.failed == 4
        assert worlds.ledger(out)["utm.tif"]["status"] == "incomplete"
    finally:
        again.mend()
        again.give_time_back()


def test_a_scene_that_is_mended_counts_even_if_the_run_that_looks_again_is_killed(tmp_path, monkeypatch):
    source, out, world = tmp_path / "in", tmp_path / "out", worlds.cells(130, 170, seed=55)
    source.mkdir()
    (source / "a.tif").write_bytes(b"not yet")
    result = worlds.run(source, out)
    assert result.complete and (result.findings.planned, result.findings.failed) == (0, 1)
    (source / "a.tif").unlink()
    # Once more as 16 bits: the scaling that was found from no scene at all must not hold for it.
    values = worlds.rgb(world, "uint16") * 257
    rasters.write(source / "a.tif", values, **worlds.UTM33, **worlds.TILED)
    forget_failed(Store(str(out)), Store(str(out / "tiles")))
    with monkeypatch.context() as patch:
        patch.setattr(scenes_job.identity, "write", _killed)
        with pytest.raises(KeyboardInterrupt):
            worlds.run(source, out)
    assert worlds.run(source, out).complete
    assert verify_scenes(Store(str(out)), Store(str(out / "tiles"))).ok
    row = worlds.ledger(out)["a.tif"]
    assert (row["status"], row["tiles"]) == ("ok", 1)
    assert row["n_objects"] > 10  # percentiles cut some colours at both ends, so not all are told apart


def _killed(*_args, **_options):
    raise KeyboardInterrupt


def test_forgetting_twice_changes_nothing(undisturbed):
    store, tiles = Store(str(undisturbed)), Store(str(undisturbed / "tiles"))
    assert forget_failed(store, tiles) == (0, 0)
    assert ledger.names(store) and verify_scenes(store, tiles).ok


def test_the_mask_of_damage_is_where_the_block_lies(source):
    with rasterio.open(source / "utm.tif") as file:
        assert file.block_window(1, 2, 3).toslices() == BLOCK.slices
    with rasterio.open(source / "strips.tif") as file:
        assert file.block_window(1, 20, 0).toslices() == STRIP.slices
    assert np.all([meets(BLOCK, BLOCK), not meets(BLOCK, STRIP)])
