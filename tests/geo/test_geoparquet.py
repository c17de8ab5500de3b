"""The objects table of scenes: written by pyarrow, read back by GeoPandas and DuckDB, and checked against the masks."""

from __future__ import annotations

import io
import json
import warnings

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg import rle
from rayseg.errors import ConfigError, OutputError
from rayseg.geo import geoparquet
from rayseg.geo.geoparquet import (
    GEO_OBJECTS,
    GeoParquetFile,
    SceneRef,
    crs_of,
    scene_objects_table,
    spatial_order,
    with_geo_metadata,
)
from rayseg.geo.hilbert import hilbert_index
from rayseg.geometry import Size, Window
from rayseg.rle import Rle
from rayseg.tables import OBJECTS
from rayseg.tiling.objects import SCENE_OBJECTS

UTM = pyproj.CRS(32633)
SCENE = SceneRef("north", 7, "s3://bucket/north.tif")
LABELS = ("field", "river")


def to_utm(xy):
    return xy * [0.5, -0.5] + [500_000, 6_000_000]


def stitched(masks, corners, *, class_ids=None, scores=None):
    """A table as stitching leaves it."""
    n = len(masks)
    corner = np.array(corners, dtype=np.int64).reshape(-1, 2)
    size = np.array([m.shape[::-1] for m in masks], dtype=np.int64).reshape(-1, 2)
    window = np.concatenate([corner, corner + size], axis=1)
    columns = {
        "class_id": class_ids or [i % 2 for i in range(n)],
        "score": scores or [0.5] * n,
        **{name: window[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))},
        "area_px": [int(m.sum()) for m in masks],
        "rle_counts": [rle.encode(m).counts.decode() for m in masks],
        "n_fragments": [3] * n,
        "tiles": [[4, 9]] * n,
    }
    return pa.table(columns, schema=SCENE_OBJECTS)


def blobs(n, *, seed=0, scene_px=20_000):
    """Objects of up to 9 x 9 pixels in a scene, none empty."""
    rng = np.random.default_rng(seed)
    masks = [rng.random(rng.integers(1, 10, 2)) < 0.7 for _ in range(n)]
    for mask in masks:
        mask[0, 0] = True
    return stitched(masks, rng.integers(0, scene_px, (n, 2)), scores=rng.random(n).tolist())


def table_of(found, **options):
    options = {"crs": UTM, "pixel_to_ground": to_utm} | options
    return scene_objects_table(SCENE, found, LABELS, **options)


def write(path, *tables, crs=UTM):
    with GeoParquetFile(path, crs) as file:
        for table in tables:
            file.write(table)
    return path


def geo_of(path):
    return json.loads(pq.read_metadata(path).metadata[b"geo"])


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.0, 1.0, 2.5]))
def test_rows_hold_masks_shapes_bounds_and_areas_that_agree(seed, n, simplify_px):
    found = blobs(n, seed=seed)
    table = table_of(found, simplify_px=simplify_px)
    shapes = shapely.from_wkb(table["geometry"].to_pylist())
    assert shapely.is_valid(shapes).all()
    for row, shape in zip(table.to_pylist(), shapes, strict=True):
        mask = rle.decode(Rle(Size(row["rle_h"], row["rle_w"]), row["rle_counts"].encode()))
        window = Window(**row["window"])
        assert (window.height, window.width) == mask.shape
        assert row["area_px"] == mask.sum() and row["area_m2"] == pytest.approx(mask.sum() / 4)
        assert tuple(row["bbox"].values()) == shape.bounds
        rows, columns = np.nonzero(mask)
        box = [columns.min() + window.x0, rows.min() + window.y0, columns.max() + 1 + window.x0, rows.max() + 1 + window.y0]
        assert [row["x0"], row["y0"], row["x1"], row["y1"]] == box
        if simplify_px == 0:
            assert shape.area == pytest.approx(row["area_m2"])


@given(st.integers(1, 6))
def test_the_curve_visits_every_cell_once_and_goes_from_neighbour_to_neighbour(bits):
    side = np.arange(2.0**bits)
    x, y = (a.ravel() for a in np.meshgrid(side, side))
    index = hilbert_index(x, y, bits=bits)
    assert sorted(index) == list(range(4**bits))
    walk = np.argsort(index)
    assert (abs(np.diff(x[walk])) + abs(np.diff(y[walk])) == 1).all()


@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 60_000)), max_size=30))
def test_sorting_keeps_every_row(corners):
    order = spatial_order(stitched([np.ones((2, 2), bool)] * len(corners), corners))
    assert sorted(order.tolist()) == list(range(len(corners)))


def test_sorted_rows_lie_close_together():
    found = blobs(3000)
    lengths = []
    for rows in (found, found.take(spatial_order(found))):
        x, y = rows["x0"].to_numpy(), rows["y0"].to_numpy()
        lengths.append(np.hypot(np.diff(x), np.diff(y)).mean())
    assert lengths[1] < lengths[0] / 15


