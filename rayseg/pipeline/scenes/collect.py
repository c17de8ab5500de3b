"""The tiles of one scene as the job of its tiles left them: which are there, failed or empty, and what was found in them.

A scene's tiles are rows of the plan, in order, and rows of the plan fall into chunks; so the files that hold some rows of tiles
follow from their numbers, and only those are read.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayseg.pipeline import ledger
from rayseg.pipeline.plan import SHARD_UNITS, Plan, cuts, read_shard
from rayseg.pipeline.scenes.records import SceneRecord
from rayseg.pipeline.scenes.tiles import NO_DATA
from rayseg.pipeline.storage import Store
from rayseg.tables import FAILED

_SEEN = pa.schema([("unit_id", pa.int64()), ("status", pa.string()), ("reason", pa.string())])

Committed = Mapping[str, Sequence[str]]
"""The commits of a job of tiles: names of chunks by shard."""


@dataclass(frozen=True, eq=False)
class TileRows:
    """The planned tiles of a scene.

    Attributes:
        unit_ids: int64 (n,), in the order of the plan.
        tile: int64 (n,), number in the grid, or in the coarse grid.
        coarse: bool (n,).
        files: int64 (n,), which of `names` holds the tile.
        names: (shard, number of the chunk) that hold them.
    """

    unit_ids: np.ndarray
    tile: np.ndarray
    coarse: np.ndarray
    files: np.ndarray
    names: tuple[tuple[str, int], ...]

    def committed(self, rows: np.ndarray, committed: Committed) -> list[str]:
        """The commits that hold some of the tiles.

        Args:
            rows: bool (n,).
        """
        wanted = {self.names[i] for i in np.unique(self.files[rows]).tolist()}
        shards = {shard for shard, _ in wanted}
        return [name for shard in sorted(shards) for name in committed.get(shard, ()) if _chunk(name) in wanted]


@dataclass(frozen=True)
class Survey:
    """What became of a scene's tiles.

    Attributes:
        failed: numbers of tiles of the grid that could not be predicted; failed_coarse the same of the coarse grid.
        unasked: tiles of the grid that were not planned.
        empty: how many held no valid pixel.
        missing: planned tiles without a row in the ledger.
        reasons: the commonest reasons of failure and how often each.
    """

    failed: tuple[int, ...] = ()
    failed_coarse: tuple[int, ...] = ()
    unasked: tuple[int, ...] = ()
    empty: int = 0
    missing: int = 0
    reasons: tuple[tuple[str, int], ...] = ()

    @property
    def absent(self) -> frozenset[int]:
        """Tiles of the grid that nobody looked at."""
        return frozenset(self.failed) | frozenset(self.unasked)


def planned_tiles(tiles: Store, plan: Plan, record: SceneRecord) -> TileRows:
    """Find a scene's tiles in the plan.

    Raises:
        OutputError: the plan's files are gone.
    """
    ids, windows, files, names = [], [], [], list[tuple[str, int]]()
    first, last = record.start // SHARD_UNITS, (record.start + max(1, record.tiles) - 1) // SHARD_UNITS
    for number in range(first, last + 1) if record.tiles else ():
        shard = f"{record.batch}-{number:05d}"
        table = read_shard(tiles, shard)
        offset = number * SHARD_UNITS
        start, stop = max(record.start - offset, 0), min(record.start + record.tiles - offset, table.num_rows)
        place = np.empty(table.num_rows, dtype=np.int64)
        for chunk, (a, b) in enumerate(cuts(table, plan)):
            place[a:b] = len(names)
            names.append((shard, chunk))
        mine = table.slice(start, stop - start)
        ids.append(mine["unit_id"].to_numpy())
        files.append(place[start:stop])
        windows.append(np.stack([pc.struct_field(mine["window"], [n]).to_numpy() for n in ("x0", "y0", "x1", "y1")], axis=1))
    none = np.empty(0, dtype=np.int64)
    window = np.concatenate([none.reshape(0, 4), *windows])
    tile, coarse = _numbers(record, window) if len(window) else (none, none.astype(bool))
    return TileRows(np.concatenate([none, *ids]), tile, coarse, np.concatenate([none, *files]), tuple(names))


def survey(tiles: Store, record: SceneRecord, rows: TileRows, committed: Committed) -> Survey:
    """Read a scene's part of the ledger of tiles."""
    names = rows.committed(np.ones(len(rows.tile), dtype=bool), committed)
    tables = [ledger.read_ledger(tiles, name, columns=_SEEN.names) for name in names]
    table = pa.concat_tables([_SEEN.empty_table(), *(t.cast(_SEEN) for t in tables)])
    table = table.filter(pc.is_in(table["unit_id"], pa.array(rows.unit_ids)))
    bad = table.filter(pc.equal(table["status"], FAILED))
    failed = np.isin(rows.unit_ids, bad["unit_id"].to_numpy())
    texts, times = np.unique(np.asarray(bad["reason"].fill_null("").to_pylist(), dtype=object), return_counts=True)
    counts = sorted(zip(texts.tolist(), times.tolist(), strict=True), key=lambda count: -count[1])
    return Survey(
        failed=tuple(rows.tile[failed & ~rows.coarse].tolist()),
        failed_coarse=tuple(rows.tile[failed & rows.coarse].tolist()),
        unasked=tuple(np.setdiff1d(np.arange(len(record.grid)), rows.tile[~rows.coarse]).tolist()),
        empty=pc.sum(pc.equal(table["reason"], NO_DATA)).as_py() or 0,
        missing=len(rows.tile) - table.num_rows,
        reasons=tuple((str(reason), int(n)) for reason, n in counts[:3]),
    )


def found_in(tiles: Store, rows: TileRows, committed: Committed, *, wanted: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """What was found in some of a scene's tiles.

    Args:
        wanted: bool (n,), which rows of `rows`.
        columns: of tiles/objects.
    """
    names = rows.committed(wanted, committed)
    ids = pa.array(rows.unit_ids[wanted])
    parts = []
    for name in names:
        table = pq.read_table(io.BytesIO(tiles.read(f"objects/{name}.parquet")), columns=["unit_id", *columns])
        parts.append(table.filter(pc.is_in(table["unit_id"], ids)).drop_columns("unit_id"))
    return pa.concat_tables(parts) if parts else pa.table({})


def _numbers(record: SceneRecord, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tile numbers of windows (n, 4), and which of them are of the coarse grid."""
    size = np.stack([windows[:, 3] - windows[:, 1], windows[:, 2] - windows[:, 0]], axis=1)
    fine = (size == np.asarray(record.grid.tile_size.hw)).all(axis=1)
    tile = np.empty(len(windows), dtype=np.int64)
    for grid, which in ((record.grid, fine), (record.coarse_grid, ~fine)):
        if grid is not None and which.any():
            row = np.searchsorted(grid.rows.starts, windows[which, 1])
            tile[which] = row * len(grid.columns) + np.searchsorted(grid.columns.starts, windows[which, 0])
    return tile, ~fine


def _chunk(name: str) -> tuple[str, int]:
    batch, shard, number, _ = name.split("-")
    return f"{batch}-{shard}", int(number)
