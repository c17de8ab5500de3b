"""`rayseg segment --update`: a source is listed again, and what is new or changed in it becomes work.

    list -> compare with the plan -> [job.json: decided] -> take old rows back, mend the plan -> [job.json: done]

A file is changed when its size, or its etag or modification time, is another than the planned one. New files are more shards of
the plan. A changed file keeps its place there; its row is written anew and its old results are taken back, also those of
pages it no longer has. A file that is not found any more keeps its rows and is named in OUT/vanished.parquet.

All that is found out is written to OUT/update/ first and counts for nothing; one write of job.json decides it. From then on
every run first ends what was decided (`finish`): each step may be done twice, and no unit is worked on in between, so that
whatever the ledger holds of a changed unit is old. Killed before the decision, the next update starts anew.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from rayseg.pipeline import identity, ledger
from rayseg.pipeline.plan import (
    Plan,
    Shard,
    parquet_bytes,
    plan_to_json,
    read_shard,
    shard_of,
    write_plan,
    write_shard,
    write_shards,
)
from rayseg.pipeline.sources import Source
from rayseg.pipeline.stages import label_map_name
from rayseg.pipeline.storage import Store
from rayseg.tables import PLAN, Unit

log = logging.getLogger(__name__)

FOLDER = "update"
VANISHED = "vanished.parquet"
_PART_UNITS = 500_000
_TASK_CPUS = 0.5

# One row for each planned unit whose results are taken back; `gone` are pages that a changed file no longer has.
_STALE = pa.schema([*PLAN, pa.field("shard", pa.string(), nullable=False), pa.field("gone", pa.bool_(), nullable=False)])


@dataclass(frozen=True)
class Changes:
    """What an update found, in units (files; pages of TIFFs).

    Attributes:
        new: not in the plan before.
        changed: planned, and another file now.
        gone: pages that a changed file no longer has; they leave the plan.
        vanished: planned and not found; their rows stay.
    """

    new: int = 0
    changed: int = 0
    gone: int = 0
    vanished: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    def __str__(self) -> str:
        gone = f", {self.gone} pages gone" if self.gone else ""
        return f"{self.new} new, {self.changed} changed{gone}, {self.vanished} vanished"


def update(
    source: Source,
    store: Store,
    job: dict[str, Any],
    *,
    parallelism: int,
    report: Callable[[int], None] = lambda n: None,
) -> tuple[dict[str, Any], Changes]:
    """List the source again and bring the plan up to date; the caller holds the lock.

    Args:
        job: job.json, of which no earlier update is left to finish.
        parallelism: listing tasks at a time.
        report: told the number of units found so far.

    Returns:
        job.json as it is now, and what was found.

    Raises:
        SourceError: the source holds nothing. An empty folder is more often a disk that is not mounted than an archive whose
            files are all gone.
    """
    plan, folder = identity.plan(job), store.below(FOLDER)
    store.delete_folder(FOLDER)
    _sweep_plan(store, plan)
    listed = write_plan(source, folder, chunk_images=1, chunk_bytes=1, parallelism=parallelism, report=report)
    generation = len(job.get("updates", [])) + 1
    parts = max(1, -(-max(plan.units, listed.units) // _PART_UNITS))
    compare = ray.remote(num_cpus=_TASK_CPUS)(_compare)
    refs = [
        compare.remote(store, plan.shards, listed.shards, (part, parts), f"u{generation:05d}x{part:04d}") for part in range(parts)
    ]
    found: list[tuple[Changes, list[Shard], list[str]]] = ray.get(refs)
    changes = sum((changes for changes, _, _ in found), Changes())
    stale = sorted({shard for _, _, shards in found for shard in shards})
    mend = ray.remote(num_cpus=_TASK_CPUS)(_mended)
    mended = ray.get([mend.remote(store, shard, parts) for shard in stale])
    note = {"when": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(changes)}
    decided = {
        **job,
        "plan": plan_to_json(_grown(plan, [shard for _, shards, _ in found for shard in shards], mended, gone=changes.gone)),
        "updates": [*job.get("updates", []), note],
        "updating": {"shards": stale, "parts": parts},
    }
    identity.save(store, decided)
    return finish(store, decided), changes


def finish(store: Store, job: dict[str, Any]) -> dict[str, Any]:
    """Do what an update decided and a kill may have left; nothing when there is nothing.

    Returns:
        job.json as it is now.
    """
    if "updating" not in job:
        return job
    committed = ledger.sweep(store)
    parts, maps = job["updating"]["parts"], bool((job.get("settings") or {}).get("save_label_maps"))
    take = ray.remote(num_cpus=_TASK_CPUS)(_take_back)
    ray.get([take.remote(store, shard, committed.get(shard, []), parts, label_maps=maps) for shard in job["updating"]["shards"]])
    _write_vanished(store, parts)
    done = {key: value for key, value in job.items() if key != "updating"}
    identity.save(store, done)
    store.delete_folder(FOLDER)
    return done


def _sweep_plan(store: Store, plan: Plan) -> None:
    """Delete shards of an update that was killed before it was decided."""
    for name in store.list("plan"):
        if name.endswith(".parquet") and name.removesuffix(".parquet") not in plan.shards:
            log.info("plan/%s belongs to no plan that counts: left by an update that was killed, deleted", name)
            store.delete(f"plan/{name}")


def _compare(
    store: Store, planned: tuple[str, ...], listed: tuple[str, ...], part: tuple[int, int], prefix: str
) -> tuple[Changes, list[Shard], list[str]]:
    """Compare the part of both tables whose uris fall to `part` (number, of how many).

    Returns:
        What was found, the shards of new units, and the planned shards with stale rows.
    """
    before = pa.concat_tables(
        [
            PLAN.empty_table().append_column("shard", pa.array([], pa.string())),
            *(t.append_column("shard", pa.array([name] * t.num_rows, pa.string())) for name, t in _rows(store, planned, part)),
        ]
    )
    now = pa.concat_tables([PLAN.empty_table(), *(t for _, t in _rows(store.below(FOLDER), listed, part))])
    old_ids, new_ids = before["unit_id"].to_numpy(), now["unit_id"].to_numpy()
    new = now.filter(pa.array(~np.isin(new_ids, old_ids)))
    order = np.argsort(new_ids)
    place = np.searchsorted(new_ids, old_ids, sorter=order).clip(0, max(0, len(new_ids) - 1))
    there = np.isin(old_ids, new_ids)
    old, same = before.filter(pa.array(there)), now.take(pa.array(order[place[there]]))
    differs = pc.or_(_differs(old["bytes"], same["bytes"]), _differs(old["version"], same["version"]))
    changed = same.filter(differs).append_column("shard", old.filter(differs)["shard"])
    lost = before.filter(pa.array(~there))
    still = pc.is_in(lost["uri"], now["uri"].combine_chunks())  # the file is there, without this page
    gone, vanished = lost.filter(still), lost.filter(pc.invert(still))
    stale = pa.concat_tables([_stale(changed, gone=False), _stale(gone, gone=True)])
    store.write(f"{FOLDER}/stale/{part[0]:04d}.parquet", parquet_bytes(stale))
    store.write(
        f"{FOLDER}/vanished/{part[0]:04d}.parquet", parquet_bytes(vanished.select(["unit_id", "uri", "page", "bytes", "version"]))
    )
    shards = write_shards(store, new.sort_by([("uri", "ascending"), ("page", "ascending")]), prefix)
    counts = Changes(new.num_rows, changed.num_rows, gone.num_rows, vanished.num_rows)
    return counts, shards, stale["shard"].unique().to_pylist()


def _rows(store: Store, shards: tuple[str, ...], part: tuple[int, int]) -> list[tuple[str, pa.Table]]:
    """The rows of some shards that fall to a part: all units of a file fall to the same."""
    number, parts = part
    out = []
    for name in shards:
        table = read_shard(store, name)
        if parts > 1:
            uris = table["uri"].to_pylist()
            mine = np.fromiter((zlib.crc32(uri.encode()) % parts == number for uri in uris), dtype=bool, count=len(uris))
            table = table.filter(pa.array(mine))
        out.append((name, table))
    return out


def _differs(a: pa.ChunkedArray, b: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where both are known and not the same."""
    return pc.fill_null(pc.not_equal(a, b), False)


