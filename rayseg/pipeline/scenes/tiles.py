"""What is done to tiles before and after the network: read from their scene by windows, and turned into fragments.

A tile without valid pixels passes with nothing found, and with the reason in its ledger row. One that cannot be read fails and
costs its neighbours nothing. Tiles are padded to full size with black on the right and below, so that a small scene, too,
is seen at the scale the model is used to; nothing found on padding or on pixels without data is kept.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import cv2
import numpy as np
import pyarrow as pa

from rayseg.errors import ImageError, RaysegError, SourceError
from rayseg.geo import gdal
from rayseg.geo.raster import pad, read_window
from rayseg.geo.reads import Read, plan_reads, read_tiles
from rayseg.geo.scaling import Scaling
from rayseg.geo.scene import Part, Scene
from rayseg.geometry import Size, Window
from rayseg.pipeline import ledger
from rayseg.pipeline.parcel import pack
from rayseg.pipeline.scenes.records import SceneRecord, records_of_chunk
from rayseg.pipeline.stages import Context, Work, ledger_row, only, stats, tell, timed
from rayseg.pipeline.storage import Store
from rayseg.predict.families import finish
from rayseg.predict.families.label_map import probabilities
from rayseg.predict.prepare import prepare
from rayseg.results import Instances, SemanticMap
from rayseg.tables import Unit
from rayseg.tiling.fragments import FRAGMENTS, fragments_of
from rayseg.tiling.grid import Grid
from rayseg.tiling.labels import void_of
from rayseg.tiling.tile_labels import TILE_LABELS, tile_labels_table

NO_DATA = "no valid pixel"

_KEYS = [pa.field("unit_id", pa.int64(), nullable=False), pa.field("object_id", pa.int32(), nullable=False)]
TILE_FRAGMENTS = pa.schema([*_KEYS, pa.field("coarse", pa.bool_(), nullable=False), *FRAGMENTS])
"""What an instance model found in tiles: tiles/objects/ of its jobs."""
TILE_MAPS = pa.schema([*_KEYS, *TILE_LABELS])
"""What a semantic model said of tiles: one row a tile."""


@dataclass(frozen=True)
class SceneContext(Context):
    """What the stages of a job of scenes need to know; `store` is that of its tiles.

    Attributes:
        root: the job's own output.
        token: tells this job from one that had the folder before.
        scaling: stored values to 8 bits.
        blend: label maps are blended, so that probabilities are kept.
    """

    root: Store
    token: str
    scaling: Scaling
    blend: bool


@dataclass(frozen=True)
class Place:
    """Where a unit lies in its scene."""

    grid: Grid
    index: int
    factor: int

    @classmethod
    def of(cls, record: SceneRecord, window: Window) -> Place:
        """The tile that a window is."""
        coarse = record.coarse_grid
        for grid, factor in ((record.grid, 1), (coarse, record.coarse or 1)):
            if grid is not None and (window.height, window.width) == grid.tile_size.hw:
                row, column = (
                    int(np.searchsorted(grid.rows.starts, window.y0)),
                    int(np.searchsorted(grid.columns.starts, window.x0)),
                )
                return cls(grid, row * len(grid.columns) + column, factor)
        raise SourceError(f"{record.uri}: the plan has a tile {window} that its grid does not have; start anew in another folder")


def fetch_tiles(table: pa.Table, context: SceneContext) -> pa.Table:
    """Parcel of a chunk's units -> parcel of Work with prepared pixels."""
    name, units = only(table)
    records = records_of_chunk(context.root, name, token=context.token)
    done: list[Work] = []
    for uri, group in groupby(units, key=lambda unit: unit.uri):
        done += _fetch_scene(list(group), records[uri], context)
    tell(context, "decode", done)
    return pack(name, done)


def encode_tiles(table: pa.Table, context: SceneContext) -> pa.Table:
    """Parcel of Work with raw outputs -> one row of STATS; the chunk's two files are on disk when this returns."""
    name, work = only(table)
    records = records_of_chunk(context.root, name, token=context.token)
    rows, parts, done = [], [], []
    for item in work:
        item, found = _encode(item, records[item.unit.uri], context)
        rows.append(ledger_row(item, 0 if found is None else found.num_rows))
        done.append(item)
        parts += [] if found is None else [found]
    schema = TILE_FRAGMENTS if context.spec.task == "instance" else TILE_MAPS
    objects = pa.concat_tables([schema.empty_table(), *parts])
    ledger.commit(context.store, name, rows, objects)
    tell(context, "encode", done, objects=objects.num_rows)
    return stats(name, rows, objects.num_rows)


def _fetch_scene(units: Sequence[Unit], record: SceneRecord, context: SceneContext) -> list[Work]:
    scene, bands = record.opened, record.bands
    assert bands is not None
    done = [Work(unit, width=_window(unit).width, height=_window(unit).height) for unit in units]
    windows = [_window(unit) for unit in units]
    if why := _replaced(scene, windows):
        return [work.fail("fetch", why) for work in done]
    for read in plan_reads(scene, windows, bands):
        for i, pixels, seconds in _read(read, windows, record, context):
            done[i] = _ready(replace(done[i], seconds={"fetch": seconds}), pixels, record, context)
    return done


Pixels = tuple[np.ndarray, np.ndarray] | RaysegError


