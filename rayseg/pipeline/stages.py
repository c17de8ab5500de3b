"""The three stages a chunk passes: fetch + decode + prepare in tasks, predict in an actor pool, encode + commit in tasks.

Each takes and gives parcels. A bad image becomes a failure that travels with its neighbours and ends as a row of the ledger. What
raises out of a stage stops the job: a full disk, a model that cannot run.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import ray

from rayseg import images
from rayseg.config.device import VISIBLE
from rayseg.config.segment import SegmentSettings
from rayseg.errors import CorruptImage, ImageError, RaysegError
from rayseg.geometry import Size
from rayseg.pipeline import ledger
from rayseg.pipeline.board import Tally
from rayseg.pipeline.engines_here import Chosen, open_chosen
from rayseg.pipeline.metrics import count, job_tag, predictor
from rayseg.pipeline.parcel import pack, unpack
from rayseg.pipeline.sources import to_path
from rayseg.pipeline.storage import Store, filesystem, with_retries
from rayseg.predict.devices import Device
from rayseg.predict.families import finish
from rayseg.predict.model_dir import ModelSpec
from rayseg.predict.prepare import Prepared, first_size, prepare
from rayseg.predict.raw import Raw
from rayseg.results import Result, SemanticMap
from rayseg.tables import FAILED, OBJECTS, OK, LedgerRow, Unit, objects_table

log = logging.getLogger(__name__)

_FETCH_THREADS = 8
_TRIES_TOGETHER = 2
_TRIES_ALONE = 2

_FAILURE = pa.struct(
    [("unit", pa.string()), ("uri", pa.string()), ("page", pa.int32()), ("stage", pa.string()), ("reason", pa.string())]
)
STATS = pa.schema(
    [
        ("chunk", pa.string()),
        ("ok", pa.int64()),
        ("failed", pa.int64()),
        ("objects", pa.int64()),
        ("failures", pa.list_(_FAILURE)),
    ]
)
"""What the driver hears of a commit."""


@dataclass(frozen=True)
class Work:
    """One unit on its way.

    Attributes:
        content: what the last stage made of it: Prepared, then Raw; None once it has failed, or has nothing to show.
        width, height: of the image or tile in pixels.
        stage, reason: where and why it failed; a reason without a stage says why there was nothing to do.
        valid: of a tile, bool (height, width) where not all pixels hold data; packed bits by row.
    """

    unit: Unit
    content: Any = None
    width: int | None = None
    height: int | None = None
    stage: str | None = None
    reason: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    valid: np.ndarray | None = None

    def fail(self, stage: str, error: BaseException | str) -> Work:
        """The same unit, given up at a stage."""
        reason = error if isinstance(error, str) else str(error) or type(error).__name__
        return replace(self, content=None, stage=stage, reason=reason[:1000])


@dataclass(frozen=True)
class Context:
    """What every stage of one job needs to know; small, and the same for all."""

    settings: SegmentSettings
    spec: ModelSpec
    store: Store
    board: Any  # handle of the Board actor
    engines: Mapping[str, Chosen] = field(default_factory=dict, kw_only=True)  # by kind of machine, see engine.py


def fetch_and_decode(table: pa.Table, context: Context) -> pa.Table:
    """Parcel of a chunk's units -> parcel of Work with prepared pixels."""
    (name, units), settings = only(table), context.settings
    done = []
    with ThreadPoolExecutor(_FETCH_THREADS) as pool:
        for unit, fetched in zip(units, pool.map(lambda u: _fetch(u, settings), units), strict=True):
            done.append(_decode(Work(unit), fetched, context))
    tell(context, "decode", done)
    return pack(name, done)


