"""Objects of a scene from the fragments of its tiles: strip by strip in any process, then the strips joined from the top.

A strip is some rows of tiles. Working on it finishes all objects that no other strip can reach, shapes and all, and leaves
the fragments of the others in a file; joining strips costs what lies on the seams between them. Memory is that of one row of
tiles and of `ROWS_PER_GROUP` objects. Nothing here counts as done: the scene's commit does that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayseg.geo.footprints import Placing
from rayseg.geo.geoparquet import ROWS_PER_GROUP, GeoParquetFile, SceneRef, scene_objects_table, spatial_order, with_geo_metadata
from rayseg.geometry import Size, Window
from rayseg.pipeline.scenes.collect import Committed, Survey, TileRows, found_in
from rayseg.pipeline.scenes.records import SceneRecord
from rayseg.pipeline.storage import Store
from rayseg.rle import Rle
from rayseg.rle import decode as decode_mask
from rayseg.tiling.fragments import FRAGMENTS, windows_of
from rayseg.tiling.levels import LargeObjects
from rayseg.tiling.objects import SCENE_OBJECTS
from rayseg.tiling.stitch import Part, SeamStats, Stitcher

STRIPS = "strips"
"""Folder below tiles/ for what is handed from strips to their scene; emptied when the scene is committed."""

_STRIP_TILES = 1024
_GROUP_KEY, _STATS_KEY = "group", b"rayseg"


@dataclass(frozen=True)
class Strip:
    """Some rows of tiles of one scene. `name` changes with whatever its result depends on."""

    first_row: int
    stop_row: int
    name: str


@dataclass(frozen=True)
class Stitching:
    """All that stitching one scene needs.

    Attributes:
        tiles: store of the job's tiles.
        rows: its planned tiles.
        survey: what became of them.
        committed: the commits that may hold them.
        labels: name of each class.
        simplify_px: of outlines.
        made_by: model and version, for the footer of objects files.
    """

    tiles: Store
    record: SceneRecord
    rows: TileRows
    survey: Survey
    committed: Committed
    labels: tuple[str, ...]
    simplify_px: float
    scratch: Path
    large: LargeObjects = field(default_factory=LargeObjects)
    made_by: str = ""

    @property
    def stitcher(self) -> Stitcher:
        return Stitcher(self.record.grid, absent=self.survey.absent)


def strips_of(work: Stitching) -> list[Strip]:
    """The strips of a scene; one that is the whole scene where it is small."""
    grid = work.record.grid
    n = max(1, _STRIP_TILES // len(grid.columns))
    edges = [*range(0, len(grid.rows), n), len(grid.rows)]
    return [_strip(work, first, stop) for first, stop in pairwise(edges)]


def find_large(work: Stitching) -> LargeObjects:
    """What only the second, coarser look can have seen whole: objects longer than a tile."""
    record = work.record
    if record.coarse_grid is None or not work.rows.coarse.any():
        return LargeObjects()
    found = _fragments(work, work.rows.coarse)
    absent = frozenset(work.survey.failed_coarse) | _unplanned(len(record.coarse_grid), work.rows.tile[work.rows.coarse])
    objects = Stitcher(record.coarse_grid, absent=absent).scene(found).finished
    return LargeObjects.longer_than(objects, record.tile_px)


def stitch_strip(work: Stitching, strip: Strip) -> None:
    """Do one strip, unless that was done already; what it leaves are two files."""
    if work.tiles.exists(_open_name(strip)):
        return
    path = work.scratch / f"{strip.name}.parquet"
    with ObjectFile(path, work) as sink:
        part = _run_rows(work, strip, sink)
    work.tiles.put_file(_objects_name(strip), path)
    stats = replace(part.stats)
    table = part.open.append_column(_GROUP_KEY, pa.array(part.group, pa.int64()))
    note = {_STATS_KEY: json.dumps(stats.__dict__).encode()}
    sink_bytes = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(note), sink_bytes, compression="zstd")
    work.tiles.write(_open_name(strip), sink_bytes.getvalue().to_pybytes())


def join_strips(work: Stitching, strips: list[Strip], path: Path) -> tuple[int, SeamStats]:
    """Write the objects of a whole scene to a local GeoParquet file.

    Returns:
        How many there are, and what happened at the seams.
    """
    stitcher, carried, stats = work.stitcher, None, SeamStats()
    with ObjectFile(path, work) as sink:
        sink.add(work.large.objects)
        stats += SeamStats(objects=work.large.objects.num_rows)
        for strip in strips:
            if len(strips) == 1:
                stats += _run_rows(work, strip, sink).stats
                break
            stitch_strip(work, strip)
            sink.copy(work.tiles, _objects_name(strip))
            part = _read_open(work, strip)
            stats += part.stats
            if carried is not None:
                clean = replace(part, stats=SeamStats())
                part = stitcher.join(replace(carried, finished=SCENE_OBJECTS.empty_table(), stats=SeamStats()), clean)
                sink.add(work.large.without_parts(part.finished))
                stats += part.stats
            carried = part
    return sink.rows, replace(stats, objects=sink.rows)


def sweep_strips(work: Stitching, strips: list[Strip]) -> None:
    """Delete what strips left, once their scene is committed."""
    for strip in strips if len(strips) > 1 else ():
        for name in (_open_name(strip), _objects_name(strip)):
            work.tiles.delete(name)


class ObjectFile:
    """A GeoParquet file that stitched objects are added to: filtered, sorted in space some ten thousand at a time, numbered."""

    def __init__(self, path: Path, work: Stitching) -> None:
        record = work.record
        self.rows = 0
        self._work = work
        self._placing = Placing.of(record.opened.ground)
        self._ref = SceneRef(record.uri, record.unit_id, record.uri)
        self._waiting: list[pa.Table] = []
        self._file = GeoParquetFile(path, self._placing.crs, metadata={"rayseg": work.made_by})

    def add(self, found: pa.Table) -> None:
        """Take stitched objects, those that are wanted of them."""
        found = self._wanted(found)
        self._waiting.append(found)
        if sum(table.num_rows for table in self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def copy(self, store: Store, name: str) -> None:
        """Take rows of another such file."""
        self._flush()
        with pa.BufferReader(store.read(name)) as source:
            for batch in pq.ParquetFile(source).iter_batches(ROWS_PER_GROUP):
                table = pa.Table.from_batches([batch])
                at = table.schema.get_field_index("object_id")
                table = table.set_column(
                    at, table.schema.field(at), pa.array(range(self.rows, self.rows + len(table)), pa.int32())
                )
                self._file.write(with_geo_metadata(table.replace_schema_metadata(None), self._placing.crs))
                self.rows += len(table)

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
        except BaseException as late:
            self._file.__exit__(type(late), late, late.__traceback__)
            raise
        self._file.__exit__(kind, error, trace)

    def _wanted(self, found: pa.Table) -> pa.Table:
        if self._work.record.aoi is None or not found.num_rows:
            return found
        return found.filter(pa.array(touching(self._work.record, found)))

    def _flush(self) -> None:
        if not (found := pa.concat_tables([SCENE_OBJECTS.empty_table(), *self._waiting])).num_rows:
            return
        self._waiting = []
        found = found.take(pa.array(spatial_order(found)))
        table = scene_objects_table(
            self._ref,
            found,
            self._work.labels,
            crs=self._placing.crs,
            pixel_to_ground=self._placing.pixel_to_ground,
            longest_edge_px=self._placing.longest_edge_px,
            simplify_px=self._work.simplify_px,
            first_id=self.rows,
        )
        self._file.write(table)
        self.rows += table.num_rows


def touching(record: SceneRecord, found: pa.Table) -> np.ndarray:
    """Which objects have a pixel in the polygons asked for, bool (n,). Those are kept whole, as far as tiles saw them."""
    aoi = record.aoi
    assert aoi is not None
    windows = [Window(*row) for row in windows_of(found).tolist()]
    out = np.array(aoi.wanted(windows), dtype=bool)
    counts = found["rle_counts"]
    for i in np.flatnonzero(out).tolist():
        wanted = aoi.mask(windows[i])
        if not wanted.all():
            mask = decode_mask(Rle(Size(windows[i].height, windows[i].width), counts[i].as_py().encode("ascii")))
            out[i] = bool((mask & wanted).any())
    return out


def _run_rows(work: Stitching, strip: Strip, sink: ObjectFile) -> Part:
    """Row after row of a strip; the last part, with what is open and the sums of all."""
    stitcher, stats, carried = work.stitcher, SeamStats(), None
    for row, table in _rows(work, strip):
        part = stitcher.part(table, row, row + 1)
        if carried is not None:
            part = stitcher.join(replace(carried, finished=SCENE_OBJECTS.empty_table(), stats=SeamStats()), part)
        stats += part.stats
        sink.add(work.large.without_parts(part.finished))
        carried = part
    assert carried is not None
    return replace(carried, stats=stats)


def _rows(work: Stitching, strip: Strip) -> Iterator[tuple[int, pa.Table]]:
    """The fragments of each row of tiles."""
    row_of = work.rows.tile // len(work.record.grid.columns)
    for row in range(strip.first_row, strip.stop_row):
        yield row, _fragments(work, ~work.rows.coarse & (row_of == row))


def _fragments(work: Stitching, wanted: np.ndarray) -> pa.Table:
    found = found_in(work.tiles, work.rows, work.committed, wanted=wanted, columns=FRAGMENTS.names)
    return pa.table([c.combine_chunks() for c in found.columns], schema=FRAGMENTS) if found.num_rows else FRAGMENTS.empty_table()


def _read_open(work: Stitching, strip: Strip) -> Part:
    table = pq.read_table(pa.BufferReader(work.tiles.read(_open_name(strip))))
    stats = SeamStats(**json.loads(table.schema.metadata[_STATS_KEY]))
    fragments = table.select(FRAGMENTS.names).replace_schema_metadata(None).cast(FRAGMENTS)
    none = SCENE_OBJECTS.empty_table()
    return Part(strip.first_row, strip.stop_row, none, fragments, table[_GROUP_KEY].to_numpy(), stats)


def _strip(work: Stitching, first: int, stop: int) -> Strip:
    columns = len(work.record.grid.columns)
    row_of = work.rows.tile // columns
    names = work.rows.committed(~work.rows.coarse & (row_of >= first) & (row_of < stop), work.committed)
    absent = [tile for tile in sorted(work.survey.absent) if first - 1 <= tile // columns <= stop]
    words = json.dumps([first, stop, sorted(names), absent, sorted(work.large.key), work.simplify_px])
    digest = hashlib.blake2b(words.encode(), digest_size=8).hexdigest()
    return Strip(first, stop, f"{work.record.unit_id & (2**64 - 1):016x}-{first:06d}-{digest}")


def _unplanned(n_tiles: int, planned: np.ndarray) -> frozenset[int]:
    return frozenset(np.setdiff1d(np.arange(n_tiles), planned).tolist())


def _objects_name(strip: Strip) -> str:
    return f"{STRIPS}/{strip.name}.objects.parquet"


def _open_name(strip: Strip) -> str:
    return f"{STRIPS}/{strip.name}.open.parquet"
