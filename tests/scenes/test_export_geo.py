"""`rayseg export-geo`: all committed objects of a job of scenes in one file, or a clear word why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rayseg.cli import DONE, REFUSED, main
from rayseg.errors import ConfigError, OutputError
from rayseg.geo.gdal import close_all
from rayseg.geometry import Size
from rayseg.pipeline.export_coco import export_coco
from rayseg.pipeline.scenes.export import ExportedScenes, export_scenes
from rayseg.pipeline.storage import Store
from rayseg.tables import Unit
from tests.geo.rasters import UTM, write
from tests.pipeline.handmade import Done, discs, write_out
from tests.scenes.handmade import Found, scene_job

geopandas = pytest.importorskip("geopandas")

BOXES = [(5, 5, 60, 60), (10, 70, 20, 75), (70, 70, 90, 80)]


def raster(path: Path, **profile) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, np.full((3, 100, 120), 90, np.uint8), **{"crs": "EPSG:32633", "transform": UTM, **profile})


@pytest.fixture
def out(tmp_path) -> Path:
    """Two scenes in one reference system, one of them incomplete; one that failed, and one that is not finished."""
    close_all()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.tif").write_bytes(b"no raster")
    east = UTM @ UTM.translation(1000, 0)
    scenes = {
        raster(tmp_path / "in/a.tif"): Found(BOXES),
        raster(tmp_path / "in/b.tif", transform=east): Found(BOXES[:2], failed=[1]),
        str(tmp_path / "in/bad.tif"): Found(),
        raster(tmp_path / "in/late.tif"): Found(left=[0], committed=False),
    }
    return scene_job(tmp_path / "out", scenes)


@pytest.mark.parametrize("name", ["o.geojson", "o.GeoJSON", "o.gpkg"])
def test_all_finished_scenes_are_written_and_the_others_are_told(out, tmp_path, name):
    found = export_scenes(Store(str(out)), tmp_path / name)
    assert found == ExportedScenes(objects=5, without_geometry=0, scenes=2, incomplete=1, left_out=2)
    table = geopandas.read_file(tmp_path / name)
    assert table.crs.to_epsg() == (32633 if name == "o.gpkg" else 4326) and table.is_valid.all()
    areas = table.to_crs(32633).area.to_numpy()
    wanted = [(x1 - x0) * (y1 - y0) * 0.25 for x0, y0, x1, y1 in [*BOXES, *BOXES[:2]]]
    assert np.sort(areas) == pytest.approx(np.sort(wanted), rel=1e-4)


def test_a_geopackage_in_degrees_and_one_of_the_best_objects(out, tmp_path):
    store = Store(str(out))
    assert export_scenes(store, tmp_path / "d.gpkg", lon_lat=True).objects == 5
    table = geopandas.read_file(tmp_path / "d.gpkg")
    assert table.crs.to_epsg() == 4326 and table.total_bounds[[0, 2]] == pytest.approx(13.7, abs=0.1)
    assert export_scenes(store, tmp_path / "s.gpkg", min_score=0.75).objects == 3
    assert sorted(geopandas.read_file(tmp_path / "s.gpkg").score) == [0.75, 1, 1]


def test_scenes_are_chosen_by_name_or_uri(out, tmp_path):
    store, inner = Store(str(out)), tmp_path / "in"
    assert export_scenes(store, tmp_path / "o.gpkg", scenes=["a.tif"]).objects == 3
    found = export_scenes(store, tmp_path / "o.gpkg", scenes=[str(inner / "b.tif"), "a.tif", "b.tif"])
    assert (found.objects, found.scenes, found.left_out) == (5, 2, 0)
    with pytest.raises(ConfigError, match=r"no finished scene 'c\.tif' in .*the nearest name is "):
        export_scenes(store, tmp_path / "p.gpkg", scenes=["c.tif"])
    with pytest.raises(ConfigError, match=r"no finished scene 'late\.tif'"):
        export_scenes(store, tmp_path / "p.gpkg", scenes=["late.tif"])
    with pytest.raises(ConfigError, match=r"scene 'bad\.tif' failed and has no objects: .*not recognized.*rayseg retry"):
        export_scenes(store, tmp_path / "p.gpkg", scenes=["bad.tif"])
    assert not (tmp_path / "p.gpkg").exists()


def test_a_name_of_several_scenes_is_no_answer(tmp_path):
    scenes = {raster(tmp_path / side / "a.tif"): Found(BOXES) for side in ("east", "west")}
    out = Store(str(scene_job(tmp_path / "out", scenes)))
    with pytest.raises(ConfigError, match=r"2 scenes are called 'a\.tif'; give one of .*east/a\.tif, .*west/a\.tif"):
        export_scenes(out, tmp_path / "o.gpkg", scenes=["a.tif"])
    assert export_scenes(out, tmp_path / "o.gpkg", scenes=[str(tmp_path / "east/a.tif")]).objects == 3


def test_one_layer_has_one_reference_system(tmp_path):
    other = {"crs": "EPSG:32634"}
    scenes = {raster(tmp_path / "a.tif"): Found(BOXES), raster(tmp_path / "b.tif", **other): Found(BOXES)}
    out = Store(str(scene_job(tmp_path / "out", scenes)))
    with pytest.raises(OutputError, match=r"the scenes have 2: a\.tif in EPSG:32633; b\.tif in EPSG:32634.*--lon-lat"):
        export_scenes(out, tmp_path / "o.gpkg")
    assert not (tmp_path / "o.gpkg").exists()
    assert export_scenes(out, tmp_path / "o.gpkg", lon_lat=True).objects == 6
    assert export_scenes(out, tmp_path / "o.geojson").objects == 6
    assert export_scenes(out, tmp_path / "o.gpkg", scenes=["b.tif"]).objects == 3


def test_scenes_in_pixels_have_no_degrees(tmp_path):
    scenes = {raster(tmp_path / "a.tif", crs=None): Found(BOXES), raster(tmp_path / "b.tif"): Found(BOXES)}
    out = Store(str(scene_job(tmp_path / "out", scenes)))
    with pytest.raises(OutputError, match=r"a\.tif lies in pixels.*GeoJSON knows degrees only; export them to \.gpkg"):
        export_scenes(out, tmp_path / "o.geojson")
    with pytest.raises(OutputError, match=r"a\.tif lies in pixels.*leave out --lon-lat"):
        export_scenes(out, tmp_path / "o.gpkg", lon_lat=True)
    with pytest.raises(OutputError, match="choose some with --scene"):
        export_scenes(out, tmp_path / "o.gpkg")
    assert export_scenes(out, tmp_path / "o.gpkg", scenes=["a.tif"]).objects == 3
    bounds = geopandas.read_file(tmp_path / "o.gpkg").total_bounds
    assert bounds.tolist() == [5, 5, 90, 80]


def test_what_cannot_be_exported_is_refused_with_a_remedy(out, tmp_path):
    store = Store(str(out))
    for name, said in (("o.shp", r"unknown suffix '\.shp'; name the file \.geojson or \.gpkg"), ("o", "unknown suffix ''")):
        with pytest.raises(ConfigError, match=said):
            export_scenes(store, tmp_path / name)
    with pytest.raises(ConfigError, match="local files only"):
        export_scenes(store, "s3://bucket/o.gpkg")
    with pytest.raises(OutputError, match=r"no job\.json there"):
        export_scenes(Store(str(tmp_path / "none")), tmp_path / "o.gpkg")
    (out / "objects" / min(p.name for p in (out / "objects").iterdir())).write_bytes(b"cut")
    with pytest.raises(OutputError, match="cannot be read"):
        export_scenes(store, tmp_path / "o.gpkg")
    assert not list(tmp_path.glob("*.gpkg")) and not list(tmp_path.glob(".*.tmp"))


def test_a_job_of_images_and_one_without_polygons_are_refused(tmp_path):
    images = write_out(tmp_path / "images", [Done(Unit("/a.png"), discs(Size(40, 50), 2))], labels=["cell"])
    with pytest.raises(ConfigError, match=r"is a job of images.*use `rayseg export-coco`"):
        export_scenes(Store(str(images)), tmp_path / "o.gpkg")
    labels = np.zeros((100, 120), np.uint8)
    maps = {raster(tmp_path / "a.tif"): Found(labels=labels)}
    out = scene_job(tmp_path / "maps", maps, task="semantic")
    with pytest.raises(ConfigError, match=r"label maps without polygons.*--regions"):
        export_scenes(Store(str(out)), tmp_path / "o.gpkg")
    maps = {raster(tmp_path / "a.tif"): Found([(0, 0, 120, 100)], labels=labels)}
    store = Store(str(scene_job(tmp_path / "regions", maps, task="semantic", regions="all")))
    with pytest.raises(ConfigError, match=r"min_score 0\.5 is set, but regions of a semantic model have no scores"):
        export_scenes(store, tmp_path / "o.gpkg", min_score=0.5)
    assert export_scenes(store, tmp_path / "o.gpkg").objects == 1


def test_nothing_finished_is_nothing_to_export(tmp_path):
    out = scene_job(tmp_path / "out", {raster(tmp_path / "a.tif"): Found(committed=False)})
    with pytest.raises(OutputError, match="no scene is finished"):
        export_scenes(Store(str(out)), tmp_path / "o.gpkg")


def test_an_output_on_an_object_store_is_read_from_there(out, tmp_path):
    import fsspec

    fsspec.filesystem("memory").put(str(out), "/exports/out", recursive=True)
    for name in ("o.gpkg", "o.geojson"):
        assert export_scenes(Store("memory://exports/out"), tmp_path / name).objects == 5
    assert len(json.loads((tmp_path / "o.geojson").read_text())["features"]) == 5


def test_the_command_says_what_it_wrote(out, tmp_path, capsys):
    path = str(tmp_path / "o.gpkg")
    assert main(["export-geo", str(out), path, "--lon-lat", "--min-score", "0.75"]) == DONE
    said = capsys.readouterr().out
    assert said == f"3 objects of 2 scenes in {path}; 1 of them incomplete; 2 more failed or not finished, left out\n"
    assert main(["export-geo", str(out), path, "--scene", "a.tif", "--scene", "b.tif"]) == DONE
    assert capsys.readouterr().out.startswith("5 objects of 2 scenes")
    assert main(["export-geo", str(out), str(tmp_path / "o.txt")]) == REFUSED
    assert "ConfigError" in capsys.readouterr().err


def test_export_coco_refuses_scenes(out, tmp_path):
    with pytest.raises(ConfigError, match="job of scenes.*rayseg export-geo"):
        export_coco(Store(str(out)), tmp_path / "r.json")