def test_the_columns_are_those_of_every_objects_table_and_more():
    assert GEO_OBJECTS.names[: len(OBJECTS)] == OBJECTS.names
    table = table_of(blobs(5), first_id=100)
    assert table.schema.equals(GEO_OBJECTS)
    row = table.to_pylist()[1]
    assert (row["object_id"], row["label"], row["class_id"]) == (101, "river", 1)
    assert (row["unit_id"], row["uri"], row["page"], row["scene_id"]) == (7, SCENE.uri, 0, "north")
    assert (row["n_fragments"], row["n_tiles"]) == (3, 2)


def test_geopandas_opens_it_with_its_crs_and_reads_a_part_by_its_bounds(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    table = table_of(blobs(500))
    path = write(tmp_path / "objects.parquet", table)
    found = geopandas.read_parquet(path)
    assert found.crs == UTM and len(found) == 500 and found.is_valid.all()
    assert found.geometry.area.to_numpy() == pytest.approx(table["area_m2"].to_numpy())
    assert tuple(geo_of(path)["columns"]["geometry"]["bbox"]) == pytest.approx(tuple(found.total_bounds))
    box = (501_000, 5_992_000, 505_000, 5_998_000)
    part = geopandas.read_parquet(path, bbox=box)
    assert 0 < len(part) < 500
    assert sorted(part["object_id"]) == sorted(found[found.intersects(shapely.box(*box))]["object_id"])


def test_duckdb_opens_it_sums_areas_and_filters_by_bounds(tmp_path):
    table = table_of(blobs(500))
    path = write(tmp_path / "objects.parquet", table)
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT label, count(*), sum(area_m2) FROM read_parquet(?) WHERE bbox.xmin < 505000 GROUP BY label ORDER BY label",
            [str(path)],
        ).fetchall()
        kind = db.execute("SELECT typeof(geometry) FROM read_parquet(?) LIMIT 1", [str(path)]).fetchone()
    expected = [r for r in table.to_pylist() if r["bbox"]["xmin"] < 505_000]
    assert [r[0] for r in rows] == list(LABELS)
    assert sum(r[1] for r in rows) == len(expected)
    assert sum(r[2] for r in rows) == pytest.approx(sum(r["area_m2"] for r in expected))
    assert kind[0].startswith(("GEOMETRY", "BLOB"))


def test_the_metadata_is_that_of_geoparquet_1_1(tmp_path):
    geo = geo_of(write(tmp_path / "o.parquet", table_of(blobs(50))))
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB" and column["orientation"] == "counterclockwise"
    assert pyproj.CRS.from_json_dict(column["crs"]) == UTM
    assert column["covering"]["bbox"] == {k: ["bbox", k] for k in ("xmin", "ymin", "xmax", "ymax")}
    assert column["geometry_types"] == ["MultiPolygon", "Polygon"]


