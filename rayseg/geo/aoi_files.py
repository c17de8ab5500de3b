"""Polygons out of GeoJSON, GeoPackage and GeoParquet, without a vector driver. What is done with them is in `aoi.py`."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from rayseg.errors import ConfigError

_LON_LAT = "OGC:CRS84"
_ENVELOPE_DOUBLES = {0: 0, 1: 4, 2: 6, 3: 6, 4: 8}  # GeoPackage 1.3, table 6

Found = tuple[list[BaseGeometry], CRS | None]


def read_polygons(uri: str) -> Found:
    """All polygons of a file and their reference system, x before y; None where the file says that there is none.

    Args:
        uri: a local file whose name ends with .geojson, .json, .gpkg, .parquet or .geoparquet.

    Raises:
        ConfigError: it cannot be read, or holds anything but polygons, or none.
    """
    path = Path(uri.removeprefix("file://"))
    readers = {".geojson": _geojson, ".json": _geojson, ".gpkg": _geopackage, ".parquet": _geoparquet, ".geoparquet": _geoparquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"--aoi {uri}: reads GeoJSON, GeoPackage and GeoParquet. Convert it: ogr2ogr -f GeoJSON aoi.geojson {path.name}"
        )
    if not path.is_file():
        raise ConfigError(f"--aoi {uri}: there is no such file")
    try:
        geometries, crs = reader(path, uri)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, sqlite3.Error, pa.ArrowException) as error:
        raise ConfigError(f"--aoi {uri}: cannot be read: {error}") from error
    except (shapely.errors.ShapelyError, CRSError) as error:
        raise ConfigError(f"--aoi {uri}: cannot be read: {error}") from error
    other = next((i for i, g in enumerate(geometries) if g.geom_type not in ("Polygon", "MultiPolygon")), None)
    if other is not None:
        raise ConfigError(f"--aoi {uri}: geometry {other} is a {geometries[other].geom_type}; only polygons enclose an area")
    if not geometries:
        raise ConfigError(f"--aoi {uri}: holds no polygon")
    if not np.isfinite(shapely.get_coordinates(geometries)).all():
        raise ConfigError(f"--aoi {uri}: a coordinate is not a number")
    return geometries, crs


def _geojson(path: Path, uri: str) -> Found:
    """RFC 7946; and the `crs` member of its forerunner, which is still written."""
    found = json.loads(path.read_text(encoding="utf-8-sig"))
    if found["type"] == "FeatureCollection":
        nodes = [feature["geometry"] for feature in found["features"]]
    else:
        nodes = [found["geometry"] if found["type"] == "Feature" else found]
    geometries = [shapely.from_geojson(json.dumps(node)) for node in nodes if node is not None]
    if "crs" not in found:
        return _flat(geometries), CRS.from_user_input(_LON_LAT)
    return _flat(geometries), None if found["crs"] is None else CRS.from_user_input(found["crs"]["properties"]["name"])


def _geopackage(path: Path, uri: str) -> Found:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        layers = db.execute("SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns").fetchall()
        if len(layers) != 1:
            names = ", ".join(name for name, _, _ in layers) or "none"
            raise ConfigError(f"--aoi {uri}: needs one layer, found {names}. Take one out: ogr2ogr aoi.gpkg {path.name} LAYER")
        table, column, srs_id = layers[0]
        quoted_table, quoted_column = (name.replace('"', '""') for name in (table, column))
        blobs = [row[0] for row in db.execute(f'SELECT "{quoted_column}" FROM "{quoted_table}"') if row[0] is not None]
        query = "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys WHERE srs_id = ?"
        authority, code, wkt = db.execute(query, (srs_id,)).fetchone()
    crs = None if srs_id in (-1, 0) else _crs_of(authority, code, wkt)
    return _flat([shapely.from_wkb(_wkb(blob)) for blob in blobs]), crs


def _crs_of(authority: str, code: int, wkt: str) -> CRS:
    try:
        return CRS.from_authority(authority, code)
    except CRSError:
        return CRS.from_wkt(wkt)


def _wkb(blob: bytes) -> bytes:
    """The geometry behind the header that GeoPackage puts before it (GeoPackage 1.3, section 2.1.3)."""
    if blob[:2] != b"GP":
        raise ValueError("a geometry lacks the header of GeoPackage")
    return blob[8 + 8 * _ENVELOPE_DOUBLES[(blob[3] >> 1) & 7] :]


def _geoparquet(path: Path, uri: str) -> Found:
    file = pq.ParquetFile(path)
    metadata: dict[str, Any] = json.loads((file.schema_arrow.metadata or {})[b"geo"])
    column = metadata["primary_column"]
    about = metadata["columns"][column]
    if about["encoding"] != "WKB":
        raise ValueError(f"geometries are written as {about['encoding']}; only WKB is read")
    crs = CRS.from_user_input(_LON_LAT) if "crs" not in about else about["crs"]
    values = file.read(columns=[column]).column(column).to_pylist()
    geometries = [shapely.from_wkb(value) for value in values if value is not None]
    return _flat(geometries), crs if isinstance(crs, CRS) or crs is None else CRS.from_json_dict(crs)


def _flat(geometries: Sequence[BaseGeometry]) -> list[BaseGeometry]:
    """Collections taken apart, heights dropped."""
    out: list[BaseGeometry] = []
    for geometry in geometries:
        inner = shapely.get_parts(geometry) if geometry.geom_type == "GeometryCollection" else [geometry]
        out.extend(shapely.force_2d(part) for part in inner if not part.is_empty)
    return out
