"""The objects of scenes as GeoJSON or GeoPackage, from the GeoParquet files of a job, a few thousand rows in memory at a time.

GeoJSON is what RFC 7946 says: WGS 84 longitude and latitude, cut at the dateline. A GeoPackage keeps the CRS of its scenes.
Rows without a valid shape keep their place with a null geometry. Masks stay behind: shapes take their place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyproj
import shapely

from rayseg.errors import OutputError
from rayseg.geo.geopackage import GeoPackage
from rayseg.geo.geoparquet import GEO_KEY, GEO_OBJECTS, crs_of
from rayseg.geo.local_file import appearing
from rayseg.geo.lonlat import to_lon_lat
from rayseg.geo.shapes import valid

Source = str | os.PathLike[str] | IO[bytes]
"""A GeoParquet file of scene objects: its path, or the file opened."""

DECIMALS = 9
"""Of a degree in GeoJSON: 0.1 mm, so that pixels of a centimetre keep their shape. RFC 7946 thinks of 6 (10 cm) as enough."""

_ROWS = 4096
_PROPERTIES = [name for name in GEO_OBJECTS.names if name not in ("rle_h", "rle_w", "rle_counts", "window", "bbox", "geometry")]
_SQL = {pa.int64(): "INTEGER", pa.int32(): "MEDIUMINT", pa.float32(): "FLOAT", pa.float64(): "DOUBLE", pa.string(): "TEXT"}


@dataclass(frozen=True)
class Exported:
    """What was written: rows, and how many of them have no geometry."""

    rows: int
    without_geometry: int


def export_geojson(
    sources: Iterable[Source], path: str | os.PathLike[str], *, min_score: float | None = None, decimals: int = DECIMALS
) -> Exported:
    """Write one FeatureCollection; files may have different CRSs.

    Args:
        path: local file; appears only when it is whole.
        min_score: leave out objects below it, and those that have no score.
        decimals: of a degree.

    Raises:
        ConfigError: `path` is a URL.
        OutputError: a file is in pixels, which GeoJSON has no room for, or it is not one of scene objects.
    """
    rows = missing = 0
    with appearing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for source in sources:
            crs, tables = _open(source)
            if crs is None:
                raise OutputError(
                    f"{source} is in pixels: its scene has no CRS, and GeoJSON knows degrees only; export to GPKG instead"
                )
            for table in _filtered(tables, min_score):
                shapes = to_lon_lat(_shapes(table), crs, decimals=decimals)
                for shape, values in zip(shapely.to_geojson(shapes).tolist(), _rows(table), strict=True):
                    properties = dict(zip(_PROPERTIES, values, strict=True))
                    name = json.dumps(f"{properties['scene_id']}/{properties['object_id']}")
                    text = json.dumps(properties, ensure_ascii=False, allow_nan=False)
                    file.write(",\n" if rows else "\n")
                    file.write(f'{{"type": "Feature", "id": {name}, "geometry": {shape or "null"}, "properties": {text}}}')
                    rows += 1
                missing += int(shapely.is_missing(shapes).sum())
        file.write("\n]}\n")
    return Exported(rows, missing)


def export_gpkg(
    sources: Iterable[Source],
    path: str | os.PathLike[str],
    *,
    layer: str = "objects",
    lon_lat: bool = False,
    min_score: float | None = None,
) -> Exported:
    """Write one GeoPackage with one layer and a spatial index.

    Args:
        path: local file; appears only when it is whole.
        layer: its name.
        lon_lat: in WGS 84 longitude and latitude, cut at the dateline; else in the CRS of the files, or in pixels.
        min_score: leave out objects below it, and those that have no score.

    Raises:
        ConfigError: `path` is a URL.
        OutputError: the files have more than one CRS, or none, which `lon_lat` needs, or are not of scene objects; or there
            is no file.
    """
    columns = [(name, _SQL[GEO_OBJECTS.field(name).type]) for name in _PROPERTIES]
    rows = missing = 0
    with appearing(path) as temporary:
        opened = ((source, *_open(source)) for source in sources)
        first = next(opened, None)
        if first is None:
            raise OutputError("there is no file of scene objects to export")
        crs = pyproj.CRS.from_epsg(4326) if lon_lat else first[1]
        with GeoPackage(temporary, layer, columns, crs) as package:
            for source, own, tables in chain([first], opened):
                _check_crs(source, own, crs, lon_lat=lon_lat)
                for table in _filtered(tables, min_score):
                    shapes = to_lon_lat(_shapes(table), own) if lon_lat and own is not None else valid(_shapes(table))
                    package.write(shapes, _rows(table))
                    rows, missing = rows + table.num_rows, missing + int(shapely.is_missing(shapes).sum())
    return Exported(rows, missing)


def _open(source: Source) -> tuple[pyproj.CRS | None, Iterator[pa.Table]]:
    """(CRS of a file, its rows in parts)."""
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise OutputError(f"{source} cannot be read as a Parquet file; is it there, and whole? {error}") from error
    geo = (file.metadata.metadata or {}).get(GEO_KEY)
    lacking = sorted({*_PROPERTIES, "geometry"} - set(file.schema_arrow.names))
    if geo is None or lacking:
        raise OutputError(
            f"{source} holds no objects of scenes: {f'it has no {lacking[0]}' if lacking else 'no GeoParquet metadata'}"
        )
    batches = file.iter_batches(_ROWS, columns=[*_PROPERTIES, "geometry"])
    return crs_of(geo), (pa.Table.from_batches([batch]) for batch in batches)


def _filtered(tables: Iterator[pa.Table], min_score: float | None) -> Iterator[pa.Table]:
    for table in tables:
        found = table if min_score is None else table.filter(pc.greater_equal(table["score"], pa.scalar(min_score, pa.float32())))
        if found.num_rows:
            yield found


def _shapes(table: pa.Table) -> np.ndarray:
    return shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(_plain(table[name]) for name in _PROPERTIES), strict=True)


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Python values; a float32 becomes the shortest number that reads back as the same float32."""
    if column.type != pa.float32():
        return column.to_pylist()
    return [None if v is None else float(str(np.float32(v))) for v in column.to_pylist()]


def _check_crs(source: Source, own: pyproj.CRS | None, wanted: pyproj.CRS | None, *, lon_lat: bool) -> None:
    if lon_lat and own is None:
        raise OutputError(f"{source} is in pixels: its scene has no CRS, and so no longitude and latitude")
    if not lon_lat and own != wanted:
        raise OutputError(
            f"{source} is in {_name(own)}, the files before it in {_name(wanted)}; a layer has one CRS. "
            "Export them in longitude and latitude, or one by one."
        )


def _name(crs: pyproj.CRS | None) -> str:
    return "pixels" if crs is None else crs.name
