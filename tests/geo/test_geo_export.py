"""Exports: GeoJSON against RFC 7946, GeoPackage against GDAL (through pyogrio) and SQLite, both against the table exported."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayseg import rle
from rayseg.errors import ConfigError, OutputError
from rayseg.geo.areas import areas_m2
from rayseg.geo.export import Exported, export_geojson, export_gpkg
from rayseg.geo.geoparquet import GeoParquetFile, SceneRef, scene_objects_table
from rayseg.geo.lonlat import to_lon_lat
from rayseg.tiling.objects import SCENE_OBJECTS

UTM, WGS84, POLAR = pyproj.CRS(32633), pyproj.CRS(4326), pyproj.CRS(3031)
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=10)).filter(lambda m: m.any())
RING = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 0]], dtype=bool)


def affine(step, x, y):
    """Pixels of `step` units, the first one's upper left corner at (x, y)."""
    return lambda xy: xy * [step, -step] + [x, y]


def write(path, masks, crs, to_ground, *, name="scene", scores=None):
    """A file of one object for each mask, in a row from left to right."""
    left = np.cumsum([0, *(m.shape[1] + 1 for m in masks)])[: len(masks)]
    columns = {
        "class_id": [0] * len(masks),
        "score": scores or [0.9] * len(masks),
        "x0": left,
        "y0": [0] * len(masks),
        "x1": [x + m.shape[1] for x, m in zip(left, masks, strict=True)],
        "y1": [m.shape[0] for m in masks],
        "area_px": [int(m.sum()) for m in masks],
        "rle_counts": [rle.encode(m).counts.decode() for m in masks],
        "n_fragments": [1] * len(masks),
        "tiles": [[0]] * len(masks),
    }
    found = pa.table(columns, schema=SCENE_OBJECTS)
    table = scene_objects_table(SceneRef(name, 1, f"{name}.tif"), found, ["Ährenfeld"], crs=crs, pixel_to_ground=to_ground)
    with GeoParquetFile(path, crs) as file:
        file.write(table)
    return path