def _read(
    read: Read, windows: Sequence[Window], record: SceneRecord, context: SceneContext
) -> Iterator[tuple[int, Pixels, float]]:
    """Each tile of a read with its pixels, or why there are none, and the seconds that fall to it."""
    scene, bands, storage = record.opened, record.bands, context.settings.source_options
    assert bands is not None
    start = time.perf_counter()
    try:
        found = list(read_tiles(scene, read, windows, bands=bands, scaling=context.scaling, storage=storage))
    except (ImageError, SourceError, MemoryError) as error:
        if len(read.tiles) == 1:
            why = error if isinstance(error, RaysegError) else SourceError(f"{scene.uri}: no memory to read {read.window}")
            yield read.tiles[0], why, time.perf_counter() - start
            return
        found = None
    each = (time.perf_counter() - start) / len(read.tiles)
    if found is not None:
        yield from ((i, (rgb, valid), each) for i, rgb, valid in found)
        return
    for i in read.tiles:  # a damaged block costs those tiles that lie on it
        start = time.perf_counter()
        try:
            pixels: Pixels = read_window(scene, windows[i], bands=bands, scaling=context.scaling, storage=storage)
        except (ImageError, SourceError) as error:
            pixels = error
        yield i, pixels, time.perf_counter() - start


def _ready(work: Work, pixels: Pixels, record: SceneRecord, context: SceneContext) -> Work:
    if isinstance(pixels, RaysegError):
        return work.fail("fetch" if isinstance(pixels, SourceError) else "decode", pixels)
    rgb, valid = pixels
    if context.spec.task == "semantic" and record.aoi is not None:
        valid = valid & record.aoi.mask(_window(work.unit))
    if not valid.any():
        return replace(work, reason=NO_DATA)
    if not valid.all():
        work = replace(work, valid=np.packbits(valid, axis=1))
    with timed(work, "prepare") as work:
        try:
            factor = Place.of(record, _window(work.unit)).factor
            return replace(work, content=prepare(context.spec, _to_tile(rgb, valid, record.tile_px, factor)))
        except (RaysegError, cv2.error, MemoryError, ValueError) as error:
            return work.fail("prepare", error)


def _to_tile(rgb: np.ndarray, valid: np.ndarray, tile_px: int, factor: int) -> np.ndarray:
    """Pixels as the network sees them: made coarser by the mean of each factor x factor, and padded."""
    if factor > 1:
        height, width = (-(-side // factor) * factor for side in valid.shape)
        rgb, valid = pad(rgb, valid, Size(height, width))
        rgb = cv2.resize(rgb, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
        valid = np.ones(rgb.shape[:2], dtype=bool)
    return pad(rgb, valid, Size(max(tile_px, rgb.shape[0]), max(tile_px, rgb.shape[1])))[0]


def _encode(work: Work, record: SceneRecord, context: SceneContext) -> tuple[Work, pa.Table | None]:
    if work.content is None:
        return work, None
    with timed(work, "encode") as work:
        try:
            place = Place.of(record, _window(work.unit))
            valid = _valid(work)
            if context.spec.task == "instance":
                found = finish(context.spec, work.content, threshold=context.settings.threshold)
                assert isinstance(found, Instances)
                rows = fragments_of(place.grid.tile(place.index), found, factor=place.factor, valid=valid)
                rows = rows.add_column(0, "coarse", pa.array([place.factor > 1] * rows.num_rows, pa.bool_()))
                schema = TILE_FRAGMENTS
            else:
                rows, schema = _labels(work, place, valid, context), TILE_MAPS
        except (RaysegError, ValueError, MemoryError) as error:
            return work.fail("encode", error), None
    keys = [pa.array([work.unit.unit_id] * rows.num_rows, pa.int64()), pa.array(range(rows.num_rows), pa.int32())]
    return work, pa.table([*keys, *rows.columns], schema=schema)


def _labels(work: Work, place: Place, valid: np.ndarray | None, context: SceneContext) -> pa.Table:
    void = void_of(len(context.spec.labels))
    if context.blend:
        shares = probabilities(context.spec, work.content)
        return tile_labels_table(place.grid, place.index, probabilities=shares, valid=valid, void=void)
    found = finish(context.spec, work.content)
    assert isinstance(found, SemanticMap)
    return tile_labels_table(place.grid, place.index, found.labels, valid=valid, void=void)


def _valid(work: Work) -> np.ndarray | None:
    if work.valid is None:
        return None
    window = _window(work.unit)
    return np.unpackbits(work.valid, axis=1, count=window.width).astype(bool)


def _replaced(scene: Scene, windows: Sequence[Window]) -> str | None:
    """Why the files that some tiles lie on are others than the planned ones, for local files."""
    edges = np.asarray([(w.x0, w.y0, w.x1, w.y1) for w in windows])
    around = Window(*edges[:, :2].min(axis=0).tolist(), *edges[:, 2:].max(axis=0).tolist())
    for part in scene.parts_in(around):
        try:
            now = ":".join(str(v) for v in gdal.version(part.uri))
        except SourceError as error:
            return str(error)
        if now != part.version:
            return f"{part.uri}: was replaced since the job was planned; start anew in another folder{_as_it_was(part, now)}"
    return None


def _as_it_was(part: Part, now: str) -> str:
    """What helps where a file was copied anew, or mended in place: its size is the same, the time of its change is not."""
    (changed, size), (_, size_now) = part.version.split(":"), now.split(":")
    if size != size_now:
        return ""
    seconds, ns = divmod(int(changed), 10**9)
    return (
        ". If its pixels are those it was planned with but for damage, give it its time back and retry: "
        f"touch -d @{seconds}.{ns:09d} {shlex.quote(gdal.local_path(part.uri))}"
    )


def _window(unit: Unit) -> Window:
    assert unit.window is not None, f"unit {unit.unit_id} of a job of scenes has no window"
    return unit.window
