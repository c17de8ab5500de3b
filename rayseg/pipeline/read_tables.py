"""Reading a job's output: what was asked, which commits count, and their rows a few files at a time.

For whatever looks at results (report, exports). Needs neither Ray nor the model. Who writes the files, and what is done
about damaged ones, is in `ledger.py` and `verify.py`.
"""

from __future__ import annotations

import io
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayseg.errors import OutputError
from rayseg.geometry import Size
from rayseg.pipeline.storage import Store
from rayseg.results import Instances
from rayseg.rle import Rle

log = logging.getLogger(__name__)
T = TypeVar("T")
S = TypeVar("S")

_READERS = 8


def read_job(store: Store) -> dict[str, Any]:
    """What job.json says.

    Raises:
        OutputError: the folder holds no job, or one this version cannot read.
    """
    try:
        job = json.loads(store.read("job.json"))
        job["model"]["labels"], job["plan"]["units"], job["plan"]["shards"]
    except FileNotFoundError as error:
        raise OutputError(
            f"{store.url}: no job.json there, so this is not the output of `rayseg segment` (or planning never ended)"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{store.url}/job.json is not a rayseg job ({type(error).__name__}: {error}); give another folder"
        ) from error
    return dict(job)


def read_runs(store: Store) -> list[dict[str, Any]]:
    """The notes of finished runs, oldest first. A run that was killed left none, and an unreadable one is skipped."""
    runs = []
    for name in sorted(store.list("runs")):
        if name.startswith(".") or not name.endswith(".json"):
            continue
        try:
            run = json.loads(store.read(f"runs/{name}"))
            float(run["wall_s"]), int(run["done"]), str(run["started"])
        except (ValueError, KeyError, TypeError) as error:
            log.warning("runs/%s cannot be read (%r); left out", name, error)
            continue
        runs.append(run)
    return sorted(runs, key=lambda run: str(run["started"]))


def committed(store: Store) -> dict[str, list[str]]:
    """Names of the commits that count (ledger file and objects file both there), in order, by shard of the plan."""
    objects = set(store.list("objects"))
    out: dict[str, list[str]] = {}
    for name in sorted(objects.intersection(store.list("images"))):
        if name.endswith(".parquet") and not name.startswith("."):
            chunk = name.removesuffix(".parquet")
            out.setdefault("-".join(chunk.split("-")[:2]), []).append(chunk)
    return out


def read_rows(store: Store, name: str, columns: list[str] | None = None) -> pa.Table:
    """Rows of one Parquet file below the output, such as "objects/00-00000-00003-7f3a.parquet".

    Args:
        columns: those that are wanted; of a local file only these are read from disk.

    Raises:
        OutputError: the file is gone, cut short, or lacks a column.
    """
    try:
        with open(store.path(name), "rb") if store.local else io.BytesIO(store.read(name)) as file:
            table = pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(f"{name} cannot be read ({error}); `rayseg verify {store.url}` says what to do") from error
    lacking = set(columns or ()) - set(table.column_names)
    if lacking:
        raise OutputError(f"{name} has no column {', '.join(sorted(lacking))}; it was not written by `rayseg segment`")
    return table


@contextmanager
def opened(store: Store, name: str) -> Iterator[IO[bytes]]:
    """One file below the output, open for reading in parts: for tables that should not be in memory as a whole.

    Raises:
        OutputError: it is gone or cannot be reached, or inside the block, it is no whole Parquet file.
    """
    path = store.path(name)
    says = f"`rayseg verify {store.url}` says what to do"
    try:
        file = open(path, "rb") if store.local else store.fs.open(path, "rb")  # noqa: SIM115 - closed below
    except Exception as error:  # storage libraries raise their own trees
        raise OutputError(f"{name} cannot be read ({error}); {says}") from error
    with file:
        try:
            yield file
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"{name} cannot be read ({error}); {says}") from error


def in_order(call: Callable[[T], S], items: Iterable[T], *, threads: int = _READERS) -> Iterator[S]:
    """Results of `call` in the order of the items, found ahead in threads; at most twice `threads` of them wait."""
    waiting: deque[Future[S]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def to_instances(objects: pa.Table) -> Instances:
    """The objects of one image from its rows, in order; regions of a semantic model count with score 1.

    Args:
        objects: at least one row of the objects table, all of one unit.
    """
    column = {name: objects.column(name) for name in objects.column_names}
    size = Size(column["rle_h"][0].as_py(), column["rle_w"][0].as_py())
    boxes = [column[name].to_numpy() for name in ("x0", "y0", "x1", "y1")]
    masks = tuple(Rle(size, counts.encode("ascii")) for counts in column["rle_counts"].to_pylist())
    scores = column["score"].fill_null(1.0).to_numpy()
    return Instances(size, np.stack(boxes, axis=1), scores, column["class_id"].to_numpy(), masks)