class PredictStage:
    """Actor: holds one predictor and runs chunks through it.

    A chunk that ended the process twice is run image by image, and the image it dies on again and again is given up: it
    costs itself, not the job.
    """

    def __init__(self, context: Context, *, device: str, threads: int) -> None:
        self._context = context
        settings = context.settings
        self._threshold = context.spec.draw_threshold if settings.threshold is None else settings.threshold
        self._predictor = open_chosen(context.spec, _pinned(device), settings, context.engines, threads=threads)
        context.board.backend.remote(self._predictor.backend_name)
        self._idle_since = time.perf_counter()

    @property
    def backend_name(self) -> str:
        """Which engine was chosen."""
        return self._predictor.backend_name

    def __call__(self, table: pa.Table) -> pa.Table:
        name, work = only(table)
        board, begun = self._context.board, time.perf_counter()
        attempt = ray.get(board.begin.remote(name))
        done = self._together(work) if attempt <= _TRIES_TOGETHER else self._one_by_one(name, work)
        board.finish.remote(name)  # arrives before this process begins another chunk, and nobody needs to wait for it
        tell(self._context, "predict", done)
        self._tell_time(begun)
        return pack(name, done)

    def _tell_time(self, begun: float) -> None:
        """Count the time spent on a chunk since `begun`, and the time without one before."""
        now = time.perf_counter()
        busy_s, waiting_s = now - begun, begun - self._idle_since
        self._context.board.predictor.remote(busy_s, waiting_s)
        predictor(job_tag(self._context.settings.out), busy_s=busy_s, waiting_s=waiting_s)
        self._idle_since = now

    def _together(self, work: list[Work]) -> list[Work]:
        good = [i for i, w in enumerate(work) if w.content is not None]
        start = time.perf_counter()
        try:
            raws = self._run([work[i].content for i in good], self._context.settings.batch_size)
        except Exception as error:  # noqa: BLE001 - engines raise anything from RuntimeError to SystemError; the culprit is sought below
            log.warning("a batch of %d images failed (%s); trying them one by one", len(good), error)
            return self._isolate(work, good)
        each = (time.perf_counter() - start) / max(1, len(good))
        out = list(work)
        for i, raw in zip(good, raws, strict=True):
            out[i] = replace(work[i], content=raw, seconds={**work[i].seconds, "predict": each})
        return out

    def _run(self, images: list[Prepared], batch_size: int | None) -> list[Raw]:
        return self._predictor.run(images, batch_size=batch_size, min_score=self._threshold)

    def _isolate(self, work: list[Work], good: list[int]) -> list[Work]:
        out = list(work)
        for i in good:
            out[i] = self._alone(work[i])
        if len(good) > 1 and all(out[i].stage for i in good):
            # raises when the engine itself is broken, and the job with it, instead of failing every image
            self._predictor.probe()
        return out

    def _alone(self, work: Work) -> Work:
        with timed(work, "predict") as begun:
            try:
                (raw,) = self._run([work.content], 1)
            except Exception as error:  # noqa: BLE001 - as above; here the image is known
                return work.fail("predict", f"{type(error).__name__}: {error}")
        return replace(begun, content=raw)

    def _one_by_one(self, name: str, work: list[Work]) -> list[Work]:
        board, out = self._context.board, list(work)
        for i, item in enumerate(work):
            if item.content is None:
                continue
            if ray.get(board.begin.remote(f"{name}/{i}")) > _TRIES_ALONE:
                out[i] = item.fail("predict", f"the predictor's process died on this image {_TRIES_ALONE} times")
                continue
            out[i] = self._alone(item)
            board.finish.remote(f"{name}/{i}")
        return out


def encode_and_commit(table: pa.Table, context: Context) -> pa.Table:
    """Parcel of Work with raw outputs -> one row of STATS; the chunk's two files are on disk when this returns."""
    name, work = only(table)
    rows, parts, done = [], [], []
    for item in work:
        item, objects = _encode(item, context)
        rows.append(ledger_row(item, 0 if objects is None else objects.num_rows))
        done.append(item)
        parts += [] if objects is None else [objects]
    objects = pa.concat_tables([OBJECTS.empty_table(), *parts])
    ledger.commit(context.store, name, rows, objects)
    tell(context, "encode", done, objects=objects.num_rows)
    return stats(name, rows, objects.num_rows)


def stats(chunk: str, rows: list[LedgerRow], n_objects: int) -> pa.Table:
    """One row of STATS about a commit."""
    bad = [
        {"unit": str(row.unit_id), "uri": row.uri, "page": row.page, "stage": row.stage, "reason": row.reason}
        for row in rows
        if row.status == FAILED
    ]
    return pa.table([[chunk], [len(rows) - len(bad)], [len(bad)], [n_objects], [bad]], schema=STATS)


def only(table: pa.Table) -> tuple[str, Any]:
    found = list(unpack(table))
    assert len(found) == 1, f"a parcel holds one chunk, got {len(found)}"
    return found[0]


def _fetch(unit: Unit, settings: SegmentSettings) -> tuple[bytes | Exception, float]:
    """The bytes of a file or why there are none, and the seconds it took."""
    start = time.perf_counter()
    try:
        fs = filesystem(unit.uri, settings.source_options)
        path = to_path(fs, unit.uri)
        data = with_retries(lambda: fs.cat_file(path), attempts=settings.fetch_attempts, what=unit.uri)
        if unit.bytes is not None and len(data) != unit.bytes:
            raise CorruptImage(
                f"has {len(data)} bytes, {unit.bytes} when the job was planned: it was replaced meanwhile. "
                "`rayseg segment` with --update takes it as it is now"
            )
    except Exception as error:  # noqa: BLE001 - storage libraries raise their own trees; all of them cost this image only
        return error, time.perf_counter() - start
    return data, time.perf_counter() - start


