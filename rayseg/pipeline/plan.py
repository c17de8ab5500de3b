"""The plan: the table of all units of a job, written before any work starts, by tasks, so that no archive passes the driver.

Listing tasks walk folders and write runs of units, each row with a bucket (the low bits of its id). Merging tasks take
some buckets each from every run, drop doubles, sort by uri and write shards of at most SHARD_UNITS rows. A shard's
rows, in order, fall into chunks: the images of one commit. Chunk borders depend on the plan alone, so every run of a
job cuts the same chunks.
"""

from __future__ import annotations

import hashlib
import io
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayseg.errors import SourceError
from rayseg.geometry import Window
from rayseg.pipeline.sources import Source, expand, read_manifest
from rayseg.pipeline.storage import Store
from rayseg.tables import PLAN, Unit, plan_table

log = logging.getLogger(__name__)

SHARD_UNITS = 16_384
UNKNOWN_BYTES = 2 * 2**20  # what a file counts whose size the source does not tell
_BUCKETS = 64
_MERGE_UNITS = 200_000
_LIST_UNITS = 50_000
_RUNS = "plan/.runs"
_KEYS = ("uri", "page", "y0", "x0", "y1", "x1")
_TASK_CPUS = 0.5


@dataclass(frozen=True)
class Plan:
    """What job.json keeps of a plan.

    Attributes:
        units: rows in all shards.
        shards: names of the shards, such as "00-00003"; the file is plan/<name>.parquet.
        digest: sha256 over the ids in order.
        chunk_images, chunk_bytes: most units, and bytes of files, in one chunk.
        duplicates: units that were listed more than once and dropped.
    """

    units: int
    shards: tuple[str, ...]
    digest: str
    chunk_images: int
    chunk_bytes: int
    duplicates: int


@dataclass(frozen=True)
class Shard:
    """One file of a plan: its name, its rows, and sha256 over their ids."""

    name: str
    units: int
    digest: str


@dataclass(frozen=True)
class Chunk:
    """Units that are committed together. The name is a function of the units, so a repeated task overwrites itself."""

    name: str
    units: tuple[Unit, ...]


