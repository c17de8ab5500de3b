"""Putting scenes together on the cluster, with Ray Data: first the strips of large scenes side by side, then scene by scene.

Both passes are safe to repeat: strips are files whose names change with what they depend on, a scene is one commit.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from rayseg.config.scenes import SceneSettings
from rayseg.errors import OutputError
from rayseg.pipeline import identity, ledger
from rayseg.pipeline.budget import Budget
from rayseg.pipeline.execute import data_context
from rayseg.pipeline.parcel import pack, unpack
from rayseg.pipeline.plan import Chunk, Plan, chunks, read_shard
from rayseg.pipeline.scenes.collect import Committed, planned_tiles, survey
from rayseg.pipeline.scenes.commit import commit_scene, failed_row, no_objects, scene_row
from rayseg.pipeline.scenes.instances import STRIPS, Stitching, find_large, join_strips, stitch_strip, strips_of, sweep_strips
from rayseg.pipeline.scenes.label_maps import write_label_map
from rayseg.pipeline.scenes.records import SceneRecord, all_records
from rayseg.pipeline.storage import Store
from rayseg.predict.spec import ModelSpec

log = logging.getLogger(__name__)

_READERS = 8
_DONE = pa.schema([("uri", pa.string()), ("status", pa.string())])


@dataclass(frozen=True)
class SceneWork:
    """A scene to put together: its record and its place in the plan of scenes."""

    record: SceneRecord
    chunk: str


@dataclass(frozen=True)
class Finishing:
    """What putting scenes together needs to know; the same for all of a job.

    Attributes:
        store, tiles: of the job, and of its tiles.
        plan: of the tiles.
        committed: what is done of it.
        blend: label maps are blended.
    """

    store: Store
    tiles: Store
    plan: Plan
    committed: ray.ObjectRef
    spec: ModelSpec
    settings: SceneSettings
    blend: bool


def scenes_left(store: Store, plan: Plan) -> list[SceneWork]:
    """The scenes without a row in the ledger.

    Raises:
        OutputError: one of them was never looked at.
    """
    committed = ledger.sweep(store)
    left = list[Chunk]()
    for shard in plan.shards:
        done, _ = ledger.finished(store, committed.get(shard, []))
        left += chunks(plan, shard, read_shard(store, shard), done)
    if not left:
        return []
    records = {record.unit_id: record for record in all_records(store)}
    out = []
    for chunk in left:
        (unit,) = chunk.units
        if unit.unit_id not in records:
            raise OutputError(
                f"{store.url}/scenes/ says nothing of {unit.uri}; restore its files, or start anew in another folder"
            )
        out.append(SceneWork(records[unit.unit_id], chunk.name))
    return out


def forget_without_label_map(store: Store) -> None:
    """Take back the rows of scenes whose label map somebody removed, so that they are put together again."""
    there = {f"label_maps/{name}" for name in store.list("label_maps")}
    done = [chunk for found in ledger.sweep(store).values() for chunk in found]
    with ThreadPoolExecutor(_READERS) as pool:
        maps = list(pool.map(lambda chunk: _label_maps_of(store, chunk), done))
    for chunk, names in zip(done, maps, strict=True):
        if gone := names - there:
            log.warning("%s is gone: somebody removed it; its scene is put together again", ", ".join(sorted(gone)))
            ledger.drop(store, chunk)


def _label_maps_of(store: Store, chunk: str) -> set[str]:
    try:
        return set(ledger.read_ledger(store, chunk, columns=["label_map"])["label_map"].drop_null().to_pylist())
    except (pa.ArrowException, FileNotFoundError):
        return set()  # a damaged ledger file is found, and its scene done again, where what is left is listed


def finish_scenes(work: Sequence[SceneWork], finishing: Finishing, budget: Budget) -> Iterator[tuple[str, str]]:
    """Put scenes together; yields (uri, status) of each as it is committed."""
    rows = [pack(item.chunk, item) for item in work]
    if finishing.spec.task == "instance":
        for _ in _through(rows, _do_strips, finishing, budget):
            pass
    for row in _through(rows, _finish_scene, finishing, budget):
        yield row["uri"], row["status"]
    finishing.tiles.delete_folder(STRIPS)


def _through(rows: Sequence[pa.Table], function: Any, finishing: Finishing, budget: Budget) -> Iterator[dict[str, Any]]:
    """Run a pass over scenes. For strips, scenes are first split: one row of Ray Data is one task's work from there on."""
    with DataContext.current(data_context()):
        data = ray.data.from_arrow(list(rows))
        options: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "num_cpus": budget.task_cpus}
        if function is _do_strips:
            data = data.map_batches(_split, fn_kwargs={"finishing": finishing}, **options)
        data = data.map_batches(function, fn_kwargs={"finishing": finishing}, **{**options, "num_cpus": budget.task_cpus * 0.9})
        for batch in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()


