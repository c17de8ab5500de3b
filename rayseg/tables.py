"""Column names and Arrow schemas of every table a job writes, and the rows each is made of.

    plan/     one row per unit, written before any work starts
    images/   the ledger: one row per finished unit, ok or failed; of scenes, also incomplete
    objects/  one row per object; for semantic models one row per class region

Who writes the files, and when, is the pipeline's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from rayseg import rle
from rayseg.geometry import Window
from rayseg.results import Instances, Result, SemanticMap

OK, FAILED = "ok", "failed"
INCOMPLETE = "incomplete"  # of scenes: some of its tiles failed

# Where in the job an image can fail. The order is that of the work.
STAGES = ("fetch", "decode", "prepare", "predict", "encode")

_WINDOW = pa.struct([("x0", pa.int64()), ("y0", pa.int64()), ("x1", pa.int64()), ("y1", pa.int64())])

PLAN = pa.schema(
    [
        pa.field("unit_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("page", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("window", _WINDOW),
    ]
)

IMAGES = pa.schema(
    [
        pa.field("unit_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("page", pa.int32(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("n_objects", pa.int32(), nullable=False),
        *[pa.field(f"{stage}_s", pa.float32()) for stage in STAGES],
    ]
)

SCENES = pa.schema(
    [
        *IMAGES,
        pa.field("tiles", pa.int32(), nullable=False),
        pa.field("empty_tiles", pa.int32(), nullable=False),
        pa.field("failed_tiles", pa.int32(), nullable=False),
        pa.field("unasked_tiles", pa.int32(), nullable=False),
        pa.field("fragments", pa.int64(), nullable=False),
        pa.field("joined", pa.int64(), nullable=False),
        pa.field("dropped", pa.int64(), nullable=False),
        pa.field("crs", pa.string()),
        pa.field("label_map", pa.string()),
        pa.field("footprint", pa.binary()),
        pa.field("holes", pa.binary()),
        pa.field("stitch_s", pa.float32()),
    ]
)
"""The ledger of a job of scenes. Of its tiles: planned, those of them without data or failed, and those outside the polygons
asked for, which were not planned. Of its seams: fragments that came in, objects made of several, fragments left out. `footprint`
and `holes` (what no tile saw because it failed) are WKB in the scene's CRS, or in its pixels where it has none."""

OBJECTS = pa.schema(
    [
        pa.field("unit_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("page", pa.int32(), nullable=False),
        pa.field("object_id", pa.int32(), nullable=False),
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("x0", pa.float32(), nullable=False),
        pa.field("y0", pa.float32(), nullable=False),
        pa.field("x1", pa.float32(), nullable=False),
        pa.field("y1", pa.float32(), nullable=False),
        pa.field("area_px", pa.int64(), nullable=False),
        pa.field("rle_h", pa.int32(), nullable=False),
        pa.field("rle_w", pa.int32(), nullable=False),
        pa.field("rle_counts", pa.string(), nullable=False),
    ]
)


def unit_id(uri: str, page: int = 0, window: Window | None = None) -> int:
    """Stable signed 64-bit id of one piece of work: the first eight bytes of BLAKE2b over uri, page and window."""
    where = "" if window is None else f"{window.x0},{window.y0},{window.x1},{window.y1}"
    key = f"{uri}\0{page}\0{where}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True)
class Unit:
    """One row of the plan: a whole image, one page of a multi-page file, or one tile of a scene.

    Attributes:
        uri: where the file is, as the listing found it.
        page: 0 for files with one picture.
        bytes: file size, None where the source does not tell.
        version: etag or modification time, to tell a replaced file from the planned one.
        window: pixels of the scene that a tile covers; None for whole images.
    """

    uri: str
    page: int = 0
    bytes: int | None = None
    version: str | None = None
    window: Window | None = None

    @property
    def unit_id(self) -> int:
        return unit_id(self.uri, self.page, self.window)


@dataclass(frozen=True)
class LedgerRow:
    """What became of one unit. `seconds` maps a stage to the time this unit took there."""

    unit_id: int
    uri: str
    page: int
    status: str
    width: int | None = None
    height: int | None = None
    stage: str | None = None
    reason: str | None = None
    n_objects: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in (OK, FAILED) or (self.status == FAILED) != (self.stage is not None):
            raise ValueError(f"a ledger row is ok without a stage, or failed with one: {self.status!r} {self.stage!r}")
        if self.stage is not None and self.stage not in STAGES:
            raise ValueError(f"unknown stage {self.stage!r}; the stages are {', '.join(STAGES)}")


def plan_table(units: Iterable[Unit]) -> pa.Table:
    """Rows of the plan, in the order given."""
    rows = [{"unit_id": u.unit_id, **asdict(u)} for u in units]
    return pa.Table.from_pylist(rows, schema=PLAN)


def images_table(rows: Iterable[LedgerRow]) -> pa.Table:
    """Rows of the ledger, in the order given."""
    out = []
    for row in rows:
        values = asdict(row)
        seconds = values.pop("seconds")
        if unknown := set(seconds) - set(STAGES):
            raise ValueError(f"unit {row.unit_id} has times of unknown stages {sorted(unknown)}; known: {', '.join(STAGES)}")
        out.append(values | {f"{stage}_s": seconds.get(stage) for stage in STAGES})
    return pa.Table.from_pylist(out, schema=IMAGES)


def objects_table(unit: Unit, result: Result, labels: Sequence[str]) -> pa.Table:
    """The objects of one image.

    Args:
        result: what the model found; a label map gives one row per class region, without a score.
        labels: name of each class id.

    Raises:
        ValueError: a class id has no label.
    """
    scored = isinstance(result, Instances)
    found = result.regions() if isinstance(result, SemanticMap) else result
    n = len(found)
    if n and int(found.class_ids.max()) >= len(labels):
        raise ValueError(f"class id {int(found.class_ids.max())} has no label; the model lists {len(labels)} labels")
    columns = {
        "unit_id": pa.array([unit.unit_id] * n, pa.int64()),
        "uri": pa.array([unit.uri] * n, pa.string()),
        "page": pa.array([unit.page] * n, pa.int32()),
        "object_id": pa.array(range(n), pa.int32()),
        "class_id": pa.array(found.class_ids, pa.int32()),
        "label": pa.array([labels[c] for c in found.class_ids.tolist()], pa.string()),
        "score": pa.array(found.scores, pa.float32()) if scored else pa.nulls(n, pa.float32()),
        **{name: pa.array(found.boxes_xyxy[:, i], pa.float32()) for i, name in enumerate(("x0", "y0", "x1", "y1"))},
        "area_px": pa.array(rle.areas(found.masks), pa.int64()),
        "rle_h": pa.array([found.size.height] * n, pa.int32()),
        "rle_w": pa.array([found.size.width] * n, pa.int32()),
        "rle_counts": pa.array([mask.counts.decode("ascii") for mask in found.masks], pa.string()),
    }
    return pa.table(columns, schema=OBJECTS)
