"""What is wanted of a scene, against asking every pixel's centre."""

from __future__ import annotations

import json
import pickle
import sqlite3
import struct
from functools import cache

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from rayseg.errors import ConfigError
from rayseg.geo.aoi import Aoi, read_aoi
from rayseg.geo.ground import Ground
from rayseg.geo.scene import Band, Part, Scene
from rayseg.geometry import Size, Window

from .rasters import windows_in

SIZE = Size(48, 64)
LON_LAT = CRS.from_user_input("OGC:CRS84")

# Reference system and transform: pixels of some km, so that meridians bend visibly within a scene.
PLACES = {
    "utm": ("EPSG:32633", (2000, 0, 420_000, 0, -2000, 5_400_000)),
    "utm turned": ("EPSG:32633", (1500, 900, 420_000, 900, -1500, 5_400_000)),
    "mercator": ("EPSG:3857", (5000, 0, 1_000_000, 0, -5000, 6_500_000)),
    "degrees": ("EPSG:4326", (0.05, 0, 12.0, 0, -0.05, 48.0)),
    "degrees over the date line": ("EPSG:4326", (0.05, 0, 178.0, 0, -0.05, -15.0)),
    "utm over the date line": ("EPSG:32760", (4000, 0, 550_000, 0, -4000, 8_300_000)),
    "mercator over the date line": ("EPSG:3857", (5000, 0, 19_800_000, 0, -5000, -1_650_000)),
    "another datum over the date line": ("EPSG:4269", (0.05, 0, 178.0, 0, -0.05, 50.0)),
    "north pole": ("EPSG:3413", (20_000, 0, -800_000, 0, -20_000, 700_000)),
    "south pole": ("EPSG:3031", (20_000, 0, -700_000, 0, -20_000, 500_000)),
    "world": ("EPSG:4326", (4.5, 0, -180.0, 0, -3.0, 90.0)),
    "world in mercator": ("EPSG:3857", (500_940, 0, -20_037_508, 0, -667_900, 20_037_508)),
}


@cache
def scene_at(place: str, size: Size = SIZE) -> Scene:
    crs, affine = PLACES[place]
    return made(Ground(CRS.from_user_input(crs).to_wkt(), tuple(map(float, affine))), size)


def made(ground: Ground, size: Size = SIZE) -> Scene:
    return Scene("s", size, (Band("uint8", 8, "gray"),), ground, "GTiff", size, False, "", False, (Part("s", Window.of(size)),))


def centres(size: Size) -> np.ndarray:
    x, y = np.meshgrid(np.arange(size.width) + 0.5, np.arange(size.height) + 0.5)
    return np.stack([x.ravel(), y.ravel()], axis=-1)


@cache
def way_to_lon_lat(wkt: str) -> Transformer:
    return Transformer.from_crs(CRS.from_wkt(wkt), LON_LAT, always_xy=True)


def slow_mask(scene: Scene, polygons) -> tuple[np.ndarray, np.ndarray]:
    """Which centres lie inside, and which are within a pixel's tenth of an edge; asked in longitude and latitude."""
    to_lon_lat = way_to_lon_lat(scene.ground.crs_wkt)

    def inside(pixels):
        lon, lat = to_lon_lat.transform(*scene.ground.to_ground(pixels).T)
        lon = np.where(np.isfinite(lon), lon, 0)
        return np.any([shapely.contains_xy(polygons, lon + turn, lat) for turn in (-360, 0, 360)], axis=0)

    middle = centres(scene.size)
    answer = inside(middle)
    around = [inside(middle + 0.15 * np.array([np.cos(a), np.sin(a)])) for a in np.linspace(0, 2 * np.pi, 8, endpoint=False)]
    sure = np.all([a == answer for a in around], axis=0)
    return answer.reshape(scene.size.hw), sure.reshape(scene.size.hw)


