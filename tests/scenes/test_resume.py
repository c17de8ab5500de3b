"""Jobs of scenes that were killed, or whose files were removed, go on where they were; those of other settings are refused."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import geopandas
import pytest
import shapely

from rayseg.cli import DONE, INCOMPLETE, REFUSED, main
from rayseg.pipeline.scenes.check import verify_scenes
from rayseg.pipeline.storage import Store
from tests.faults import drivers

from . import worlds
from .places import segment

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def ledger_files(out: Path) -> int:
    return drivers.commits(out)


MOMENTS = {
    "while scenes are looked at": lambda out: any((out / "scenes").glob("[!.]*.parquet")) and not (out / "job.json").exists(),
    "while tiles are predicted": lambda out: ledger_files(out / "tiles") >= 6,
    "while scenes are put together": lambda out: ledger_files(out) >= 2,
}


@pytest.mark.timeout(600)
def test_a_driver_killed_at_any_stage_and_started_again_gives_the_undisturbed_tables(places, undisturbed, tmp_path):
    out, hits = tmp_path / "out", {}
    for name, reached in MOMENTS.items():
        driver = drivers.start(segment(places, out, delay_ms=25))
        hits[name] = drivers.kill_when(driver, lambda reached=reached: reached(out))
        if name == "while tiles are predicted" and hits[name]:
            assert drivers.commits(out) == 0 and drivers.commits(out / "tiles") < 30
            assert drivers.run(["verify", str(out)])[0] == INCOMPLETE
    status, said = drivers.run(segment(places, out, delay_ms=25))
    assert status == DONE, said
    assert drivers.run(["verify", str(out)])[0] == DONE
    worlds.assert_same_tables(out, undisturbed)
    assert drivers.debris(out) == drivers.debris(out / "tiles") == []
    assert not (out / "tiles" / "strips").exists()
    assert all(hits.values()), hits


def test_what_somebody_removed_is_told_by_verify_and_mended_by_the_same_command(ray_local, places, undisturbed, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    tiles, scenes = (sorted((folder / "images").glob("*.parquet")) for folder in (out / "tiles", out))
    gone = [
        tiles[0],
        out / "tiles" / "objects" / tiles[-1].name,
        scenes[0],
        out / "objects" / scenes[-1].name,
    ]
    for path in gone:
        path.unlink()
    tiles[3].write_bytes(tiles[3].read_bytes()[:200])
    assert main(["verify", str(out)]) == INCOMPLETE
    said = capsys.readouterr().out
    for name in (f"objects/{scenes[0].name} has no ledger file", f"images/{scenes[-1].name} has no objects file"):
        assert name in said
    for name in (
        f"tiles: objects/{tiles[0].name} has no",
        f"tiles: images/{tiles[-1].name} has no",
        f"tiles: images/{tiles[3].name}",
    ):
        assert name in said, said
    assert main(segment(places, out)) == DONE
    assert main(["verify", str(out)]) == DONE
    worlds.assert_same_tables(out, undisturbed)


def test_a_label_map_that_somebody_removed_is_told_by_verify_and_written_again(ray_local, tmp_path, capsys):
    source, out, model = tmp_path / "in", tmp_path / "out", "fake:semantic?labels=a,b,c"
    for name in ("one", "two"):
        worlds.write(source / f"{name}.tif", worlds.cells(90, 110, seed=len(name)))
    assert worlds.run(source, out, model=model, scenes={"tile_px": 64, "overlap_px": 8}).complete
    maps = {path: path.read_bytes() for path in (out / "label_maps").iterdir()}
    assert len(maps) == 2
    lost = min(maps)
    lost.unlink()
    assert main(["verify", str(out)]) == INCOMPLETE
    assert f"its label map label_maps/{lost.name} is gone" in capsys.readouterr().out
    assert worlds.run(source, out, model=model, scenes={"tile_px": 64, "overlap_px": 8}).complete
    assert {path: path.read_bytes() for path in (out / "label_maps").iterdir()} == maps
    assert verify_scenes(Store(str(out)), Store(str(out / "tiles"))).ok


@pytest.fixture(scope="module")
def finished(ray_local, tmp_path_factory) -> tuple[Path, Path, Path]:
    """(source, output, polygons) of a small job."""
    folder = tmp_path_factory.mktemp("finished")
    worlds.write(folder / "in" / "a.tif", worlds.cells(90, 110, seed=61))
    write_aoi(folder / "aoi.geojson", 20)
    command = segment(folder / "in", folder / "out", "--aoi", str(folder / "aoi.geojson"))
    assert main(command) == DONE
    return folder / "in", folder / "out", folder / "aoi.geojson"


def write_aoi(path: Path, side: float) -> None:
    shape = shapely.box(500_000, 5_000_000 - side, 500_000 + side, 5_000_000)
    path.unlink(missing_ok=True)
    geopandas.GeoSeries([shape], crs="EPSG:32633").to_crs("OGC:CRS84").to_file(path)


@pytest.mark.parametrize(
    ("more", "difference"),
    [
        (["--tile-px", "90"], "scenes.tile_px was 100, now 90"),
        (["--overlap-px", "31"], "scenes.overlap_px was 30, now 31"),
        (["--scale", "0,200"], "scenes.scale was None, now '0,200'"),
        (["--coarse", "2"], "scenes.coarse was None, now 2"),
        (["--bands", "3,2,1"], "scenes.bands was None, now '3,2,1'"),
        (["--threshold", "0.7"], "threshold was 0.5, now 0.7"),
        (["-m", "fake:instance"], "was another one of that name: its files differ"),
    ],
)
def test_other_settings_are_refused_by_name(finished, capsys, more, difference):
    source, out, aoi = finished
    assert main(segment(source, out, "--aoi", str(aoi), *more)) == REFUSED
    said = capsys.readouterr().err
    assert "JobMismatch" in said and difference in said
    assert said.count(" was ") == 1, said


def test_other_polygons_are_refused_and_the_same_ones_under_another_name_are_not(finished, tmp_path, capsys):
    source, out, aoi = finished
    elsewhere = tmp_path / "copy.geojson"
    shutil.copyfile(aoi, elsewhere)
    assert main(segment(source, out, "--aoi", str(elsewhere))) == DONE
    write_aoi(elsewhere, 21)
    assert main(segment(source, out, "--aoi", str(elsewhere))) == REFUSED
    assert "scenes.aoi was " in capsys.readouterr().err


def test_retry_finds_the_polygons_from_another_folder_too(finished, tmp_path, monkeypatch, capsys):
    source, _, aoi = finished
    monkeypatch.chdir(aoi.parent)
    assert main(segment(source, tmp_path / "out", "--aoi", aoi.name)) == DONE
    monkeypatch.chdir(tmp_path)
    assert main(["retry", "out", "--no-report", "-q"]) == DONE, capsys.readouterr().err


def test_an_output_that_holds_another_kind_of_job_is_refused(finished, tmp_path, capsys):
    source, out, aoi = finished
    whole = ["segment", str(source), str(out), "-m", worlds.ORACLE, "--predictors", "1", "--no-report", "-q"]
    assert main(whole) == REFUSED
    assert "it was of scenes, now of images" in capsys.readouterr().err
    assert main([*whole[:2], str(tmp_path / "other"), *whole[3:]]) == DONE
    assert main(segment(source, tmp_path / "other", "--aoi", str(aoi))) == REFUSED
    assert "it was of images, now of scenes" in capsys.readouterr().err


def test_a_job_that_is_done_is_not_done_again(finished):
    source, out, aoi = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert main(segment(source, out, "--aoi", str(aoi))) == DONE
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    assert time.time_ns() > max(before.values()) and os.listdir(out / "tiles" / "runs")