def _split(table: pa.Table, finishing: Finishing) -> Iterator[pa.Table]:
    """A scene -> one row for each of its strips; none where there is but one."""
    ((chunk, item),) = unpack(table)
    if item.record.reason is None and len(item.record.grid.rows) > 1:
        with _scratch() as folder:
            found = _stitching(item.record, finishing, folder)
            strips = strips_of(found)
            if len(strips) > 1:
                for strip in strips:
                    yield pack(chunk, (found, strip))
                return
    yield pack(chunk, None)


def _do_strips(table: pa.Table, finishing: Finishing) -> pa.Table:
    ((_, item),) = unpack(table)
    if item is not None:
        found, strip = item
        with _scratch() as folder:
            stitch_strip(replace(found, scratch=folder), strip)
    return pa.table([pa.array([], pa.string())] * 2, schema=_DONE)


def _finish_scene(table: pa.Table, finishing: Finishing) -> pa.Table:
    ((_, item),) = unpack(table)
    record, start = item.record, time.perf_counter()
    with _scratch() as folder:
        if record.reason is not None:
            row = failed_row(record)
            commit_scene(finishing.store, item.chunk, row, no_objects(folder / "objects.parquet"), None)
        else:
            found = _stitching(record, finishing, folder)
            if finishing.spec.task == "instance":
                strips = strips_of(found)
                _, stats = join_strips(found, strips, folder / "objects.parquet")
                row = scene_row(record, found.survey, found.rows, stats, seconds=time.perf_counter() - start)
            else:
                strips = []
                stats, name = write_label_map(found, finishing.store, finishing.settings, blend=finishing.blend)
                row = scene_row(record, found.survey, found.rows, stats, label_map=name, seconds=time.perf_counter() - start)
            commit_scene(finishing.store, item.chunk, row, folder / "objects.parquet", record.opened.ground)
            sweep_strips(found, strips)
    return pa.table([[record.uri], [row["status"]]], schema=_DONE)


def _stitching(record: SceneRecord, finishing: Finishing, folder: Path) -> Stitching:
    rows = planned_tiles(finishing.tiles, finishing.plan, record)
    everything: Committed = ray.get(finishing.committed)
    shards = {shard for shard, _ in rows.names}
    committed = {shard: everything.get(shard, ()) for shard in shards}
    seen = survey(finishing.tiles, record, rows, committed)
    if seen.missing:
        raise OutputError(
            f"{record.uri}: {seen.missing} of its {record.tiles} tiles are not in tiles/images; somebody removed them. "
            "Run the same command again"
        )
    spec = finishing.spec
    made_by = {"version": identity.version_of("rayseg"), "model": spec.name, "model_fingerprint": spec.fingerprint}
    found = Stitching(
        finishing.tiles,
        record,
        rows,
        seen,
        committed,
        tuple(spec.labels),
        finishing.settings.simplify_px,
        folder,
        made_by=json.dumps(made_by),
    )
    return replace(found, large=find_large(found)) if finishing.spec.task == "instance" else found


@contextmanager
def _scratch() -> Iterator[Path]:
    """A local folder of this task's own."""
    with tempfile.TemporaryDirectory(prefix="rayseg-", ignore_cleanup_errors=True) as name:
        yield Path(name)
