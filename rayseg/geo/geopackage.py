"""One GeoPackage (OGC 12-128r19, version 1.4) with one layer of polygons and its spatial index, written through sqlite3.

GDAL could write it, too, but the wheels of rasterio have no vector drivers in reach of Python, and pyogrio would bring a second
GDAL for what is a dozen SQL statements. What goes into the layer, and from where, is rayseg.geo.export.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyproj
import shapely

from rayseg.errors import OutputError

UNDEFINED_CARTESIAN = -1
"""The specification's own number for coordinates without a CRS."""

_OWN_SRS = 100_000
_GEOMETRY = "geom"
_APPLICATION_ID, _USER_VERSION = 0x47504B47, 10400  # "GPKG", 1.4.0

_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
    organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
    description TEXT DEFAULT '', last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER REFERENCES gpkg_spatial_ref_sys (srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL UNIQUE REFERENCES gpkg_contents (table_name),
    column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL REFERENCES gpkg_spatial_ref_sys (srs_id),
    z TINYINT NOT NULL, m TINYINT NOT NULL, PRIMARY KEY (table_name, column_name));
CREATE TABLE gpkg_extensions (table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL, definition TEXT NOT NULL,
    scope TEXT NOT NULL, UNIQUE (table_name, column_name, extension_name));