def _decode(work: Work, fetched: tuple[bytes | Exception, float], context: Context) -> Work:
    data, seconds = fetched
    work = replace(work, seconds={"fetch": seconds})
    if isinstance(data, Exception):
        return work.fail("fetch", f"{type(data).__name__}: {data}")
    settings = context.settings
    with timed(work, "decode") as work:
        original, factor = _reduction(data, context) if settings.scaled_decode else (None, 1)
        try:
            image = _decoder(settings.decode_timeout_s).decode(
                data,
                page=work.unit.page,
                max_pixels=settings.max_pixels,
                allow_truncated=settings.allow_truncated,
                reduce=factor,
            )
        except ImageError as error:
            return work.fail("decode", error)
    original = original or Size(*image.shape[:2])
    work = replace(work, height=original.height, width=original.width)
    with timed(work, "prepare") as work:
        try:
            return replace(work, content=prepare(context.spec, image, original=original))
        except (RaysegError, cv2.error, MemoryError, ValueError) as error:
            return work.fail("prepare", error)


def _reduction(data: bytes, context: Context) -> tuple[Size | None, int]:
    """Size of a JPEG, and by what its sides may be divided in decoding; (None, 1) for any other file."""
    header = images.jpeg_header(data)
    if header is None:
        return None, 1
    original = Size(header.height, header.width)
    return original, images.reduction(original.hw, first_size(context.spec, original).hw)


@cache
def _decoder(timeout_s: float) -> images.DecodeWorker:
    """One decoding child for each worker process; a decoder that crashes takes the child along and not us."""
    return images.DecodeWorker(timeout_s=timeout_s)


def _encode(work: Work, context: Context) -> tuple[Work, pa.Table | None]:
    if work.content is None:
        return work, None
    with timed(work, "encode") as work:
        try:
            result = finish(context.spec, work.content, threshold=context.settings.threshold)
            objects = objects_table(work.unit, result, context.spec.labels)
        except (RaysegError, ValueError, MemoryError) as error:
            return work.fail("encode", error), None
        if context.settings.save_label_maps:
            _save_label_map(work.unit, result, context.store)
    return work, objects


def _save_label_map(unit: Unit, result: Result, store: Store) -> None:
    assert isinstance(result, SemanticMap), "refused for instance models before the job starts"
    done, png = cv2.imencode(".png", result.labels)
    assert done
    store.write(label_map_name(unit), png.tobytes())


def label_map_name(unit: Unit, suffix: str = ".png") -> str:
    """Where the label map of a unit lies below the output: readable, and unlike any other unit's."""
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in PurePosixPath(unit.uri).stem)[:80]
    return f"label_maps/{stem}_{unit.unit_id & (2**64 - 1):016x}{suffix}"


def ledger_row(work: Work, n_objects: int) -> LedgerRow:
    return LedgerRow(
        unit_id=work.unit.unit_id,
        uri=work.unit.uri,
        page=work.unit.page,
        status=FAILED if work.stage else OK,
        width=work.width,
        height=work.height,
        stage=work.stage,
        reason=work.reason,
        n_objects=n_objects,
        seconds=work.seconds,
    )


@contextmanager
def timed(work: Work, stage: str) -> Iterator[Work]:
    """The work with a `seconds` entry that is filled in when the block ends, also on failure and return."""
    timed = replace(work, seconds=dict(work.seconds))
    start = time.perf_counter()
    try:
        yield timed
    finally:
        timed.seconds[stage] = time.perf_counter() - start


def _pinned(kind: str) -> Device:
    """The device of this process: Ray shows an actor only those that it reserved, so its first is number 0."""
    variable = VISIBLE.get(kind)
    if variable and not os.environ.get(variable):
        name = "GPU" if kind == "gpu" else kind
        raise RaysegError(f"this predictor reserved a {name}, but Ray pinned none to it ({variable} is empty)")
    return Device(kind)


def tell(context: Context, stage: str, done: list[Work], *, objects: int = 0) -> None:
    """Count what a stage did, on the job's board and in Prometheus."""
    stages = ("fetch", "decode", "prepare") if stage == "decode" else (stage,)
    seconds = {s: sum(w.seconds.get(s, 0.0) for w in done) for s in stages}
    failed = sum(w.stage in stages for w in done)
    context.board.add.remote(stage, Tally(len(done), failed, objects, seconds, chunks=1))
    count(job_tag(context.settings.out), stage, images=len(done) - failed, failed=failed, objects=objects, seconds=seconds)
