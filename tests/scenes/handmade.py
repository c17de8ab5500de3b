"""Jobs of scenes put together by hand from the pipeline's own parts, without Ray and without a model, for what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayseg import rle
from rayseg.config.scenes import SceneSettings
from rayseg.geo.aoi import Aoi
from rayseg.geo.cog import write_label_cog
from rayseg.geometry import Size, Window
from rayseg.pipeline import ledger
from rayseg.pipeline.plan import chunks, plan_of, plan_to_json, read_shard, write_units
from rayseg.pipeline.scenes.collect import Survey, TileRows, planned_tiles, survey
from rayseg.pipeline.scenes.commit import commit_scene, failed_row, no_objects, scene_row
from rayseg.pipeline.scenes.instances import ObjectFile, Stitching
from rayseg.pipeline.scenes.planning import Cutting, plan_batch
from rayseg.pipeline.scenes.records import SceneRecord, all_records
from rayseg.pipeline.scenes.tiles import NO_DATA, TILE_FRAGMENTS
from rayseg.pipeline.storage import Store
from rayseg.tables import FAILED, OK, STAGES, LedgerRow, Unit
from rayseg.tiling.labels import Band
from rayseg.tiling.objects import objects_table
from rayseg.tiling.stitch import SeamStats
from tests.pipeline.handmade import run_note

LABELS = ("house", "tree")
_NONE = np.empty(0, dtype=np.int64)
_NO_TILES = (_NONE, _NONE, _NONE.astype(bool), _NONE, ())


@dataclass(frozen=True)
class Found:
    """What is in one scene.

    Attributes:
        boxes: x0, y0, x1, y1 of each object, which fills its box; classes take turns.
        labels: a label map, for a semantic job.
        failed, empty: numbers of tiles in the plan's order.
        left: tiles without a row.
        committed: the scene was put together, with the given numbers of fragments, of objects joined and of those dropped.
    """

    boxes: Sequence[tuple[int, int, int, int]] = ()
    labels: np.ndarray | None = None
    failed: Sequence[int] = ()
    empty: Sequence[int] = ()
    left: Sequence[int] = ()
    committed: bool = True
    stats: SeamStats = field(default_factory=SeamStats)


def scene_job(
    out: Path,
    found: Mapping[str, Found],
    *,
    labels: Sequence[str] = LABELS,
    task: str = "instance",
    tile_px: int = 64,
    overlap_px: int = 16,
    aoi: Aoi | None = None,
    regions: str | None = None,
    settings: dict[str, Any] | None = None,
    run: bool = True,
    storage: dict[str, Any] | None = None,
) -> Path:
    """Write a job whose scenes are the given rasters, as far as `found` says it has come."""
    store, tiles = Store(str(out)), Store(str(out)).below("tiles")
    units = [Unit(uri) for uri in sorted(found)]
    scenes = SceneSettings(tile_px=tile_px, overlap_px=overlap_px, regions=regions)
    shards, _ = plan_batch(store, tiles, 0, units, Cutting(scenes, tile_px, overlap_px, aoi, storage or {}))
    plan = plan_of(write_units(store, units), chunk_images=1, chunk_bytes=1)
    tile_plan = plan_of(shards, chunk_images=1, chunk_bytes=1)
    records = {record.uri: record for record in all_records(store)}
    done = 0
    for shard in tile_plan.shards:
        for chunk in chunks(tile_plan, shard, read_shard(tiles, shard), np.empty(0, dtype=np.int64)):
            (unit,) = chunk.units
            if (row := _row(unit, records[unit.uri], found[unit.uri])) is not None:
                ledger.commit(tiles, chunk.name, [row], TILE_FRAGMENTS.empty_table())
                done += 1
    committed = ledger.sweep(tiles)
    for shard in plan.shards:
        for chunk in chunks(plan, shard, read_shard(store, shard), np.empty(0, dtype=np.int64)):
            record = records[chunk.units[0].uri]
            if found[record.uri].committed:
                rows = planned_tiles(tiles, tile_plan, record) if record.tiles else TileRows(*_NO_TILES)
                seen = survey(tiles, record, rows, committed) if record.tiles else Survey()
                work = Stitching(tiles, record, rows, seen, committed, tuple(labels), 0.0, out)
                _commit(store, chunk.name, work, found[record.uri])
    model = {"name": "Handmade-S", "task": task, "flavour": "lean", "labels": list(labels), "threshold": 0.5}
    job = {
        "format": 1,
        "rayseg": "0.0.0",
        "created": "2026-11-20T10:00:00+00:00",
        "identity": {},
        "settings": {"source": "rasters", "out": str(out), "scenes": scenes.to_dict(), **(settings or {})},
        "model": {**model, "fingerprint": "f" * 64, "path": "models/handmade"},
        "versions": {"python": "3.12"},
    }
    scaling = {"low": [0.0] * 3, "high": [255.0] * 3, "origin": "range of the type: 0 to 255"}
    _write_job(out / "tiles", job, plan_to_json(tile_plan))
    _write_job(out, {**job, "scenes": {"scaling": scaling}}, plan_to_json(plan))
    if run:
        (out / "tiles/runs").mkdir()
        (out / "tiles/runs/0000.json").write_text(json.dumps(run_note(done, wall_s=4.0)))
    return out


def _row(unit: Unit, record: SceneRecord, found: Found) -> LedgerRow | None:
    assert unit.window is not None
    number = next(tile.index for tile in record.grid if tile.window == unit.window)
    if number in found.left:
        return None
    known = {"unit_id": unit.unit_id, "uri": unit.uri, "page": 0}
    if number in found.failed:
        return LedgerRow(**known, status=FAILED, stage="decode", reason=f"{unit.uri}: a block cannot be read: {number}")
    seconds = dict.fromkeys(STAGES, 0.01)
    reason = NO_DATA if number in found.empty else None
    return LedgerRow(**known, status=OK, width=unit.window.width, height=unit.window.height, reason=reason, seconds=seconds)


def _commit(store: Store, chunk: str, work: Stitching, found: Found) -> None:
    path, record = work.scratch / "scratch.parquet", work.record
    if record.scene is None:
        commit_scene(store, chunk, failed_row(record), no_objects(path), None)
        return
    with ObjectFile(path, work) as sink:
        sink.add(boxes_table(found.boxes, len(work.labels), scored=found.labels is None))
    name = None
    if found.labels is not None:
        name = f"label_maps/{Path(record.uri).stem}.tif"
        size = Size(*found.labels.shape)
        bands = [Band(Window.of(size), found.labels.astype(np.uint8))]
        write_label_cog(
            store.path(name), bands, size=size, ground=record.opened.ground, void=255, labels=work.labels, scratch=work.scratch
        )
    row = scene_row(record, work.survey, work.rows, replace(found.stats, objects=len(found.boxes)), label_map=name, seconds=0.25)
    commit_scene(store, chunk, row, path, record.opened.ground)


def boxes_table(boxes: Sequence[tuple[int, int, int, int]], n_classes: int, *, scored: bool = True) -> pa.Table:
    """Stitched objects that fill their boxes; classes take turns, scores fall from 1 to 0.5."""
    windows = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    n = len(windows)
    masks = [rle.encode(np.ones((y1 - y0, x1 - x0), dtype=np.uint8)).counts.decode() for x0, y0, x1, y1 in windows.tolist()]
    return objects_table(
        np.arange(n) % n_classes,
        np.linspace(1, 0.5, n, dtype=np.float32) if scored else None,
        windows,
        (windows[:, 2:] - windows[:, :2]).prod(axis=1),
        pa.array(masks, pa.string()),
        np.ones(n, dtype=np.int32),
        (np.arange(n + 1), np.zeros(n, dtype=np.int64)),
    )


def _write_job(out: Path, job: dict[str, Any], plan: dict[str, object]) -> None:
    out.mkdir(exist_ok=True)
    (out / "job.json").write_text(json.dumps({**job, "plan": plan}))
