"""Planning scenes: which files are scenes, what each is, and the tiles it is cut into; in tasks, some scenes at a time.

A scene that cannot be opened is recorded with the reason and costs nobody else anything. Tiles that lie wholly outside the
polygons asked for are not planned. Tiles without valid pixels are: only reading them tells, and that is done once, later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rayseg.config.scenes import SceneSettings
from rayseg.errors import ConfigError, ImageError, RaysegError, SourceError
from rayseg.geo.aoi import Aoi
from rayseg.geo.bands import Bands, choose_bands
from rayseg.geo.gdal import close_all
from rayseg.geo.mosaic import open_mosaic
from rayseg.geo.raster import open_scene
from rayseg.geo.reads import reading_cost
from rayseg.geo.sampling import decide_scaling
from rayseg.geo.scaling import Scaling
from rayseg.geo.scene import Scene
from rayseg.geometry import Window
from rayseg.pipeline.plan import Shard, write_units
from rayseg.pipeline.scenes.records import SceneRecord, read_batch, write_batch
from rayseg.pipeline.sources import Source, expand, read_manifest
from rayseg.pipeline.storage import Store
from rayseg.tables import Unit
from rayseg.tiling.grid import Grid

log = logging.getLogger(__name__)

SIDECARS = (
    *(".aux", ".aux.xml", ".ovr", ".msk", ".prj", ".rpb", ".imd", ".hdr", ".xml", ".lock"),
    *(".tfw", ".tifw", ".tiffw", ".jgw", ".jpgw", ".jpegw", ".pgw", ".pngw", ".gfw", ".bpw", ".bmpw", ".wld"),
)
"""Files that lie beside rasters and belong to them; never scenes themselves."""

BATCH_SCENES = 64
_LIST_UNITS = 50_000
_COST_TILES = 4096
_SAMPLED_SCENES = 4096


@dataclass(frozen=True)
class Cutting:
    """How the scenes of a job are looked at and cut; the same for all.

    Attributes:
        settings: of the job.
        tile_px, overlap_px: in force.
        aoi: what is wanted; None for all.
        storage: fsspec options of the source.
    """

    settings: SceneSettings
    tile_px: int
    overlap_px: int
    aoi: Aoi | None
    storage: dict[str, Any]


def list_scenes(source: Source) -> list[Unit]:
    """The files of a source that may be rasters, each once, in order.

    Raises:
        SourceError: there is none.
    """
    source = replace(source, pages=False)
    found: dict[str, Unit] = {}
    for units in _listed(source):
        found.update((unit.uri, unit) for unit in units if not unit.uri.lower().endswith(SIDECARS))
    if not found:
        raise SourceError(f"{', '.join(source.roots)}: no raster there (hidden files and sidecars such as .tfw do not count)")
    return [found[uri] for uri in sorted(found)]


def plan_batch(store: Store, tiles: Store, batch: int, units: Sequence[Unit], cutting: Cutting) -> tuple[list[Shard], int]:
    """Look at some scenes, cut them, and write down both.

    Returns:
        Shards of their tiles, and how many scenes failed.
    """
    name = f"{batch:06d}"
    records, planned = [], list[Unit]()
    try:
        for unit in units:
            record, windows = _plan_scene(unit, name, len(planned), cutting, lambda uri: open_scene(uri, storage=cutting.storage))
            records.append(record)
            planned += windows
    finally:
        close_all()
    return _write(store, tiles, name, records, planned)


def plan_mosaic(store: Store, tiles: Store, unit: Unit, uris: Sequence[str], cutting: Cutting) -> tuple[list[Shard], int]:
    """The same for one scene of many files.

    Raises:
        RaysegError: at least one cannot be opened or does not fit; a mosaic with a hole nobody asked for is not made.
    """
    scene = open_mosaic(uris, name=unit.uri, storage=cutting.storage)
    record, windows = _plan_scene(unit, "000000", 0, cutting, lambda _: scene)
    if record.reason:
        raise ConfigError(record.reason)
    return _write(store, tiles, "000000", [record], windows)


def find_scaling(store: Store, batches: Sequence[str], scale: str | None, storage: dict[str, Any], *, seed: int = 0) -> Scaling:
    """The job's scaling, from its recorded scenes; of very many, from a part drawn by chance.

    Raises:
        ConfigError: `scale` says nothing that fits them.
    """
    names = list(batches)
    np.random.default_rng(seed).shuffle(names)
    found: list[tuple[Scene, Bands]] = []
    for name in names:
        found += [(r.scene, r.bands) for r in read_batch(store, name) if r.scene is not None and r.bands is not None]
        if len(found) >= _SAMPLED_SCENES:
            break
    if not found:
        return Scaling((0.0,) * 3, (255.0,) * 3, "no scene could be opened")
    try:
        return decide_scaling(scale, found, seed=seed, storage=storage)
    finally:
        close_all()


def tiles_of(record: SceneRecord) -> Iterator[Window]:
    """The windows of a scene's tiles that are to be predicted: those of the grid in order, then those of the coarse grid."""
    for grid in (record.grid, record.coarse_grid):
        if grid is not None:
            yield from _wanted(record, grid)


def _plan_scene(unit: Unit, batch: str, start: int, cutting: Cutting, opened: Any) -> tuple[SceneRecord, list[Unit]]:
    stage = "fetch"
    try:
        scene = opened(unit.uri)
        stage = "decode"
        bands = choose_bands(scene, cutting.settings.bands)
        aoi = None if cutting.aoi is None else cutting.aoi.on(scene)
    except SourceError as error:
        return SceneRecord(unit.uri, "fetch", str(error)[:1000]), []
    except (RaysegError, ImageError) as error:
        return SceneRecord(unit.uri, "decode" if stage == "fetch" else "prepare", str(error)[:1000]), []
    record = SceneRecord(
        uri=unit.uri,
        scene=scene,
        bands=bands,
        tile_px=cutting.tile_px,
        overlap_px=cutting.overlap_px,
        coarse=cutting.settings.coarse,
        aoi_wkb=None if aoi is None else aoi.wkb,
        batch=batch,
        start=start,
    )
    windows = list(tiles_of(record))
    reading = str(reading_cost(scene, windows[:_COST_TILES], bands)) if windows else "nothing to read"
    units = [Unit(unit.uri, 0, w.width * w.height * 3, scene.version or unit.version, w) for w in windows]
    return replace(record, tiles=len(windows), reading=reading), units


def _wanted(record: SceneRecord, grid: Grid) -> Iterator[Window]:
    if record.aoi is None:
        yield from (tile.window for tile in grid)
        return
    for row in range(len(grid.rows)):
        windows = [tile.window for tile in grid.row(row)]
        yield from (w for w, wanted in zip(windows, record.aoi.wanted(windows).tolist(), strict=True) if wanted)


def _write(store: Store, tiles: Store, name: str, records: list[SceneRecord], planned: list[Unit]) -> tuple[list[Shard], int]:
    write_batch(store, name, records)
    shards = write_units(tiles, planned, group=int(name))
    return shards, sum(record.reason is not None for record in records)


def _listed(source: Source) -> Iterator[list[Unit]]:
    if source.kind == "manifest":
        yield from read_manifest(source)
        return
    waiting = list(source.roots)
    while waiting:
        found = expand(source, waiting, max_units=_LIST_UNITS)
        yield found.units
        waiting = found.folders


def mosaic_name(source: str) -> str:
    """What a mosaic is called in the tables: the source as it was named."""
    return source if "://" in source else os.path.abspath(source)
