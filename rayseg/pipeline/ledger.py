"""The ledger: which units are finished, read from the output alone, and the one place that writes to it.

A commit writes the objects file of a chunk, then its ledger file under the same name; the second write makes it count.
A file of one kind without the other is debris of a killed task, or damage, and is swept before work starts.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayseg.pipeline.plan import parquet_bytes, shard_of
from rayseg.pipeline.storage import Store
from rayseg.tables import FAILED, IMAGES, OK, LedgerRow, images_table

log = logging.getLogger(__name__)

_READERS = 8


def commit(store: Store, chunk: str, rows: Iterable[LedgerRow], objects: pa.Table) -> None:
    """Make a chunk count: objects first, then the ledger, each one atomic write."""
    store.write(f"objects/{chunk}.parquet", parquet_bytes(objects))
    store.write(f"images/{chunk}.parquet", parquet_bytes(images_table(rows)))


def sweep(store: Store) -> dict[str, list[str]]:
    """Delete what killed tasks left, and name what counts.

    Returns:
        The committed chunks of each shard.
    """
    sweep_temporaries(store)
    objects, images = store.list("objects"), store.list("images")
    for name in sorted(set(objects) - set(images)):
        log.info("objects/%s has no ledger file: left by a killed task, deleted", name)
        store.delete(f"objects/{name}")
    for name in sorted(set(images) - set(objects)):
        log.warning("images/%s has no objects file: somebody removed it; its images run again", name)
        store.delete(f"images/{name}")
    committed: dict[str, list[str]] = {}
    for name in sorted(set(images) & set(objects)):
        chunk = name.removesuffix(".parquet")
        committed.setdefault(shard_of(chunk), []).append(chunk)
    return committed


def sweep_temporaries(store: Store) -> None:
    """Delete the half-written files of killed processes; only local disks have them. None of ours may be writing."""
    if not store.local:
        return
    for folder in ("", "objects", "images", "label_maps", "plan", "scenes", "runs"):
        for name in store.list(folder):
            if name.startswith(".") and name.endswith(".tmp"):
                store.delete(f"{folder}/{name}" if folder else name)


def names(store: Store) -> dict[str, tuple[list[str], list[str]]]:
    """Every file name in images/ and objects/ by shard: ([ledger files], [objects files]), without the suffix."""
    out: dict[str, tuple[list[str], list[str]]] = {}
    for i, folder in enumerate(("images", "objects")):
        for name in store.list(folder):
            if not name.startswith("."):
                stem = name.removesuffix(".parquet")
                out.setdefault(shard_of(stem), ([], []))[i].append(stem)
    return out


def finished(store: Store, committed: Iterable[str]) -> tuple[np.ndarray, int]:
    """What some commits finished. A ledger file that cannot be read is deleted with its objects, and its images run again.

    Returns:
        The ids of all units, int64, and how many of them failed.
    """

    def read(chunk: str) -> pa.Table:
        try:
            return read_ledger(store, chunk, columns=["unit_id", "status"])
        except (pa.ArrowException, FileNotFoundError) as error:
            log.warning("images/%s.parquet cannot be read (%s); its images run again", chunk, error)
            drop(store, chunk)
            return IMAGES.empty_table().select(["unit_id", "status"])

    with ThreadPoolExecutor(_READERS) as pool:
        tables = [IMAGES.empty_table().select(["unit_id", "status"]), *pool.map(read, committed)]
    table = pa.concat_tables([t.cast(tables[0].schema) for t in tables])
    return table["unit_id"].to_numpy(), pc.sum(pc.equal(table["status"], FAILED)).as_py() or 0


def read_ledger(store: Store, chunk: str, *, columns: list[str] | None = None) -> pa.Table:
    """The rows of one ledger file."""
    return pq.read_table(io.BytesIO(store.read(f"images/{chunk}.parquet")), columns=columns)


def drop(store: Store, chunk: str) -> None:
    """Take a commit back: the ledger file first, so that a kill in between leaves debris and not a false claim."""
    store.delete(f"images/{chunk}.parquet")
    store.delete(f"objects/{chunk}.parquet")


def take_back(store: Store, chunk: str, units: np.ndarray) -> None:
    """Remove what a commit holds of some units; the rest of it stays. May be done twice.

    The ledger file is written first: a kill in between leaves objects that it does not count, and no false claim.

    Args:
        units: int64, ids.
    """
    try:
        rows = read_ledger(store, chunk)
        objects = pq.read_table(io.BytesIO(store.read(f"objects/{chunk}.parquet")))
    except (pa.ArrowException, FileNotFoundError) as error:
        log.warning("the files of %s cannot be read (%s); its images run again", chunk, error)
        drop(store, chunk)
        return
    old_rows, old_objects = (np.isin(table["unit_id"].to_numpy(), units) for table in (rows, objects))
    if old_rows.all() and rows.num_rows:
        drop(store, chunk)
        return
    if old_rows.any():
        store.write(f"images/{chunk}.parquet", parquet_bytes(rows.filter(pa.array(~old_rows))))
    if old_objects.any():
        store.write(f"objects/{chunk}.parquet", parquet_bytes(objects.filter(pa.array(~old_objects))))


def forget_failed(store: Store) -> int:
    """Remove the rows that are failed or incomplete, so that the next run does those units again and no others.

    Returns:
        How many rows were removed.
    """
    forgotten = 0
    for chunk in [chunk for chunks in sweep(store).values() for chunk in chunks]:
        table = read_ledger(store, chunk)
        kept = table.filter(pc.equal(table["status"], OK))
        if kept.num_rows == table.num_rows:
            continue
        forgotten += table.num_rows - kept.num_rows
        if kept.num_rows:
            store.write(f"images/{chunk}.parquet", parquet_bytes(kept))
        else:
            drop(store, chunk)
    return forgotten
