"""What a job knows of each of its scenes, written when it is planned and read by every stage: OUT/scenes/<batch>.parquet.

A batch is some scenes that were looked at together; its name begins the names of the shards that hold their tiles, so a stage
that has a chunk finds what it must know of its tiles. Values only: no secrets, nothing that has to be evaluated.
"""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayseg.errors import OutputError
from rayseg.geo.aoi import SceneAoi
from rayseg.geo.bands import Bands
from rayseg.geo.ground import Ground
from rayseg.geo.scene import Band, Part, Scene
from rayseg.geometry import Size, Window
from rayseg.pipeline.plan import parquet_bytes
from rayseg.pipeline.storage import Store
from rayseg.tables import unit_id
from rayseg.tiling.grid import Grid

FOLDER = "scenes"
_SCHEMA = pa.schema(
    [
        pa.field("unit_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("tiles", pa.int64(), nullable=False),
        pa.field("description", pa.string()),
    ]
)


@dataclass(frozen=True)
class SceneRecord:
    """One scene of a job: what it is and where its tiles stand in the plan, or why it could not be looked at.

    Attributes:
        uri: of the scene; for a mosaic, its name.
        stage, reason: where and why it failed; then all that follows is empty.
        scene: as it was opened.
        bands: that are read.
        tile_px, overlap_px: of its tiles.
        coarse: how much coarser the second look is; None without one.
        aoi_wkb: polygons in its pixels that say what is wanted; None where all is.
        batch: that it belongs to; names its shards.
        start, tiles: its tiles are the rows start .. start + tiles of the batch's shards, one after another: first those of the
            grid in order, then those of the coarse grid.
        reading: what reading it costs, in words.
    """

    uri: str
    stage: str | None = None
    reason: str | None = None
    scene: Scene | None = None
    bands: Bands | None = None
    tile_px: int = 0
    overlap_px: int = 0
    coarse: int | None = None
    aoi_wkb: bytes | None = None
    batch: str = ""
    start: int = 0
    tiles: int = 0
    reading: str = ""

    @property
    def unit_id(self) -> int:
        return unit_id(self.uri)

    @property
    def opened(self) -> Scene:
        """The scene; only of a record without a failure."""
        assert self.scene is not None, f"{self.uri} could not be opened: {self.reason}"
        return self.scene

    @cached_property
    def grid(self) -> Grid:
        """The tiles of the scene."""
        return Grid(self.opened.size, self.tile_px, self.overlap_px)

    @cached_property
    def coarse_grid(self) -> Grid | None:
        """The tiles of the second look; None where there is none, or where one tile sees the whole scene already."""
        if self.coarse is None or len(self.grid) == 1:
            return None
        return Grid(self.opened.size, self.tile_px * self.coarse, self.overlap_px * self.coarse)

    @cached_property
    def aoi(self) -> SceneAoi | None:
        return None if self.aoi_wkb is None else SceneAoi(self.aoi_wkb)


def write_batch(store: Store, name: str, records: Sequence[SceneRecord]) -> None:
    """Write the records of one batch."""
    rows = [
        {
            "unit_id": r.unit_id,
            "uri": r.uri,
            "stage": r.stage,
            "reason": r.reason,
            "tiles": r.tiles,
            "description": None if r.scene is None else json.dumps(_to_json(r)),
        }
        for r in records
    ]
    store.write(f"{FOLDER}/{name}.parquet", parquet_bytes(pa.Table.from_pylist(rows, schema=_SCHEMA)))


def read_batch(store: Store, name: str) -> list[SceneRecord]:
    """The records of one batch, in order.

    Raises:
        OutputError: the file is gone or damaged.
    """
    try:
        rows = pq.read_table(io.BytesIO(store.read(f"{FOLDER}/{name}.parquet")), schema=_SCHEMA).to_pylist()
        return [_from_row(row) for row in rows]
    except (pa.ArrowException, FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{store.url}/{FOLDER}/{name}.parquet cannot be read ({error}); without it the tiles of its scenes mean nothing. "
            "Restore it, or start anew in another folder"
        ) from error


def batch_names(store: Store) -> list[str]:
    """Of all batches, in order."""
    return sorted(name.removesuffix(".parquet") for name in store.list(FOLDER) if name.endswith(".parquet") and name[0] != ".")


def all_records(store: Store) -> Iterator[SceneRecord]:
    """Every scene of a job that was looked at; of one looked at again, the last."""
    last: dict[int, str] = {}
    for name in batch_names(store):
        last.update((record.unit_id, name) for record in read_batch(store, name))
    for name in batch_names(store):
        yield from (record for record in read_batch(store, name) if last[record.unit_id] == name)


def records_of_chunk(store: Store, chunk: str, *, token: str) -> dict[str, SceneRecord]:
    """What must be known of the tiles in a chunk: the records of its batch by uri. This process keeps the last few.

    Args:
        token: of the job, such as its plan's digest: a folder may have held another job before.
    """
    batch = chunk.partition("-")[0]
    key = (store.url, token, batch)
    if key not in _kept:
        _kept[key] = {record.uri: record for record in read_batch(store, batch)}
        while len(_kept) > _KEPT:
            _kept.popitem(last=False)
    return _kept[key]


_KEPT = 16
_kept: OrderedDict[tuple[str, str, str], dict[str, SceneRecord]] = OrderedDict()


def _to_json(record: SceneRecord) -> dict[str, Any]:
    values = asdict(record)
    for name in ("uri", "stage", "reason", "tiles"):
        del values[name]
    values["aoi_wkb"] = None if record.aoi_wkb is None else record.aoi_wkb.hex()
    return values


def _from_row(row: dict[str, Any]) -> SceneRecord:
    if row["description"] is None:
        return SceneRecord(row["uri"], row["stage"], row["reason"])
    values = json.loads(row["description"])
    scene, bands, aoi = values.pop("scene"), values.pop("bands"), values.pop("aoi_wkb")
    ground = scene.pop("ground")
    parts = [Part(p["uri"], Window(**p["window"]), p["version"]) for p in scene.pop("parts")]
    opened = Scene(
        **{
            **scene,
            "size": Size(**scene["size"]),
            "block": Size(**scene["block"]),
            "bands": tuple(Band(**band) for band in scene["bands"]),
            "ground": Ground(ground["crs_wkt"], tuple(ground["affine"]), tuple(tuple(p) for p in ground["gcps"])),
            "parts": tuple(parts),
        }
    )
    return SceneRecord(
        uri=row["uri"],
        scene=opened,
        bands=Bands(tuple(bands["numbers"]), bands["palette"]),
        aoi_wkb=None if aoi is None else bytes.fromhex(aoi),
        tiles=row["tiles"],
        **values,
    )
