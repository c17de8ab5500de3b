"""The objects of scenes as GeoParquet 1.1: one row an object, with its shape on the ground and its mask in a window of its own.

    found = found.take(spatial_order(found))
    with GeoParquetFile(path, crs) as file:
        for i in range(0, len(found), ROWS_PER_GROUP):
            file.write(scene_objects_table(scene, found.slice(i, ROWS_PER_GROUP), labels, crs=crs, first_id=i, ...))

Columns are those of every objects table (rayseg.tables) and, after them, what only scenes have. One file has one CRS; without
any, shapes are in pixels, x to the right and y downwards, and `crs` is null, which GeoParquet calls undefined. Finding and
stitching objects is the business of rayseg.tiling, files on object stores that of the pipeline: a table's own metadata makes
any Parquet writer write GeoParquet.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyproj
import shapely

from rayseg.errors import OutputError
from rayseg.geo.areas import areas_m2
from rayseg.geo.hilbert import hilbert_index
from rayseg.geo.local_file import appearing
from rayseg.geo.shapes import PixelToGround, outlines, simplify, to_ground, valid
from rayseg.tables import OBJECTS
from rayseg.tiling.fragments import WINDOW, masks_of, windows_of
from rayseg.tiling.objects import SCENE_OBJECTS

GEO_KEY = b"geo"
ROWS_PER_GROUP = 50_000
"""Of one row group: what a reader with a bounding box skips or reads as a whole."""

_BBOX = pa.struct([pa.field(name, pa.float64(), nullable=False) for name in ("xmin", "ymin", "xmax", "ymax")])
_PLACE = pa.struct([pa.field(name, pa.int64(), nullable=False) for name in WINDOW])

GEO_OBJECTS = pa.schema(
    [
        *OBJECTS,
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("window", _PLACE, nullable=False),
        pa.field("n_fragments", pa.int32(), nullable=False),
        pa.field("n_tiles", pa.int32(), nullable=False),
        pa.field("area_m2", pa.float64()),
        pa.field("bbox", _BBOX),
        pa.field("geometry", pa.binary()),
    ]
)
"""`window` is where the mask lies in the scene, and rle_h x rle_w is its size; `bbox` are the bounds of `geometry`.
`geometry` and `bbox` are null where an object has no valid shape on the ground."""


@dataclass(frozen=True)
class SceneRef:
    """What the rows say about the scene they belong to.

    Attributes:
        scene_id: name of the scene; for a mosaic, that of all its files.
        unit_id, uri, page: of its row in the ledger.
    """

    scene_id: str
    unit_id: int
    uri: str
    page: int = 0


def spatial_order(found: pa.Table) -> np.ndarray:
    """int64 (n,): rows of a table of stitched objects along a Hilbert curve through the centres of their windows."""
    windows = windows_of(found)
    x, y = (windows[:, 0] + windows[:, 2]) / 2, (windows[:, 1] + windows[:, 3]) / 2
    return np.argsort(hilbert_index(x, y), kind="stable")


def scene_objects_table(
    scene: SceneRef,
    found: pa.Table,
    labels: Sequence[str],
    *,
    crs: pyproj.CRS | None,
    pixel_to_ground: PixelToGround | None = None,
    simplify_px: float = 0.0,
    longest_edge_px: float | None = None,
    first_id: int = 0,
) -> pa.Table:
    """Rows of GEO_OBJECTS in the order given, with GeoParquet's metadata in the schema.

    Args:
        found: the stitched objects of one scene, a table of rayseg.tiling.objects.SCENE_OBJECTS.
        labels: name of each class id.
        crs: of the geometry; None leaves it in pixels.
        pixel_to_ground: from scene pixels to coordinates of the CRS; needed with a CRS, and only with one.
        simplify_px: see `rayseg.geo.shapes.simplify`; area and mask are those of the exact outline all the same.
        longest_edge_px: see `rayseg.geo.shapes.to_ground`; for transforms that bend straight lines.
        first_id: object_id of the first row; the rest follow.

    Raises:
        ValueError: the columns are others, a class id has no label, an object has no pixel, a mask does not fill its window, or
            only one of CRS and transform is given.
    """
    if (crs is None) != (pixel_to_ground is None):
        raise ValueError("a CRS and a way from pixels to its coordinates are given together or not at all")
    if not found.schema.equals(SCENE_OBJECTS):
        raise ValueError(f"stitched objects have columns, or types, other than those of SCENE_OBJECTS: {found.schema.names}")
    class_ids, windows = found["class_id"].to_numpy(), windows_of(found)
    if class_ids.size and not 0 <= class_ids.min() <= class_ids.max() < len(labels):
        wrong = class_ids[(class_ids < 0) | (class_ids >= len(labels))][0]
        raise ValueError(f"class id {wrong} has no label; the model lists {len(labels)} labels")
    exact = outlines(masks_of(found), windows)
    if shapely.is_empty(exact).any():
        raise ValueError(f"object {first_id + int(np.argmax(shapely.is_empty(exact)))} of {scene.scene_id} has no pixel")

    def place(shapes: np.ndarray) -> np.ndarray:
        if pixel_to_ground is None:
            return valid(shapes)
        return to_ground(shapes, pixel_to_ground, longest_edge_px=longest_edge_px)

    on_ground = place(exact)
    shapes = on_ground if simplify_px == 0 else place(simplify(exact, simplify_px))
    n, boxes = found.num_rows, shapely.bounds(exact)
    columns = {
        "unit_id": pa.array([scene.unit_id] * n, pa.int64()),
        "uri": pa.array([scene.uri] * n, pa.string()),
        "page": pa.array([scene.page] * n, pa.int32()),
        "object_id": pa.array(range(first_id, first_id + n), pa.int32()),
        "class_id": found["class_id"],
        "label": pa.array([labels[c] for c in class_ids.tolist()], pa.string()),
        "score": found["score"],
        **{name: pa.array(boxes[:, i], pa.float32()) for i, name in enumerate(WINDOW)},
        "area_px": pa.array(np.rint(shapely.area(exact)), pa.int64()),
        "rle_h": pa.array(windows[:, 3] - windows[:, 1], pa.int32()),
        "rle_w": pa.array(windows[:, 2] - windows[:, 0], pa.int32()),
        "rle_counts": found["rle_counts"],
        "scene_id": pa.array([scene.scene_id] * n, pa.string()),
        "window": _struct(windows, _PLACE),
        "n_fragments": found["n_fragments"],
        "n_tiles": pc.list_value_length(found["tiles"]).cast(pa.int32()),
        "area_m2": pa.array(areas_m2(on_ground, crs), pa.float64(), from_pandas=True),
        "bbox": _struct(shapely.bounds(shapes), _BBOX),
        "geometry": pa.array(shapely.to_wkb(shapes, byte_order=1), pa.binary()),
    }
    return with_geo_metadata(pa.table(columns, schema=GEO_OBJECTS), crs)


def with_geo_metadata(table: pa.Table, crs: pyproj.CRS | None) -> pa.Table:
    """The table with GeoParquet's metadata for exactly its rows; needed again after joining or filtering tables."""
    summary = Summary()
    summary.add(table)
    return table.replace_schema_metadata({**(table.schema.metadata or {}), GEO_KEY: summary.to_json(crs)})