"""

# Rows every GeoPackage has (requirement 11).
_UNDEFINED = [
    ("Undefined Cartesian", UNDEFINED_CARTESIAN, "NONE", -1, "undefined", None),
    ("Undefined geographic", 0, "NONE", 0, "undefined", None),
]
_RTREE_SPEC = "http://www.geopackage.org/spec120/#extension_rtree"


class GeoPackage:
    """A layer written row by row; a context manager. An error leaves no whole file, so write to a temporary name."""

    def __init__(self, path: Path, layer: str, columns: Sequence[tuple[str, str]], crs: pyproj.CRS | None) -> None:
        """Create the file.

        Args:
            layer: its name.
            columns: names and SQL types of all columns but key and geometry.
            crs: of the geometry; None for pixels.

        Raises:
            OutputError: this CRS has no form that GeoPackage can hold.
        """
        systems, self._srs_id = _reference_systems(crs)
        self._layer, self._n = layer, 0
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._db = sqlite3.connect(path, isolation_level=None)
        for pragma in (
            "journal_mode = OFF",
            "synchronous = OFF",
            f"application_id = {_APPLICATION_ID}",
            f"user_version = {_USER_VERSION}",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", systems)
        named = ", ".join(f"{_quoted(name)} {kind}" for name, kind in columns)
        self._db.execute(
            f"CREATE TABLE {_quoted(layer)} (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, {_GEOMETRY} MULTIPOLYGON, {named})"
        )
        self._db.execute(f"CREATE VIRTUAL TABLE {_quoted(self._index)} USING rtree(id, minx, maxx, miny, maxy)")
        self._insert = f"INSERT INTO {_quoted(layer)} VALUES (?, ?{', ?' * len(columns)})"

    @property
    def _index(self) -> str:
        return f"rtree_{self._layer}_{_GEOMETRY}"

    def write(self, shapes: np.ndarray, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows.

        Args:
            shapes: object (n,), Polygon, MultiPolygon or None.
            rows: the values of the other columns.
        """
        keys = range(self._n + 1, self._n + 1 + len(shapes))
        bounds = shapely.bounds(shapes)
        blobs = _blobs(shapes, bounds, self._srs_id)
        self._db.executemany(self._insert, ((key, blob, *row) for key, blob, row in zip(keys, blobs, rows, strict=True)))
        there = ~shapely.is_missing(shapes)
        boxes = ((key, *box) for key, box, ok in zip(keys, bounds[:, [0, 2, 1, 3]].tolist(), there, strict=True) if ok)
        self._db.executemany(f"INSERT INTO {_quoted(self._index)} VALUES (?, ?, ?, ?, ?)", boxes)
        self._n += len(shapes)
        if there.any():
            self._bounds[:2] = np.minimum(self._bounds[:2], bounds[there, :2].min(axis=0))
            self._bounds[2:] = np.maximum(self._bounds[2:], bounds[there, 2:].max(axis=0))

    def finish(self) -> None:
        """Register the layer, and keep its index up to date from now on, whoever edits it."""
        bounds = self._bounds.tolist() if np.isfinite(self._bounds).all() else [None] * 4
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self._db.execute(
            "INSERT INTO gpkg_contents VALUES (?, 'features', ?, '', ?, ?, ?, ?, ?, ?)",
            (self._layer, self._layer, now, *bounds, self._srs_id),
        )
        self._db.execute(
            "INSERT INTO gpkg_geometry_columns VALUES (?, ?, 'MULTIPOLYGON', ?, 0, 0)", (self._layer, _GEOMETRY, self._srs_id)
        )
        self._db.execute(
            "INSERT INTO gpkg_extensions VALUES (?, ?, 'gpkg_rtree_index', ?, 'write-only')",
            (self._layer, _GEOMETRY, _RTREE_SPEC),
        )
        for trigger in _triggers(self._layer, self._index):
            self._db.execute(trigger)
        self._db.execute("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._db.close()


def _reference_systems(crs: pyproj.CRS | None) -> tuple[list[tuple[Any, ...]], int]:
    """(rows of gpkg_spatial_ref_sys, id of the one the layer has)."""
    wgs84 = pyproj.CRS.from_epsg(4326)
    rows = [*_UNDEFINED, (wgs84.name, 4326, "EPSG", 4326, wgs84.to_wkt("WKT1_GDAL"), "longitude/latitude on the WGS 84 spheroid")]
    if crs is None:
        return rows, UNDEFINED_CARTESIAN
    if crs == wgs84 or crs == pyproj.CRS("OGC:CRS84"):
        return rows, 4326
    try:
        definition = crs.to_wkt("WKT1_GDAL")
    except pyproj.exceptions.CRSError:
        definition = None
    if definition is None:
        raise OutputError(f"{crs.name} has no WKT 1 form, which GeoPackage needs; export it in longitude and latitude instead")
    code = crs.to_epsg(min_confidence=100)
    row = (crs.name, code, "EPSG", code) if code else (crs.name, _OWN_SRS, "NONE", _OWN_SRS)
    return [*rows, (*row, definition, None)], code or _OWN_SRS


def _blobs(shapes: np.ndarray, bounds: np.ndarray, srs_id: int) -> list[bytes | None]:
    """GeoPackage's header with an envelope (minx, maxx, miny, maxy), and WKB, little-endian both; all are multipolygons."""
    multi = np.array([shapely.multipolygons([s]) if isinstance(s, shapely.Polygon) else s for s in shapes], dtype=object)
    wkb = shapely.to_wkb(multi, byte_order=1).tolist()
    boxes = bounds[:, [0, 2, 1, 3]].tolist()
    return [
        None if w is None else struct.pack("<2sBBi4d", b"GP", 0, 0b11, srs_id, *b) + w for w, b in zip(wkb, boxes, strict=True)
    ]


def _triggers(layer: str, index: str) -> list[str]:
    """Those that annex F.3 of the specification asks for under these names; they call functions that GIS programs bring."""
    table, tree, g = _quoted(layer), _quoted(index), _GEOMETRY
    box = ", ".join(f"ST_{edge}(NEW.{g})" for edge in ("MinX", "MaxX", "MinY", "MaxY"))
    filled = {row: f"({row}.{g} NOTNULL AND NOT ST_IsEmpty({row}.{g}))" for row in ("OLD", "NEW")}
    void = {row: f"({row}.{g} ISNULL OR ST_IsEmpty({row}.{g}))" for row in ("OLD", "NEW")}
    put = f"INSERT OR REPLACE INTO {tree} VALUES (NEW.fid, {box});"
    move = f"UPDATE {tree} SET (minx, maxx, miny, maxy) = ({box}) WHERE id = NEW.fid;"
    drop = f"DELETE FROM {tree} WHERE id = OLD.fid;"
    rules = [
        ("insert", f"AFTER INSERT ON {table} WHEN {filled['NEW']}", put),
        ("update2", f"AFTER UPDATE OF {g} ON {table} WHEN OLD.fid = NEW.fid AND {void['NEW']}", drop),
        ("update4", f"AFTER UPDATE ON {table} WHEN OLD.fid != NEW.fid AND {void['NEW']}", drop),
        ("update5", f"AFTER UPDATE ON {table} WHEN OLD.fid != NEW.fid AND {filled['NEW']}", f"{drop} {put}"),
        ("update6", f"AFTER UPDATE OF {g} ON {table} WHEN OLD.fid = NEW.fid AND {filled['NEW']} AND {filled['OLD']}", move),
        ("update7", f"AFTER UPDATE OF {g} ON {table} WHEN OLD.fid = NEW.fid AND {filled['NEW']} AND {void['OLD']}", put),
        ("delete", f"AFTER DELETE ON {table} WHEN OLD.{g} NOTNULL", drop),
    ]
    return [f"CREATE TRIGGER {_quoted(f'{index}_{name}')} {when} BEGIN {action} END" for name, when, action in rules]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
