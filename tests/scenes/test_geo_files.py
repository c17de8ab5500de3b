"""The tables of a job of scenes as others open them: GeoPandas, DuckDB, and shapes rasterised back."""

from __future__ import annotations

import warnings

import duckdb
import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from rasterio.features import rasterize

from . import places, worlds

CRS = {"utm.tif": 32633, "turned.tif": 32719, "degrees.tif": 4326, "nowhere.tif": None, "small.tif": 32633}


@pytest.fixture(scope="module")
def frames(undisturbed) -> dict[str, geopandas.GeoDataFrame]:
    """The objects of each scene that has some."""
    files = [geopandas.read_parquet(path) for path in sorted((undisturbed / "objects").glob("*.parquet"))]
    assert len(files) == len(places.WORLDS)
    return {rows["uri"].iloc[0].rsplit("/", 1)[-1]: rows for rows in files if len(rows)}


def test_the_objects_of_the_job_are_the_true_ones(undisturbed):
    found = worlds.found(undisturbed)
    for name, world in places.WORLDS.items():
        assert found.get(name, []) == worlds.truth(world, worlds.windows(undisturbed, name)), name


def test_geopandas_reads_the_reference_system_and_valid_shapes(frames):
    assert {name: rows.crs and rows.crs.to_epsg() for name, rows in frames.items()} == CRS
    for rows in frames.values():
        assert rows.is_valid.all()
        assert not rows.is_empty.any()


def test_the_covering_boxes_are_the_bounds_of_the_shapes(undisturbed):
    rows = worlds.objects(undisturbed)  # GeoPandas leaves the column out
    boxes = [[box[key] for key in ("xmin", "ymin", "xmax", "ymax")] for box in rows["bbox"]]
    np.testing.assert_allclose(boxes, shapely.bounds(shapely.from_wkb(rows["geometry"])), rtol=1e-7)


def test_shapes_rasterised_back_are_the_masks(frames, places):
    for name, rows in frames.items():
        size, transform = _placed(places / name)
        for row in rows.to_dict("records"):
            back = rasterize([(row["geometry"], 1)], out_shape=size, transform=transform).astype(bool)
            w = row["window"]
            assert back.sum() == row["area_px"], (name, row["object_id"])
            assert (back[w["y0"] : w["y1"], w["x0"] : w["x1"]] == worlds.mask_of(row)).all(), (name, row["object_id"])


def test_areas_in_square_metres_are_those_of_the_ground(frames):
    for name in ("utm.tif", "turned.tif", "small.tif"):  # on maps true to a per mille
        rows = frames[name]
        np.testing.assert_allclose(rows["area_m2"], rows.area, rtol=3e-3)
    rows, ellipsoid = frames["degrees.tif"], pyproj.Geod(ellps="WGS84")
    fine = shapely.segmentize(np.asarray(rows.geometry), 1e-3)
    np.testing.assert_allclose(rows["area_m2"], [abs(ellipsoid.geometry_area_perimeter(g)[0]) for g in fine], rtol=1e-5)
    assert frames["nowhere.tif"]["area_m2"].isna().all()


def test_rows_that_are_near_in_the_file_are_near_on_the_ground(frames):
    rows = frames["utm.tif"]
    centres = np.stack([rows.centroid.x, rows.centroid.y], axis=1)
    steps = np.hypot(*np.diff(centres, axis=0).T)
    shuffled = np.random.default_rng(0).permutation(centres)
    assert steps.mean() < np.hypot(*np.diff(shuffled, axis=0).T).mean() / 2


def test_duckdb_reads_columns_and_filters_by_the_covering_boxes(undisturbed, frames):
    rows, files = frames["utm.tif"], f"{undisturbed}/objects/*.parquet"
    x0, y0 = 500_000 + 40, 5_000_000 - 100
    x1, y1 = x0 + 60, y0 + 50
    wanted = rows[rows.geometry.bounds.eval(f"maxx > {x0} and minx < {x1} and maxy > {y0} and miny < {y1}")]
    with duckdb.connect() as db:
        db.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
        found = db.execute(
            "SELECT object_id, label, area_m2 FROM read_parquet(?) WHERE uri LIKE '%/utm.tif' "
            "AND bbox.xmax > ? AND bbox.xmin < ? AND bbox.ymax > ? AND bbox.ymin < ? ORDER BY object_id",
            [files, x0, x1, y0, y1],
        ).fetchall()
        assert 0 < len(found) < len(rows)
        expected = wanted.sort_values("object_id")[["object_id", "label", "area_m2"]]
        assert found == list(expected.itertuples(index=False, name=None))
        per_scene = "SELECT parse_filename(uri), count(*) FROM read_parquet(?) GROUP BY 1"
        assert dict(db.execute(per_scene, [files]).fetchall()) == {n: len(rows) for n, rows in frames.items()}


def test_duckdb_spatial_opens_the_geometry_itself(undisturbed, frames):
    with duckdb.connect() as db:
        try:
            db.execute("LOAD spatial")
        except duckdb.Error:
            pytest.skip("DuckDB's spatial extension is not installed")
        query = "SELECT sum(ST_Area(geometry)) FROM read_parquet(?) WHERE uri LIKE '%/utm.tif'"
        (area,) = db.execute(query, [f"{undisturbed}/objects/*.parquet"]).fetchone()
        assert area == pytest.approx(frames["utm.tif"].area.sum())


def test_the_ledger_says_where_scenes_lie(undisturbed, places):
    seen = {}
    for path in sorted((undisturbed / "images").glob("*.parquet")):
        row = geopandas.read_parquet(path)
        (uri,) = row["uri"]
        seen[uri.rsplit("/", 1)[-1]] = row.crs and row.crs.to_epsg()
        (height, width), transform = _placed(uri)
        wanted = shapely.Polygon([transform @ (x * width, y * height) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))])
        assert row.geometry.name == "footprint"
        assert row.geometry.iloc[0].symmetric_difference(wanted).area < 1e-9 * wanted.area
        assert row["holes"].isna().all()
        assert row["crs"].dropna().tolist() == ([] if row.crs is None else [f"EPSG:{row.crs.to_epsg()}"])
    assert seen == CRS | {"empty.tif": 32633}


def _placed(path) -> tuple[tuple[int, int], rasterio.Affine]:
    """Size and transform of a raster."""
    with (
        warnings.catch_warnings(action="ignore", category=rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(path) as file,
    ):
        return file.shape, file.transform
