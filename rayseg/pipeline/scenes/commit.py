"""A scene's commit: its objects file, then its row in the ledger of scenes, which makes it count.

The ledger file of a scene is GeoParquet too: where the scene lies, and the holes in it where tiles failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayseg.geo.footprints import Placing, footprint, geo_columns, unseen
from rayseg.geo.geoparquet import GEO_KEY, GeoParquetFile
from rayseg.geo.ground import Ground
from rayseg.pipeline.plan import parquet_bytes
from rayseg.pipeline.scenes.collect import Survey, TileRows
from rayseg.pipeline.scenes.records import SceneRecord
from rayseg.pipeline.storage import Store
from rayseg.tables import FAILED, INCOMPLETE, OK, SCENES
from rayseg.tiling.grid import Grid
from rayseg.tiling.stitch import SeamStats


def scene_row(
    record: SceneRecord,
    survey: Survey,
    rows: TileRows,
    stats: SeamStats,
    *,
    label_map: str | None = None,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """The ledger row of a scene that was put together; without some of its tiles it says so."""
    scene, lost = record.opened, [*survey.failed, *survey.failed_coarse]
    reason = None
    if lost:
        said = "; ".join(f"{n} x {text}" for text, n in survey.reasons)
        reason = f"{len(lost)} of {record.tiles} tiles failed: {said}"[:1000]
    return {
        **_row(record),
        "status": INCOMPLETE if lost else OK,
        "stage": None,
        "reason": reason,
        "width": scene.size.width,
        "height": scene.size.height,
        "n_objects": stats.objects,
        "empty_tiles": survey.empty,
        "failed_tiles": len(lost),
        "unasked_tiles": len(survey.unasked),
        "fragments": stats.fragments,
        "joined": stats.joined,
        "dropped": stats.dropped,
        "crs": Placing.of(scene.ground).name,
        "label_map": label_map,
        "footprint": footprint(scene.ground, scene.size),
        "holes": _holes(record, survey, rows),
        "stitch_s": seconds,
    }


def failed_row(record: SceneRecord) -> dict[str, Any]:
    """The ledger row of a scene that could not be opened."""
    return {**_row(record), "status": FAILED, "stage": record.stage, "reason": record.reason}


def commit_scene(store: Store, chunk: str, row: dict[str, Any], objects: Path, ground: Ground | None) -> None:
    """Make a scene count.

    Args:
        chunk: name of its unit's chunk in the plan of scenes.
        objects: a local GeoParquet file; it is moved.
        ground: of the scene; None where it could not be opened.
    """
    store.put_file(f"objects/{chunk}.parquet", objects)
    table = pa.Table.from_pylist([row], schema=SCENES)
    meta = geo_columns({"footprint": "Polygon,MultiPolygon", "holes": "Polygon,MultiPolygon"}, ground or Ground())
    store.write(f"images/{chunk}.parquet", parquet_bytes(table.replace_schema_metadata({GEO_KEY: meta})))


def no_objects(path: Path) -> Path:
    """An objects file without rows."""
    with GeoParquetFile(path, None):
        pass
    return path


def _row(record: SceneRecord) -> dict[str, Any]:
    counts = dict.fromkeys(("n_objects", "empty_tiles", "failed_tiles", "unasked_tiles", "fragments", "joined", "dropped"), 0)
    return {"unit_id": record.unit_id, "uri": record.uri, "page": 0, "tiles": record.tiles, **counts}


def _holes(record: SceneRecord, survey: Survey, rows: TileRows) -> bytes | None:
    lost, seen = [np.empty((0, 4), dtype=np.int64)], [np.empty((0, 4), dtype=np.int64)]
    # A coarse tile that failed leaves no hole where the fine ones were seen: it is the other way round, too.
    fine = rows.tile[~rows.coarse]
    failed = np.asarray(survey.failed, dtype=np.int64)
    if failed.size:
        lost.append(record.grid.windows(failed))
        seen.append(_near(record.grid, failed, np.setdiff1d(fine, failed)))
    return unseen(record.opened.ground, np.concatenate(lost), np.concatenate(seen))


def _near(grid: Grid, failed: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Windows of the other tiles that share pixels with failed ones."""
    neighbours = {n for tile in failed.tolist() for n in grid.neighbours(tile)}
    return grid.windows(others[np.isin(others, list(neighbours))])