def write_plan(
    source: Source,
    store: Store,
    *,
    chunk_images: int | None,
    chunk_bytes: int,
    parallelism: int,
    report: Callable[[int], None] = lambda n: None,
) -> Plan:
    """List the source and write plan/.

    Args:
        chunk_images: most units in a chunk; None cuts the archive into 32 chunks, or four for each listing task where that is
            more, of 8 to 128 units: a chunk costs as much as a few images, and every predictor should get several.
        chunk_bytes: most bytes of files in a chunk of more than one.
        parallelism: listing tasks at a time.
        report: told the number of units found so far.

    Raises:
        SourceError: the source holds nothing, or two units share an id.
    """
    import ray  # not above: verify and report read plans without Ray

    store.delete_folder("plan")
    runs, listed = _list(source, store, parallelism, report)
    if listed == 0:
        raise SourceError(f"{', '.join(source.roots)}: nothing to do: no file there (hidden files do not count)")
    groups = min(_BUCKETS, -(-listed // _MERGE_UNITS))
    merge = ray.remote(num_cpus=_TASK_CPUS)(_merge_group)
    edges = [round(i * _BUCKETS / groups) for i in range(groups + 1)]
    done = ray.get([merge.remote(store, runs, i, (edges[i], edges[i + 1])) for i in range(groups)])
    shards = [shard for group in done for shard in group]
    store.delete_folder(_RUNS)
    units = sum(shard.units for shard in shards)
    chunk = chunk_images or min(128, max(8, units // max(32, 4 * parallelism)))
    return plan_of(shards, chunk_images=chunk, chunk_bytes=chunk_bytes, duplicates=listed - units)


def write_units(store: Store, units: Iterable[Unit], *, group: int = 0) -> list[Shard]:
    """Write shards of units that are known already, in the order given.

    Args:
        group: begins the names of the shards; no two calls for one plan may have the same.
    """
    return write_shards(store, plan_table(units), f"{group:06d}")


def write_shards(store: Store, table: pa.Table, prefix: str) -> list[Shard]:
    """Write rows of a plan, in the order given, as shards whose names begin with `prefix`, which holds no dash."""
    starts = enumerate(range(0, table.num_rows, SHARD_UNITS))
    return [write_shard(store, f"{prefix}-{number:05d}", table.slice(start, SHARD_UNITS)) for number, start in starts]


def write_shard(store: Store, name: str, table: pa.Table) -> Shard:
    """Write one shard."""
    store.write(f"plan/{name}.parquet", parquet_bytes(table))
    ids = np.ascontiguousarray(table["unit_id"].to_numpy(), dtype="<i8")
    return Shard(name, table.num_rows, hashlib.sha256(ids.tobytes()).hexdigest())


def plan_of(shards: Sequence[Shard], *, chunk_images: int, chunk_bytes: int, duplicates: int = 0) -> Plan:
    """The plan that some shards make up."""
    digest = hashlib.sha256("".join(shard.digest for shard in shards).encode()).hexdigest()
    units = sum(shard.units for shard in shards)
    return Plan(units, tuple(shard.name for shard in shards), digest, chunk_images, chunk_bytes, duplicates)


def extended(plan: Plan, shards: Sequence[Shard]) -> Plan:
    """A plan with more shards, for units that could not be planned before."""
    digest = hashlib.sha256("".join([plan.digest, *(shard.digest for shard in shards)]).encode()).hexdigest()
    units = plan.units + sum(shard.units for shard in shards)
    return replace(plan, units=units, shards=(*plan.shards, *(shard.name for shard in shards)), digest=digest)


def read_shard(store: Store, shard: str) -> pa.Table:
    """The plan rows of one shard, in order."""
    return pq.read_table(io.BytesIO(store.read(f"plan/{shard}.parquet")), schema=PLAN)


def chunks(plan: Plan, shard: str, table: pa.Table, done: np.ndarray) -> Iterator[Chunk]:
    """What is left of each chunk of a shard.

    Args:
        table: the shard's plan rows.
        done: int64, ids that are finished.

    Yields:
        Chunks with at least one unfinished unit.
    """
    left = ~np.isin(table["unit_id"].to_numpy(), done)
    for number, (start, stop) in enumerate(cuts(table, plan)):
        keep = np.flatnonzero(left[start:stop]) + start
        if keep.size:
            rows = table.take(pa.array(keep)).select(["uri", "page", "bytes", "version", "window"]).to_pylist()
            name = f"{shard}-{number:05d}-{_name_hash(table['unit_id'].to_numpy()[keep])}"
            yield Chunk(name, tuple(unit_of(**row) for row in rows))


def cuts(table: pa.Table, plan: Plan) -> Iterator[tuple[int, int]]:
    """First row of each chunk of a shard and the row after its last; the chunk's number is its place here."""
    return _cuts(table["bytes"].fill_null(UNKNOWN_BYTES).to_numpy(), plan.chunk_images, plan.chunk_bytes)


def unit_of(*, window: dict[str, int] | None, **values: Any) -> Unit:
    """A unit from the values of its plan row."""
    return Unit(**values, window=Window(**window) if window else None)


def shard_of(chunk_name: str) -> str:
    """The shard a chunk belongs to, from its name or its file's name."""
    return "-".join(chunk_name.split("-")[:2])


def _cuts(sizes: np.ndarray, most: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Borders of chunks: at most so many files and bytes of them, at least one file."""
    start = total = 0
    for i, size in enumerate(sizes.tolist()):
        if i > start and (i - start == most or total + size > most_bytes):
            yield start, i
            start, total = i, 0
        total += size
    if len(sizes):
        yield start, len(sizes)


def _name_hash(ids: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(ids, dtype="<i8").tobytes(), digest_size=6).hexdigest()


def _list(source: Source, store: Store, parallelism: int, report: Callable[[int], None]) -> tuple[list[str], int]:
    """Run listing tasks until no folder is left; returns the names of the runs and the number of rows in them.

    The names are of this call alone: a task of a planning that was killed may still be writing on some node.
    """
    import ray

    token = uuid.uuid4().hex[:8]
    if source.kind == "manifest":
        found = ray.get(ray.remote(num_cpus=_TASK_CPUS)(_list_manifest).remote(source, store, token))
        report(sum(rows for _, rows in found))
        return [name for name, _ in found], sum(rows for _, rows in found)
    task = ray.remote(num_cpus=_TASK_CPUS)(_list_folders)
    waiting, runs, listed, number = list(source.roots), [], 0, 0
    running: list[ray.ObjectRef] = []
    while waiting or running:
        while waiting and len(running) < parallelism:
            share = max(1, len(waiting) // parallelism)
            running.append(task.remote(source, waiting[:share], store, f"{token}-{number:06d}"))
            waiting, number = waiting[share:], number + 1
        ready, running = ray.wait(running, num_returns=1)
        name, rows, folders = ray.get(ready[0])
        runs += [name] if rows else []
        listed += rows
        waiting += folders
        report(listed)
    return runs, listed


def _list_folders(source: Source, roots: list[str], store: Store, name: str) -> tuple[str, int, list[str]]:
    found = expand(source, roots, max_units=_LIST_UNITS)
    if found.units:
        _write_run(store, name, found.units)
    return name, len(found.units), found.folders


def _list_manifest(source: Source, store: Store, token: str) -> list[tuple[str, int]]:
    out = []
    for number, units in enumerate(read_manifest(source)):
        if units:
            _write_run(store, f"{token}-{number:06d}", units)
            out.append((f"{token}-{number:06d}", len(units)))
    return out


def _write_run(store: Store, name: str, units: list[Unit]) -> None:
    table = plan_table(units)
    buckets = table["unit_id"].to_numpy().view(np.uint64) % np.uint64(_BUCKETS)
    table = table.append_column("bucket", pa.array(buckets.astype(np.uint8))).sort_by("bucket")
    store.write(f"{_RUNS}/{name}.parquet", parquet_bytes(table, row_group_size=1024))


def _merge_group(store: Store, runs: list[str], group: int, buckets: tuple[int, int]) -> list[Shard]:
    """Write the shards of some buckets."""
    parts = []
    for run in runs:
        file = pq.ParquetFile(io.BytesIO(store.read(f"{_RUNS}/{run}.parquet")))
        mine = [i for i in range(file.num_row_groups) if _overlaps(file, i, buckets)]
        table = file.read_row_groups(mine)
        bucket = table["bucket"]
        keep = pc.and_(pc.greater_equal(bucket, buckets[0]), pc.less(bucket, buckets[1]))
        parts.append(table.filter(keep).drop_columns("bucket"))
    table = _without_doubles(_in_order(pa.concat_tables(parts)))
    return write_shards(store, table, f"{group:02d}")


def _overlaps(file: pq.ParquetFile, row_group: int, buckets: tuple[int, int]) -> bool:
    stats = file.metadata.row_group(row_group).column(file.schema_arrow.names.index("bucket")).statistics
    return stats is None or not stats.has_min_max or (stats.min < buckets[1] and stats.max >= buckets[0])


def _in_order(table: pa.Table) -> pa.Table:
    """Sorted by uri and page; the tiles of a scene from top to bottom, then from left to right."""
    keys = pa.table(_key_columns(table), names=_KEYS)
    return table.take(pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in _KEYS]))


def _key_columns(table: pa.Table) -> list[pa.ChunkedArray]:
    """What tells units apart, in the order of `_KEYS`; corners are null for whole images."""
    window = table["window"]
    return [table["uri"], table["page"], *(pc.struct_field(window, [name]) for name in _KEYS[2:])]


def _without_doubles(table: pa.Table) -> pa.Table:
    """Rows sorted by uri, page and window, each once."""
    if table.num_rows < 2:
        return table
    same = np.ones(table.num_rows - 1, dtype=bool)
    for column in _key_columns(table):
        values = column.fill_null(-1) if pa.types.is_integer(column.type) else column
        same &= pc.equal(values.slice(1), values.slice(0, table.num_rows - 1)).to_numpy()
    table = table.filter(pa.array(np.concatenate([[True], ~same])))
    ids = np.sort(table["unit_id"].to_numpy())
    if (ids[1:] == ids[:-1]).any():
        twice = int(ids[1:][ids[1:] == ids[:-1]][0])
        names = table.filter(pc.equal(table["unit_id"], twice))["uri"].to_pylist()
        raise SourceError(f"{names} hash to the same unit id {twice}; rename one of them")
    return table


def parquet_bytes(table: pa.Table, *, row_group_size: int | None = None) -> bytes:
    """A table as the bytes of one zstd Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
    return sink.getvalue()


def plan_to_json(plan: Plan) -> dict[str, object]:
    return {**asdict(plan), "shards": list(plan.shards)}


def plan_from_json(values: dict[str, object]) -> Plan:
    return Plan(**{**values, "shards": tuple(values["shards"])})  # type: ignore[arg-type]