@st.composite
def stars(draw, scene: Scene):
    """A polygon in longitude and latitude whose corners lie around the scene's middle; long edges, and up to one hole."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(3, 9))
    angle = np.sort((np.arange(n) + rng.random(n) * 0.8) / n) * 2 * np.pi
    reach = rng.uniform(0.1, 0.6, n)[:, None] * min(scene.size.wh)
    pixels = np.array(scene.size.wh) / 2 + reach * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    lon, lat = way_to_lon_lat(scene.ground.crs_wkt).transform(*scene.ground.to_ground(pixels).T)
    lon = lon[0] + (lon - lon[0] + 180) % 360 - 180
    shell = np.stack([lon, lat], axis=-1)
    polygon = shapely.Polygon(shell)
    if draw(st.booleans()):
        polygon = polygon.difference(shapely.affinity.scale(polygon, 0.4, 0.3))
    return shapely.make_valid(polygon)


def aoi_of(polygons, crs=LON_LAT) -> Aoi:
    return Aoi(shapely.to_wkb(polygons), None if crs is None else crs.to_wkt(), "x.geojson")


@settings(max_examples=30)
@given(place=st.sampled_from([p for p in PLACES if "pole" not in p and "world" not in p]), data=st.data())
def test_a_pixel_is_wanted_when_its_centre_lies_in_a_polygon(place, data):
    scene = scene_at(place)
    polygons = data.draw(stars(scene))
    wanted, sure = slow_mask(scene, polygons)
    found = aoi_of(polygons).on(scene).mask(Window.of(scene.size))
    assert ((found == wanted) | ~sure).all()


@settings(max_examples=25)
@given(place=st.sampled_from(list(PLACES)), data=st.data())
def test_the_mask_of_a_window_is_cut_from_that_of_the_scene_and_tells_whether_the_window_is_wanted(place, data):
    scene = scene_at(place)
    lon, lat = sorted(data.draw(st.tuples(*[st.floats(-180, 180)] * 2))), sorted(data.draw(st.tuples(*[st.floats(-89, 89)] * 2)))
    box = shapely.box(lon[0], lat[0], lon[1] + 0.1, lat[1] + 0.1)
    aoi = aoi_of(data.draw(st.sampled_from([box]) if "pole" in place or "world" in place else stars(scene))).on(scene)
    whole = aoi.mask(Window.of(scene.size))
    windows = data.draw(st.lists(windows_in(scene.size), min_size=1, max_size=6))
    for window, wanted in zip(windows, aoi.wanted(windows), strict=True):
        mask = aoi.mask(window)
        assert mask.dtype == bool and (mask == whole[window.slices]).all()
        assert wanted == mask.any()


@pytest.mark.parametrize("place", ["north pole", "south pole", "world", "world in mercator"])
@pytest.mark.parametrize(
    "bounds",
    [
        (-180, -90, 180, 90),
        (-180, 83.05, 180, 90),
        (-180, -90, 180, -84.05),
        (-20.3, 40, 100, 89),
        (-100, -89, 20, -40),
        (150, -89, 180, 89),
    ],
)
def test_boxes_of_longitude_and_latitude_are_found_around_poles_and_on_maps_of_the_world(place, bounds):
    scene, box = scene_at(place), shapely.box(*bounds)
    wanted, sure = slow_mask(scene, box)
    found = aoi_of(box).on(scene).mask(Window.of(scene.size))
    assert ((found == wanted) | ~sure).all()
    assert sure.mean() > 0.8


@pytest.mark.parametrize("place", ["degrees over the date line", "utm over the date line", "mercator over the date line"])
def test_polygons_are_found_on_both_sides_of_the_date_line_however_they_are_written(place):
    scene, lat = scene_at(place), (-17.0, -15.5)
    parts = shapely.MultiPolygon([shapely.box(179, lat[0], 180, lat[1]), shapely.box(-180, lat[0], -179, lat[1])])
    written_on = shapely.box(179, lat[0], 181, lat[1])
    written_back = shapely.box(-181, lat[0], -179, lat[1])
    masks = [aoi_of(p).on(scene).mask(Window.of(scene.size)) for p in (parts, written_on, written_back)]
    assert masks[0].any() and not masks[0].all()
    wanted, sure = slow_mask(scene, written_on)
    for mask in masks:
        assert ((mask == wanted) | ~sure).all()


def test_two_halves_that_meet_on_the_date_line_leave_no_gap_where_centres_lie_on_it():
    crs, (a, *_, f) = PLACES["degrees over the date line"]
    scene = made(Ground(CRS.from_user_input(crs).to_wkt(), (a, 0.0, 180 - 20.5 * a, 0.0, -a, f)))
    halves = shapely.MultiPolygon([shapely.box(170, -30, 180, 0), shapely.box(-180, -30, -170, 0)])
    assert aoi_of(halves).on(scene).mask(Window.of(scene.size)).all()


def test_polygons_in_the_scenes_own_system_and_in_pixels_need_no_way():
    scene = scene_at("utm turned")
    polygon = shapely.Polygon([(10.3, 5.2), (60.1, 12.7), (33.3, 51.9)])
    ground = shapely.transform(polygon, scene.ground.to_ground)
    wanted = shapely.contains_xy(polygon, centres(SIZE)).reshape(SIZE.hw)
    assert (aoi_of(ground, CRS.from_wkt(scene.ground.crs_wkt)).on(scene).mask(Window.of(SIZE)) == wanted).all()
    assert (aoi_of(polygon, None).on(scene).mask(Window.of(SIZE)) == wanted).all()
    assert wanted.any()


def test_polygons_elsewhere_leave_nothing_wanted():
    scene = scene_at("utm")
    far = aoi_of(shapely.box(100, -40, 110, -30)).on(scene)
    assert far.empty and not far.wanted([Window.of(SIZE)]).any() and not far.mask(Window.of(SIZE)).any()
    everywhere = aoi_of(shapely.box(-180, -90, 180, 90)).on(scene)
    assert everywhere.mask(Window.of(SIZE)).all() and everywhere.wanted([Window(3, 3, 5, 5)]).all()


def test_what_travels_to_tasks_survives_pickling_also_after_use():
    aoi = aoi_of(shapely.box(13, 47, 15, 48)).on(scene_at("utm"))
    before = aoi.mask(Window.of(SIZE))
    assert (pickle.loads(pickle.dumps(aoi)).mask(Window.of(SIZE)) == before).all()
    assert aoi.mask(Window(3, 3, 3, 9)).shape == (6, 0)


def test_a_scene_without_reference_system_takes_only_polygons_in_pixels():
    scene = made(Ground())
    assert aoi_of(shapely.box(1, 1, 4, 3), None).on(scene).mask(Window.of(SIZE)).sum() == 6
    with pytest.raises(ConfigError, match="x.geojson is in WGS 84 .*but s has no reference system"):
        aoi_of(shapely.box(1, 1, 4, 3)).on(scene)


TRIANGLE = shapely.Polygon([(13, 47), (15, 47), (14, 49)])
COLLECTION = {
    "type": "FeatureCollection",
    "features": [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(TRIANGLE)}],
}
UTM_NAME = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}


@pytest.mark.parametrize(
    "content, crs",
    [
        (COLLECTION, "OGC:CRS84"),
        (COLLECTION["features"][0], "OGC:CRS84"),
        (COLLECTION["features"][0]["geometry"], "OGC:CRS84"),
        ({"type": "GeometryCollection", "geometries": [COLLECTION["features"][0]["geometry"]]}, "OGC:CRS84"),
        (COLLECTION | {"crs": UTM_NAME}, "EPSG:32633"),
        (COLLECTION | {"crs": None}, None),
    ],
)
def test_geojson_is_read_in_the_system_it_names(tmp_path, content, crs):
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    aoi = read_aoi(str(tmp_path / "a.geojson"))
    assert shapely.from_wkb(aoi.wkb).equals(TRIANGLE)
    assert aoi.crs_wkt == (None if crs is None else CRS.from_user_input(crs).to_wkt())
    assert pickle.loads(pickle.dumps(aoi)) == aoi


@pytest.mark.parametrize("suffix, options", [("gpkg", {"driver": "GPKG"}), ("parquet", {})])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633"])
def test_what_geopandas_writes_is_read(tmp_path, suffix, options, crs):
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.GeoDataFrame(geometry=[TRIANGLE, shapely.box(20, 40, 21, 41)], crs="EPSG:4326").to_crs(crs)
    path = tmp_path / f"a.{suffix}"
    getattr(frame, "to_parquet" if suffix == "parquet" else "to_file")(path, **options)
    aoi = read_aoi(str(path))
    assert shapely.from_wkb(aoi.wkb).equals(frame.union_all())
    assert CRS.from_wkt(aoi.crs_wkt).equals(CRS.from_user_input(crs), ignore_axis_order=True)


def geopackage(path, geometries, srs_id=4326, layers=1):
    """The least that makes a GeoPackage, with a bounding box in each geometry's header."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id)")
        db.execute("CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id, definition)")
        db.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (4326, 'EPSG', 4326, ''), (-1, 'NONE', -1, 'undefined')")
        for i in range(layers):
            db.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', ?)", (f'la"yer{i}', srs_id))
            db.execute(f'CREATE TABLE "la""yer{i}" (geom BLOB)')
            for g in geometries:
                header = b"GP\x00\x03" + struct.pack("<i4d", srs_id, *(g.bounds[k] for k in (0, 2, 1, 3)))
                db.execute(f'INSERT INTO "la""yer{i}" VALUES (?)', (header + shapely.to_wkb(g),))
    db.close()
    return str(path)