def features(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["type"] == "FeatureCollection" and "crs" not in found
    return found["features"]


def obeys_rfc_7946(shape):
    """Valid, inside the world, outer rings counter-clockwise, holes clockwise."""
    west, south, east, north = shape.bounds
    parts = shapely.get_parts(shape)
    turned = all(p.exterior.is_ccw and not any(h.is_ccw for h in p.interiors) for p in parts)
    return shape.is_valid and turned and min(west + 180, south + 90, 180 - east, 90 - north) >= 0


def lon_lat(shape, crs):
    return to_lon_lat(np.array([shape], dtype=object), crs)[0]


def geodesic(shape):
    return areas_m2(np.array([shape]), WGS84)[0]


def area_on_globe(shape):
    """Rings as geodesics, which know neither dateline nor poles."""
    geod = pyproj.Geod(ellps="WGS84")
    rings = [(part.exterior, part.interiors) for part in shapely.get_parts(shape)]
    areas = [[abs(geod.geometry_area_perimeter(shapely.Polygon(r))[0]) for r in (outer, *holes)] for outer, holes in rings]
    return sum(first - sum(rest) for first, *rest in areas)


PLACES = [
    (UTM, affine(0.5, 500_000, 6_000_000)),
    (WGS84, affine(0.25, 179, 10)),  # across the dateline
    (WGS84, affine(1e-7, 12, 50)),  # pixels of a centimetre
    (pyproj.CRS(32601), affine(20_000, 160_000, 1_000_000)),  # UTM 1, across the dateline to the west of it
    (pyproj.CRS(3832), affine(20_000, 3_240_000, 6_000_000)),  # the Pacific
    (POLAR, affine(100_000, -300_000, 310_000)),  # round the South Pole
    (pyproj.CRS(3413), affine(100_000, -300_000, 310_000)),  # round the North Pole
]


@settings(max_examples=40)
@given(MASKS, st.sampled_from(PLACES))
def test_shapes_in_degrees_obey_the_rfc_and_keep_their_area(tmp_path_factory, mask, place):
    crs, to_ground = place
    folder = tmp_path_factory.mktemp("any")
    path = write(folder / "o.parquet", [mask], crs, to_ground)
    assert export_geojson([path], folder / "o.geojson") == Exported(1, 0)
    shape = shapely.geometry.shape(features(folder / "o.geojson")[0]["geometry"])
    assert obeys_rfc_7946(shape)
    on_ground = shapely.from_wkb(pq.read_table(path)["geometry"][0].as_py())
    in_steps = shapely.segmentize(on_ground, 1000 if crs.is_projected else 0.01)
    to_globe = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    on_globe = shapely.transform(in_steps, lambda xy: np.stack(to_globe.transform(xy[:, 0], xy[:, 1]), axis=1))
    assert geodesic(shape) == pytest.approx(area_on_globe(on_globe), rel=1e-4)


@given(st.floats(-400, 400), st.floats(0.5, 300), st.floats(-80, 60), st.floats(0.5, 20))
def test_cutting_at_the_dateline_loses_nothing(west, width, south, height):
    box = shapely.box(west, south, west + width, south + height)
    found = lon_lat(box, WGS84)
    assert obeys_rfc_7946(found)
    assert found.area == pytest.approx(box.area, rel=1e-9)


def test_a_box_across_the_dateline_becomes_two():
    found = lon_lat(shapely.box(179, 10, 182, 11), WGS84)
    assert sorted(p.bounds for p in found.geoms) == [(-180, 10, -178, 11), (179, 10, 180, 11)]


def test_a_hole_across_the_dateline_stays_a_hole():
    found = lon_lat(shapely.box(175, 0, 185, 10).difference(shapely.box(178, 4, 183, 6)), WGS84)
    assert found.area == pytest.approx(90) and not found.intersects(shapely.box(-179.5, 4.5, -178, 5.5))
    in_metres = shapely.transform(
        shapely.segmentize(
            shapely.box(-1000e3, -500e3, 1000e3, 500e3).difference(shapely.box(-300e3, -100e3, 200e3, 100e3)), 1000
        ),
        lambda xy: xy + np.array([3_339_584.72, 0]),  # 180 degrees east in EPSG:3832
    )
    found = lon_lat(in_metres, pyproj.CRS(3832))
    assert obeys_rfc_7946(found)
    assert not found.intersects(shapely.Point(179.9, 0)) and not found.intersects(shapely.Point(-179.9, 0))
    assert found.intersects(shapely.Point(175, 0)) and found.intersects(shapely.Point(-175, 0))


@pytest.mark.parametrize("crs, pole", [(3031, -90), (3413, 90)])
def test_a_shape_round_a_pole_reaches_it_and_has_its_area(crs, pole):
    disc = shapely.Point(0, 0).buffer(1e6, quad_segs=64)
    found = lon_lat(disc, pyproj.CRS(crs))
    assert obeys_rfc_7946(found) and pole in (found.bounds[1], found.bounds[3])
    assert (found.bounds[0], found.bounds[2]) == (-180, 180)
    assert geodesic(found) == pytest.approx(disc.area, rel=0.06)  # the projection is true at 71 or 70 degrees only
    ring = disc.difference(shapely.Point(0, 0).buffer(3e5, quad_segs=64))
    around = lon_lat(ring, pyproj.CRS(crs))
    assert obeys_rfc_7946(around)
    assert geodesic(around) / geodesic(found) == pytest.approx(0.91, abs=0.01)
    assert not around.intersects(shapely.Point(10, pole * 0.99))


def test_pixels_of_a_tenth_of_a_millimetre_survive_rounding():
    tiny = np.array([shapely.box(12, 50, 12 + 4e-10, 50 + 4e-10)], dtype=object)
    found = to_lon_lat(tiny, WGS84, decimals=9)[0]
    assert found.is_valid and found.area > 0


def test_another_datum_is_cut_at_the_dateline_too():
    for crs in (4322, 4267):  # WGS 72, a rotation away, and NAD27
        found = lon_lat(shapely.box(179, 10, 182, 11), pyproj.CRS(crs))
        assert obeys_rfc_7946(found)
        bounds = sorted(p.bounds for p in found.geoms)
        assert bounds == [pytest.approx((-180, 10, -178, 11), abs=0.01), pytest.approx((179, 10, 180, 11), abs=0.01)]


def test_what_has_no_longitude_in_whole_or_in_part_is_none():
    shapes = [shapely.box(0, 0, 1e5, 1e5), shapely.box(8e6, 8e6, 8.1e6, 8.1e6), shapely.box(5e6, 0, 6e6, 1e5), None]
    found = to_lon_lat(np.array(shapes, dtype=object), pyproj.CRS("+proj=geos +h=35785831"))
    assert [shape is None for shape in found] == [False, True, True, True]


def test_features_carry_what_the_table_says(tmp_path):
    path = write(tmp_path / "o.parquet", [RING, np.ones((1, 1), bool)], UTM, affine(0.5, 500_000, 6_000_000), scores=[0.9, None])
    assert export_geojson([path], tmp_path / "deep" / "o.geojson") == Exported(2, 0)
    found = features(tmp_path / "deep" / "o.geojson")
    assert [f["id"] for f in found] == ["scene/0", "scene/1"]
    first = found[0]["properties"]
    assert first["label"] == "Ährenfeld" and first["score"] == 0.9  # not 0.8999999761581421
    assert first["area_px"] == 12 and first["area_m2"] == pytest.approx(3)
    assert found[1]["properties"]["score"] is None
    assert not {"rle_counts", "geometry", "bbox", "window"} & set(first)
    assert len(found[0]["geometry"]["coordinates"]) == 2  # a hole


def test_scenes_of_several_crs_go_into_one_geojson(tmp_path):
    sources = [
        write(tmp_path / "a.parquet", [RING], UTM, affine(10, 500_000, 6_000_000), name="a"),
        write(tmp_path / "b.parquet", [RING, RING], pyproj.CRS(32634), affine(10, 500_000, 6_000_000), name="b"),
    ]
    assert export_geojson(sources, tmp_path / "o.geojson") == Exported(3, 0)
    assert [f["id"] for f in features(tmp_path / "o.geojson")] == ["a/0", "b/0", "b/1"]
    with pytest.raises(OutputError, match="a layer has one CRS"):
        export_gpkg(sources, tmp_path / "o.gpkg")
    assert not (tmp_path / "o.gpkg").exists() and len(list(tmp_path.iterdir())) == 3
    assert export_gpkg(sources, tmp_path / "o.gpkg", lon_lat=True).rows == 3


def test_nothing_to_export_is_an_empty_collection(tmp_path):
    path = write(tmp_path / "o.parquet", [], UTM, affine(1, 0, 0))
    assert export_geojson([path], tmp_path / "o.geojson") == Exported(0, 0)
    assert features(tmp_path / "o.geojson") == []
    assert export_gpkg([path], tmp_path / "o.gpkg") == Exported(0, 0)
    with pytest.raises(OutputError, match="no file of scene objects"):
        export_gpkg([], tmp_path / "none.gpkg")


@pytest.mark.parametrize("export, suffix", [(export_geojson, "geojson"), (export_gpkg, "gpkg")])
def test_objects_below_a_score_or_without_one_stay_behind(tmp_path, export, suffix):
    path = write(tmp_path / "o.parquet", [RING] * 3, UTM, affine(1, 500_000, 6_000_000), scores=[0.3, 0.7, None])
    assert export([path], tmp_path / f"o.{suffix}", min_score=0.7).rows == 1


@pytest.mark.parametrize("export", [export_geojson, export_gpkg])
def test_files_of_others_are_refused(tmp_path, export):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(OutputError, match="holds no objects of scenes"):
        export([tmp_path / "other.parquet"], tmp_path / "out")
    with pytest.raises(OutputError, match="cannot be read as a Parquet file"):
        export([tmp_path / "cut.parquet"], tmp_path / "out")
    with pytest.raises(OutputError, match="gone.parquet cannot be read"):
        export([tmp_path / "gone.parquet"], tmp_path / "out")
    with pytest.raises(ConfigError, match="s3://bucket/o: this file is written locally only"):
        export([], "s3://bucket/o")
    assert not (tmp_path / "out").exists()


def test_pixels_go_into_a_geopackage_but_not_into_geojson(tmp_path):
    path = write(tmp_path / "o.parquet", [RING], None, None)
    with pytest.raises(OutputError, match="is in pixels.*export to GPKG instead"):
        export_geojson([path], tmp_path / "o.geojson")
    with pytest.raises(OutputError, match="is in pixels"):
        export_gpkg([path], tmp_path / "o.gpkg", lon_lat=True)
    export_gpkg([path], tmp_path / "o.gpkg")
    geopandas = pytest.importorskip("geopandas")
    found = geopandas.read_file(tmp_path / "o.gpkg")
    assert found.total_bounds.tolist() == [0, 0, 4, 4] and (found.crs is None or "ndefined" in found.crs.name)


def test_an_object_without_a_shape_keeps_its_row(tmp_path):
    path = write(
        tmp_path / "o.parquet", [RING, RING], UTM, lambda xy: np.where(xy[:, :1] > 4, np.nan, xy + np.array([500_000, 6_000_000]))
    )
    assert export_geojson([path], tmp_path / "o.geojson") == Exported(2, 1)
    assert [f["geometry"] is None for f in features(tmp_path / "o.geojson")] == [False, True]
    assert export_gpkg([path], tmp_path / "o.gpkg") == Exported(2, 1)
    with sqlite3.connect(tmp_path / "o.gpkg") as db:
        assert db.execute("SELECT count(*), count(geom) FROM objects").fetchone() == (2, 1)
        assert db.execute("SELECT count(*) FROM rtree_objects_geom").fetchone() == (1,)
    db.close()


def test_gdal_reads_the_geopackage_with_its_crs_index_and_columns(tmp_path):
    geopandas, pyogrio = pytest.importorskip("geopandas"), pytest.importorskip("pyogrio")
    rng = np.random.default_rng(0)
    masks = [np.pad(rng.random((6, 6)) < 0.7, 1, constant_values=True) for _ in range(60)]
    path = write(tmp_path / "o.parquet", masks, UTM, affine(0.5, 500_000, 6_000_000))
    assert export_gpkg([path], tmp_path / "o.gpkg", layer='fields "2026"') == Exported(60, 0)
    info = pyogrio.read_info(tmp_path / "o.gpkg", layer='fields "2026"')
    assert info["features"] == 60 and info["geometry_type"] == "MultiPolygon" and info["capabilities"]["fast_spatial_filter"]
    found, table = geopandas.read_file(tmp_path / "o.gpkg"), geopandas.read_parquet(path)
    assert found.crs == UTM and found.is_valid.all()
    assert found.geometry.area.to_numpy() == pytest.approx(table.geometry.area.to_numpy(), rel=1e-12)
    for name in ("object_id", "label", "score", "area_px", "area_m2", "scene_id", "n_fragments"):
        assert found[name].tolist() == table[name].tolist()
    part = geopandas.read_file(tmp_path / "o.gpkg", bbox=(500_100, 5_999_000, 500_120, 6_000_000))
    assert sorted(part["object_id"]) == sorted(
        table[table.intersects(shapely.box(500_100, 5_999_000, 500_120, 6_000_000))]["object_id"]
    )


def test_the_index_of_a_geopackage_follows_edits(tmp_path):
    path = write(tmp_path / "o.parquet", [RING, RING], UTM, affine(1, 500_000, 6_000_000))
    export_gpkg([path], tmp_path / "o.gpkg")
    db = sqlite3.connect(tmp_path / "o.gpkg")
    boxes = "SELECT id, minx, maxx, miny, maxy FROM rtree_objects_geom ORDER BY id"
    header = np.dtype([("start", "S8"), ("box", "<f8", 4)])
    db.create_function("ST_IsEmpty", 1, lambda blob: 0 if blob else None)
    for i, edge in enumerate(("MinX", "MaxX", "MinY", "MaxY")):
        db.create_function(f"ST_{edge}", 1, lambda blob, i=i: float(np.frombuffer(blob[:40], header)["box"][0, i]))
    before = db.execute(boxes).fetchall()
    assert [row[0] for row in before] == [1, 2]
    assert before[0][1:] == (500_000, 500_004, 5_999_996, 6_000_000)
    db.execute("UPDATE objects SET geom = (SELECT geom FROM objects WHERE fid = 2) WHERE fid = 1")
    assert db.execute(boxes).fetchall()[0][1:] == before[1][1:]
    db.execute("UPDATE objects SET fid = 9 WHERE fid = 1")
    assert [row[0] for row in db.execute(boxes)] == [2, 9]
    db.execute("UPDATE objects SET geom = NULL WHERE fid = 9")
    assert [row[0] for row in db.execute(boxes)] == [2]
    db.execute("UPDATE objects SET geom = (SELECT geom FROM objects WHERE fid = 2) WHERE fid = 9")
    db.execute("DELETE FROM objects WHERE fid = 2")
    db.execute("INSERT INTO objects (geom, label) SELECT geom, 'again' FROM objects WHERE fid = 9")
    assert [row[0] for row in db.execute(boxes)] == [9, 10]
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    db.close()


@pytest.mark.parametrize(
    "name, expected", [("EPSG:32633", 32633), ("EPSG:4326", 4326), ("+proj=laea +lat_0=52 +lon_0=10", 100_000)]
)
def test_the_reference_system_of_a_geopackage_is_named_where_it_has_a_name(tmp_path, name, expected):
    path = write(tmp_path / "o.parquet", [RING], pyproj.CRS(name), affine(0.001, 10, 50))
    export_gpkg([path], tmp_path / "o.gpkg")
    db = sqlite3.connect(tmp_path / "o.gpkg")
    assert db.execute("SELECT srs_id FROM gpkg_geometry_columns").fetchone() == (expected,)
    assert {-1, 0, 4326, expected} == {row[0] for row in db.execute("SELECT srs_id FROM gpkg_spatial_ref_sys")}
    db.close()
    geopandas = pytest.importorskip("geopandas")
    assert geopandas.read_file(tmp_path / "o.gpkg").crs.equals(pyproj.CRS(name), ignore_axis_order=True)


def test_two_exports_hold_the_same_and_the_second_takes_the_place_of_the_first(tmp_path):
    path = write(tmp_path / "o.parquet", [RING], UTM, affine(1, 500_000, 6_000_000))
    first = export_geojson([path], tmp_path / "o.geojson"), (tmp_path / "o.geojson").read_bytes()
    with path.open("rb") as opened:
        assert (export_geojson([opened], tmp_path / "o.geojson"), (tmp_path / "o.geojson").read_bytes()) == first
    assert export_gpkg([path], tmp_path / "o.gpkg") == export_gpkg([path], tmp_path / "o.gpkg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.geojson", "o.gpkg", "o.parquet"]