def _stale(rows: pa.Table, *, gone: bool) -> pa.Table:
    return rows.append_column("gone", pa.array([gone] * rows.num_rows, pa.bool_())).cast(_STALE)


def _read_stale(store: Store, shard: str, parts: int) -> pa.Table:
    """Rows of a shard that an update takes back, as the plan will have them."""
    names = [f"{FOLDER}/stale/{part:04d}.parquet" for part in range(parts)]
    tables = [pq.read_table(io.BytesIO(store.read(name)), filters=pc.field("shard") == shard) for name in names]
    return pa.concat_tables(tables)


def _mended(store: Store, shard: str, parts: int) -> Shard:
    """Write what a shard will be to OUT/update/mended/plan/."""
    table, stale = read_shard(store, shard), _read_stale(store, shard, parts)
    ids, old = table["unit_id"].to_numpy(), stale["unit_id"].to_numpy()
    rows = pa.concat_tables([table, stale.filter(pc.invert(stale["gone"])).select(PLAN.names).cast(PLAN)])
    # each changed row in the place of its former self; sizes and versions are its own
    place = np.arange(len(ids))
    kept = np.isin(ids, stale.filter(stale["gone"])["unit_id"].to_numpy(), invert=True)
    changed = stale.filter(pc.invert(stale["gone"]))["unit_id"].to_numpy()
    order = np.argsort(changed)
    hit = np.isin(ids, changed)
    place[hit] = len(ids) + order[np.searchsorted(changed, ids[hit], sorter=order)]
    assert np.isin(old, ids).all(), f"an update of {shard} names units that are not in it"
    return write_shard(store.below(f"{FOLDER}/mended"), shard, rows.take(pa.array(place[kept])))