def test_without_a_crs_shapes_are_in_pixels_and_the_file_says_so(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    table = table_of(stitched([np.ones((2, 3), bool)], [(10, 20)]), crs=None, pixel_to_ground=None)
    path = write(tmp_path / "o.parquet", table, crs=None)
    assert geo_of(path)["columns"]["geometry"]["crs"] is None
    found = geopandas.read_parquet(path)
    assert found.crs is None and found.geometry[0].equals(shapely.box(10, 20, 13, 22))
    assert np.isnan(found["area_m2"][0]) and found["area_px"][0] == 6


def test_any_parquet_writer_writes_geoparquet_from_a_table(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    table = table_of(blobs(20))
    pq.write_table(table, tmp_path / "o.parquet")
    assert geopandas.read_parquet(tmp_path / "o.parquet").crs == UTM
    joined = with_geo_metadata(pa.concat_tables([table, table_of(blobs(20, seed=1))]), UTM)
    bounds = json.loads(joined.schema.metadata[b"geo"])["columns"]["geometry"]["bbox"]
    assert tuple(bounds) == tuple(shapely.total_bounds(shapely.from_wkb(joined["geometry"].to_pylist())))


def test_row_groups_have_bounds_that_a_reader_can_skip_by(tmp_path, monkeypatch):
    monkeypatch.setattr(geoparquet, "ROWS_PER_GROUP", 100)
    found = blobs(1600)
    found = found.take(spatial_order(found))
    path = write(tmp_path / "o.parquet", *(table_of(found.slice(i, 400), first_id=i) for i in range(0, 1600, 400)))
    footer = pq.read_metadata(path)
    names = [footer.row_group(0).column(i).path_in_schema for i in range(footer.num_columns)]
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    assert len(groups) == 16
    west, east = (names.index(f"bbox.{n}") for n in ("xmin", "xmax"))
    spans = [g.column(east).statistics.max - g.column(west).statistics.min for g in groups]
    assert np.median(spans) < 10_000 / 3


def test_a_shape_the_ground_has_no_place_for_is_null_and_nothing_else_is_lost(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    found = stitched([np.ones((2, 2), bool)] * 2, [(0, 0), (100, 0)])
    table = table_of(found, pixel_to_ground=lambda xy: np.where(xy[:, :1] > 50, np.nan, to_utm(xy)))
    assert table["geometry"].is_null().to_pylist() == table["bbox"].is_null().to_pylist() == [False, True]
    assert table["area_m2"].to_pylist() == [1.0, None] and table["area_px"].to_pylist() == [4, 4]
    read = geopandas.read_parquet(write(tmp_path / "o.parquet", table))
    assert read.geometry.isna().tolist() == [False, True]
    assert np.isfinite(geo_of(tmp_path / "o.parquet")["columns"]["geometry"]["bbox"]).all()


def test_no_objects_make_a_file_without_rows(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    path = write(tmp_path / "o.parquet", table_of(stitched([], [])))
    assert "bbox" not in geo_of(path)["columns"]["geometry"]
    found = geopandas.read_parquet(path)
    assert len(found) == 0 and found.crs == UTM
    write(tmp_path / "none.parquet")
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_regions_without_a_score_have_none():
    found = stitched([np.ones((1, 1), bool)], [(0, 0)], scores=[None])
    assert table_of(found)["score"].to_pylist() == [None]


def test_two_writings_are_the_same_bytes():
    first, second = io.BytesIO(), io.BytesIO()
    for out in (first, second):
        write(out, table_of(blobs(30)))
    assert first.getvalue() == second.getvalue()


def test_an_error_on_the_way_leaves_no_file(tmp_path):
    def interrupted():
        with GeoParquetFile(tmp_path / "o.parquet", UTM) as file:
            file.write(table_of(blobs(3)))
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_refused_and_an_open_file_taken(tmp_path):
    with pytest.raises(ConfigError, match="written locally only"):
        write("s3://bucket/o.parquet", table_of(blobs(1)))
    with (tmp_path / "o.parquet").open("wb") as file:
        write(file, table_of(blobs(4)))
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 4


def test_rows_of_another_crs_or_table_are_refused(tmp_path):
    in_pixels = table_of(blobs(3), crs=None, pixel_to_ground=None)
    with pytest.raises(OutputError, match="rows in pixels cannot go into a file in WGS 84 / UTM zone 33N"):
        write(tmp_path / "o.parquet", in_pixels)
    with pytest.raises(OutputError, match="does not go into a file of scene objects"):
        write(tmp_path / "o.parquet", blobs(3))


@pytest.mark.parametrize("options", [{"crs": None}, {"pixel_to_ground": None}])
def test_a_crs_needs_a_transform_and_the_other_way_round(options):
    with pytest.raises(ValueError, match="given together or not at all"):
        table_of(blobs(1), **options)


def test_objects_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="class id 2 has no label; the model lists 2 labels"):
        table_of(stitched([np.ones((1, 1), bool)] * 2, [(0, 0)] * 2, class_ids=[1, 2]))
    with pytest.raises(ValueError, match="object 41 of north has no pixel"):
        table_of(stitched([np.ones((2, 2), bool), np.zeros((2, 2), bool)], [(0, 0)] * 2), first_id=40)
    with pytest.raises(ValueError, match="columns, or types, other than those of SCENE_OBJECTS"):
        table_of(blobs(1).drop_columns("tiles"))
    with pytest.raises(ValueError, match="columns, or types, other than those of SCENE_OBJECTS"):
        table_of(blobs(1).set_column(2, "x0", pa.array([1.0])))


@pytest.mark.parametrize("geo", [b"{", b"{}", b"[]", b'{"columns": {"geometry": {"crs": {"type": "no"}}}}'])
def test_metadata_of_others_is_refused(geo):
    with pytest.raises(OutputError, match="unreadable GeoParquet metadata"):
        crs_of(geo)


@pytest.mark.parametrize("name", ["EPSG:4326", "EPSG:3857", "EPSG:2263", "EPSG:25832+7837", "+proj=geos +lon_0=-75 +h=35786023"])
def test_a_crs_survives_the_file(name):
    crs = pyproj.CRS(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a PROJ string says less than a CRS
        geo = with_geo_metadata(table_of(blobs(1)), crs).schema.metadata[b"geo"]
    assert crs_of(geo) == crs


def test_a_folder_of_files_of_one_reference_system_opens_as_one_table(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    for name in ("a", "b"):
        table = scene_objects_table(SceneRef(name, 1, name), blobs(20), LABELS, crs=UTM, pixel_to_ground=to_utm)
        with GeoParquetFile(tmp_path / f"{name}.parquet", UTM) as file:
            file.write(table)
    whole = geopandas.read_parquet(tmp_path)
    assert len(whole) == 40 and whole.crs == UTM and whole.is_valid.all()
