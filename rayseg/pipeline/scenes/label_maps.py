"""The label map of a scene from those of its tiles, as a GeoTIFF written from the top; and its class regions, if asked for.

Tiles are read row by row of the grid and only then, so memory is that of one row of tiles, and of the regions that are open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import pyarrow as pa

from rayseg.config.scenes import SceneSettings
from rayseg.errors import ConfigError
from rayseg.geo.cog import write_label_cog
from rayseg.pipeline.scenes.collect import found_in
from rayseg.pipeline.scenes.instances import ObjectFile, Stitching
from rayseg.pipeline.stages import label_map_name
from rayseg.pipeline.storage import Store
from rayseg.tables import Unit
from rayseg.tiling.labels import Band, blended_bands, centre_bands, void_of
from rayseg.tiling.regions import class_regions
from rayseg.tiling.stitch import SeamStats
from rayseg.tiling.tile_labels import TILE_LABELS, read_labels, read_probabilities


def region_classes(regions: str | None, labels: Iterable[str]) -> frozenset[int]:
    """Classes whose regions are wanted.

    Raises:
        ConfigError: a name that no class has.
    """
    known = {name: number for number, name in enumerate(labels)}
    if regions is None:
        return frozenset()
    if regions.strip() == "all":
        return frozenset(known.values())
    names = [name.strip() for name in regions.split(",") if name.strip()]
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise ConfigError(f"regions {', '.join(wrong) or regions!r}: no such class; the model has {', '.join(known)}, or say all")
    return frozenset(known[name] for name in names)


def write_label_map(work: Stitching, store: Store, settings: SceneSettings, *, blend: bool) -> tuple[SeamStats, str]:
    """Write the label map to the job's output, and objects.parquet with the regions to the scratch folder.

    Returns:
        Counts, and the name of the map below the output.
    """
    wanted = region_classes(settings.regions, work.labels)
    name = label_map_name(Unit(work.record.uri), suffix=".tif")
    path, scene, void = work.scratch / "labels.tif", work.record.opened, void_of(len(work.labels))
    with ObjectFile(work.scratch / "objects.parquet", work) as sink:
        bands = _bands(work, void, blend=blend)
        if wanted:
            bands = _with_regions(bands, sink, skip={void} | (set(range(len(work.labels))) - wanted))
        write_label_cog(path, bands, size=scene.size, ground=scene.ground, void=void, labels=work.labels, scratch=work.scratch)
    beside = path.with_name(f"{path.name}.aux.xml")  # for a reference system that GeoTIFF has no words for
    if beside.exists():
        store.put_file(f"{name}.aux.xml", beside)
    store.put_file(name, path)
    return SeamStats(fragments=len(work.rows.tile), objects=sink.rows), name


def _bands(work: Stitching, void: int, *, blend: bool) -> Iterator[Band]:
    grid, n_classes = work.record.grid, len(work.labels)
    if blend:
        shares = (None if row is None else read_probabilities(row, grid, n_classes) for row in _tiles(work))
        return blended_bands(grid, shares, n_classes=n_classes, void=void)
    return centre_bands(grid, (None if row is None else read_labels(row, grid) for row in _tiles(work)), void=void)


def _tiles(work: Stitching) -> Iterator[pa.Table | None]:
    """The stored row of each tile in the order of the grid; None for one that nobody looked at, or that holds no data."""
    grid = work.record.grid
    row_of = work.rows.tile // len(grid.columns)
    for row in range(len(grid.rows)):
        wanted = ~work.rows.coarse & (row_of == row)
        found = found_in(work.tiles, work.rows, work.committed, wanted=wanted, columns=TILE_LABELS.names)
        place = {tile: i for i, tile in enumerate(found["tile"].to_pylist())} if found.num_rows else {}
        for tile in range(row * len(grid.columns), (row + 1) * len(grid.columns)):
            yield found.slice(place[tile], 1) if tile in place else None


def _with_regions(bands: Iterable[Band], sink: ObjectFile, *, skip: set[int]) -> Iterator[Band]:
    """The same bands; on the way, the regions they finish go to the sink."""
    waiting: deque[Band] = deque()
    regions: Iterator[pa.Table] | None = None
    for band in bands:
        waiting.append(band)
        if regions is None:
            regions = class_regions(_Feed(waiting), skip=skip)
        sink.add(next(regions))
        yield band
    for table in regions or ():
        sink.add(table)


class _Feed:
    """Iterates over what is put into a queue meanwhile; ends when it is asked for more than there is."""

    def __init__(self, waiting: deque[Band]) -> None:
        self._waiting = waiting

    def __iter__(self) -> Iterator[Band]:
        return self

    def __next__(self) -> Band:
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft()
