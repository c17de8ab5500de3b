"""The numbers of a job of scenes: its scenes, their seams and their tiles, added up file by file; and which scenes are shown.

Reads tables alone, so that it needs neither the extra `geo` nor the model. What is kept of single scenes is bounded.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayseg.errors import OutputError
from rayseg.pipeline.read_tables import committed, in_order, opened, read_rows
from rayseg.pipeline.report.picks import Picks
from rayseg.pipeline.report.tally import LEDGER, Tally
from rayseg.pipeline.storage import Store
from rayseg.tables import INCOMPLETE, OK

MOST_ROWS = 12
"""Scenes in the table of the largest; of the incomplete ones, as many again."""

_COUNTS = ("tiles", "empty_tiles", "failed_tiles", "unasked_tiles", "fragments", "joined", "dropped")
_SCENES = [*LEDGER, *_COUNTS, "crs", "label_map", "holes", "stitch_s"]
_OBJECTS = ["class_id", "score", "area_px"]
_ROWS = 1 << 18


@dataclass(frozen=True)
class SceneRow:
    """One scene that is named in the report.

    Attributes:
        status: of the ledger; None where it is not put together yet.
        batch: of its record; empty where none is found.
        chunk: of its commit.
        values: its row of the ledger.
    """

    unit_id: int
    uri: str
    width: int
    height: int
    status: str | None
    batch: str = ""
    chunk: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass
class SceneTally:
    """Sums over a job of scenes.

    Attributes:
        sums: of scenes and of their objects; `ok` counts incomplete scenes, too.
        incomplete: scenes without some of their tiles.
        counts: sums of the columns of the ledger that count tiles and fragments.
        crs: scenes by reference system; None for pixels.
        stitch_s: time it took to put scenes together.
        largest, holed, waiting: the largest scenes that are whole, that are incomplete, and that are not put together yet.
        tile_px, overlap_px, coarse: how tiles were cut; 0 where no scene could be opened.
        bands: scenes by the bands that are read.
        reading: scenes by the layout of their files; `reading_words`: what reading one of them costs.
    """

    sums: Tally = field(default_factory=lambda: Tally(Picks(sample=0, extremes=0)))
    incomplete: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    crs: Counter[str | None] = field(default_factory=Counter)
    stitch_s: float = 0.0
    largest: list[SceneRow] = field(default_factory=list)
    holed: list[SceneRow] = field(default_factory=list)
    waiting: list[SceneRow] = field(default_factory=list)
    tile_px: int = 0
    overlap_px: int = 0
    coarse: int | None = None
    bands: Counter[str] = field(default_factory=Counter)
    reading: Counter[str] = field(default_factory=Counter)
    reading_words: dict[str, str] = field(default_factory=dict)


def tally_scenes(store: Store) -> SceneTally:
    """Read every commit of a job of scenes, and what was written down of the scenes before. Damaged files are named."""
    out = SceneTally()
    done = _ledger(store, out)
    batches = _records(store, out, done)
    for name in ("largest", "holed"):
        rows = sorted(getattr(out, name), key=lambda row: (-row.pixels, row.uri))
        setattr(out, name, [SceneRow(**{**row.__dict__, "batch": batches.get(row.unit_id, "")}) for row in rows])
    out.waiting.sort(key=lambda row: (-row.pixels, row.uri))
    return out


def _ledger(store: Store, out: SceneTally) -> set[int]:
    """Add up the ledger and the objects; ids of the scenes that have a row."""
    heaps: dict[str, list[tuple[int, str, SceneRow]]] = {"largest": [], "holed": []}
    done: set[int] = set()

    def read(chunk: str) -> tuple[str, pa.Table] | OutputError:
        try:
            return chunk, read_rows(store, f"images/{chunk}.parquet", _SCENES)
        except OutputError as error:
            return error

    for found in in_order(read, (chunk for chunks in committed(store).values() for chunk in chunks)):
        if isinstance(found, OutputError):
            out.sums.damaged.append(str(found))
            continue
        chunk, table = found
        try:
            _add_objects(store, chunk, out.sums)
        except OutputError as error:
            out.sums.damaged.append(str(error))
            continue
        out.sums.add_images(table)
        for values in table.to_pylist():
            done.add(values["unit_id"])
            _add_scene(values, chunk, out, heaps)
    for name, heap in heaps.items():
        setattr(out, name, [row for _, _, row in heap])
    return done


def _add_scene(values: dict[str, Any], chunk: str, out: SceneTally, heaps: dict[str, list[tuple[int, str, SceneRow]]]) -> None:
    out.counts.update({name: values[name] for name in _COUNTS})
    status = values["status"]
    if status not in (OK, INCOMPLETE):
        return
    out.incomplete += status == INCOMPLETE
    out.crs[values["crs"]] += 1
    out.stitch_s += values["stitch_s"] or 0.0
    row = SceneRow(values["unit_id"], values["uri"], values["width"], values["height"], status, "", chunk, values)
    _keep(heaps["holed" if status == INCOMPLETE else "largest"], row)


def _keep(heap: list[tuple[int, str, SceneRow]], row: SceneRow) -> None:
    """The largest few."""
    entry = (row.pixels, f"{row.uri}\0{row.chunk}", row)
    if len(heap) < MOST_ROWS:
        heapq.heappush(heap, entry)
    elif entry[:2] > heap[0][:2]:
        heapq.heapreplace(heap, entry)


def _add_objects(store: Store, chunk: str, sums: Tally) -> None:
    """The objects of one commit, which are those of one scene, some rows in memory at a time."""
    classes: set[int] = set()
    with opened(store, f"objects/{chunk}.parquet") as source:
        for batch in pq.ParquetFile(source).iter_batches(_ROWS, columns=_OBJECTS):
            scores = None if batch["score"].null_count else batch["score"].to_numpy().astype(np.float64)
            class_ids = batch["class_id"].to_numpy()
            sums.add_objects(class_ids, batch["area_px"].to_numpy(), scores)
            classes.update(np.unique(class_ids).tolist())
    sums.classes.add_images(np.array(sorted(classes), dtype=np.int64))


def _records(store: Store, out: SceneTally, done: set[int]) -> dict[int, str]:
    """What was written down of scenes when the job was planned; the batch of each that was opened."""
    batches: dict[int, str] = {}
    waiting: list[tuple[int, str, SceneRow]] = []
    for name in sorted(name for name in store.list("scenes") if name.endswith(".parquet") and not name.startswith(".")):
        batch = name.removesuffix(".parquet")
        try:
            rows = read_rows(store, f"scenes/{name}", ["unit_id", "uri", "description"]).to_pylist()
            found = [(row, json.loads(row["description"])) for row in rows if row["description"] is not None]
            for row, values in found:
                _add_record(values, out)
                batches[row["unit_id"]] = batch
                if row["unit_id"] not in done:
                    size = values["scene"]["size"]
                    _keep(waiting, SceneRow(row["unit_id"], row["uri"], size["width"], size["height"], None, batch))
        except OutputError as error:
            out.sums.damaged.append(str(error))
        except (ValueError, KeyError, TypeError) as error:
            out.sums.damaged.append(f"scenes/{name} is not what rayseg writes ({error!r})")
    out.waiting = [row for _, _, row in waiting]
    return batches


def _add_record(values: dict[str, Any], out: SceneTally) -> None:
    out.tile_px, out.overlap_px, out.coarse = values["tile_px"], values["overlap_px"], values["coarse"]
    bands = values["bands"]
    names = ", ".join(str(number) for number in bands["numbers"])
    out.bands[f"{names} (palette)" if bands["palette"] else names] += 1
    words = values["reading"]
    # Strips are as long as their scene is wide; tiles have a few sizes.
    layout = words.partition(":")[0] if words.startswith("tiles") else words.partition(" ")[0]
    out.reading[layout] += 1
    out.reading_words.setdefault(layout, words)