def _take_back(store: Store, shard: str, chunks: list[str], parts: int, *, label_maps: bool) -> None:
    """Remove all results of a shard's stale units, then put the mended shard in its place. May be done twice."""
    stale = _read_stale(store, shard, parts)
    for chunk in chunks:
        assert shard_of(chunk) == shard, f"{chunk} is no chunk of {shard}"
        ledger.take_back(store, chunk, stale["unit_id"].to_numpy())
    if label_maps:  # those of changed files would be overwritten, unless the file cannot be read any more
        for row in stale.select(["uri", "page"]).to_pylist():
            store.delete(label_map_name(Unit(row["uri"], row["page"])))
    store.write(f"plan/{shard}.parquet", store.read(f"{FOLDER}/mended/plan/{shard}.parquet"))


def _grown(plan: Plan, new: list[Shard], mended: list[Shard], *, gone: int) -> Plan:
    """The plan after an update; its digest is over the former one and over the shards that are new or mended."""
    digest = hashlib.sha256("".join([plan.digest, *(shard.digest for shard in (*mended, *new))]).encode()).hexdigest()
    units = plan.units - gone + sum(shard.units for shard in new)
    return replace(plan, units=units, shards=(*plan.shards, *(shard.name for shard in new)), digest=digest)


def _write_vanished(store: Store, parts: int) -> None:
    """OUT/vanished.parquet: what the last update did not find; part by part, however many there are."""
    handle, path = tempfile.mkstemp(suffix=".parquet")
    os.close(handle)
    try:
        tables = (pq.read_table(io.BytesIO(store.read(f"{FOLDER}/vanished/{part:04d}.parquet"))) for part in range(parts))
        first = next(tables)
        with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
            for table in (first, *tables):
                writer.write_table(table)
        store.put_file(VANISHED, path)
    finally:
        if os.path.exists(path):
            os.unlink(path)