class Summary:
    """What GeoParquet's metadata says about the rows of a file, gathered table by table."""

    def __init__(self) -> None:
        self._types: set[str] = set()
        self._bounds = [math.inf, math.inf, -math.inf, -math.inf]

    def add(self, table: pa.Table) -> None:
        """Take note of rows with columns `geometry` and `bbox`."""
        shapes = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
        self._types |= {shape.geom_type for shape in shapes if shape is not None}
        for i, (name, best) in enumerate((("xmin", min), ("ymin", min), ("xmax", max), ("ymax", max))):
            found = pc.min_max(pc.struct_field(table["bbox"], name))["min" if best is min else "max"].as_py()
            if found is not None:
                self._bounds[i] = best(self._bounds[i], found)

    def to_json(self, crs: pyproj.CRS | None) -> bytes:
        """The value of the key `geo`, by the specification of GeoParquet 1.1.0."""
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": sorted(self._types),
            "crs": None if crs is None else crs.to_json_dict(),
            "orientation": "counterclockwise",
            "edges": "planar",
            "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
        }
        if self._bounds[0] <= self._bounds[2]:
            column["bbox"] = self._bounds
        return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}).encode()


class GeoParquetFile:
    """A GeoParquet file written table by table; a context manager, since the metadata comes last.

    A path appears only when the file is whole; of a file object that an error leaves, the content is of no use.
    """

    def __init__(
        self, where: str | os.PathLike[str] | IO[bytes], crs: pyproj.CRS | None, *, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Open it.

        Args:
            crs: of all tables written; None for pixels.
            metadata: more keys for the file's footer.

        Raises:
            ConfigError: `where` is a URL; open the file and hand it over.
        """
        self._crs, self._summary, self._metadata = crs, Summary(), dict(metadata or {})
        # Strings that differ in each row gain nothing from a dictionary.
        repeated = ["uri", "scene_id", "label", "class_id", "unit_id", "page", "n_fragments", "n_tiles"]
        self._whole = appearing(where) if isinstance(where, (str, os.PathLike)) else nullcontext(where)
        target = self._whole.__enter__()
        # A folder of files is opened by their Arrow schema; bounds and kinds of shapes follow in the footer.
        schema = GEO_OBJECTS.with_metadata({GEO_KEY: self._summary.to_json(crs)})
        self._writer = pq.ParquetWriter(target, schema, compression="zstd", use_dictionary=repeated)

    def write(self, table: pa.Table) -> None:
        """Append rows of GEO_OBJECTS, as row groups of their own: so not a few at a time.

        Raises:
            OutputError: the columns are others, or the table was made for another CRS.
        """
        if not table.schema.equals(GEO_OBJECTS):
            raise OutputError(f"a table with columns {table.column_names} does not go into a file of scene objects")
        stated = table.schema.metadata.get(GEO_KEY) if table.schema.metadata else None
        if stated is not None and crs_of(stated) != self._crs:
            here, there = _name(crs_of(stated)), _name(self._crs)
            raise OutputError(f"rows in {here} cannot go into a file in {there}; write one file for each")
        self._summary.add(table)
        self._writer.write_table(table.replace_schema_metadata(None), row_group_size=ROWS_PER_GROUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._writer.add_key_value_metadata({"geo": self._summary.to_json(self._crs).decode(), **self._metadata})
            self._writer.close()
        finally:
            self._whole.__exit__(kind, error, trace)


def crs_of(geo: bytes) -> pyproj.CRS | None:
    """The CRS that a file's metadata states; None for pixels.

    Raises:
        OutputError: the metadata is not that of a table of ours.
    """
    try:
        stated = json.loads(geo)["columns"]["geometry"]["crs"]
        return None if stated is None else pyproj.CRS.from_json_dict(stated)
    except (ValueError, KeyError, TypeError, pyproj.exceptions.CRSError) as error:
        raise OutputError(f"unreadable GeoParquet metadata ({error}); the file is not one that rayseg wrote") from error


def _struct(rows: np.ndarray, kind: pa.StructType) -> pa.Array:
    """One struct a row; null where its numbers are NaN."""
    missing = np.isnan(rows).any(axis=1) if rows.dtype.kind == "f" else np.zeros(len(rows), dtype=bool)
    fields = [kind.field(i) for i in range(kind.num_fields)]
    columns = [pa.array(np.where(missing, 0, rows[:, i]), f.type) for i, f in enumerate(fields)]
    return pa.StructArray.from_arrays(columns, fields=fields, mask=pa.array(missing))


def _name(crs: pyproj.CRS | None) -> str:
    return "pixels" if crs is None else crs.name