def test_a_geopackage_is_read_without_its_driver(tmp_path):
    aoi = read_aoi(geopackage(tmp_path / "a.gpkg", [TRIANGLE]))
    assert shapely.from_wkb(aoi.wkb).equals(TRIANGLE) and CRS.from_wkt(aoi.crs_wkt).to_epsg() == 4326
    assert read_aoi(geopackage(tmp_path / "b.gpkg", [TRIANGLE], srs_id=-1)).crs_wkt is None
    with pytest.raises(ConfigError, match='needs one layer, found la"yer0, la"yer1'):
        read_aoi(geopackage(tmp_path / "c.gpkg", [TRIANGLE], layers=2))


def test_polygons_that_overlap_or_cross_themselves_are_made_valid(tmp_path):
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}
    (tmp_path / "a.json").write_text(json.dumps({"type": "GeometryCollection", "geometries": [bow_tie, bow_tie]}))
    whole = shapely.from_wkb(read_aoi(str(tmp_path / "a.json")).wkb)
    assert whole.is_valid and whole.area == pytest.approx(2)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.shp", "", "reads GeoJSON, GeoPackage and GeoParquet. Convert it: ogr2ogr"),
        ("a.geojson", None, "there is no such file"),
        ("a.geojson", "{", "cannot be read"),
        ("a.geojson", "[]", "cannot be read"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ("a.geojson", '{"type": "Point", "coordinates": [1, 2]}', "geometry 0 is a Point; only polygons"),
        ("a.geojson", '{"type": "Polygon", "coordinates": [[[0,0],[1,1],[2,2],[0,0]]]}', "its polygons have no area"),
        ("a.gpkg", "words, not a database", "cannot be read: file is not a database"),
        ("a.parquet", "PAR1", "cannot be read"),
    ],
)
def test_a_file_that_encloses_nothing_is_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_aoi(str(tmp_path / name))
