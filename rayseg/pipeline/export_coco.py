"""The objects of a job as COCO results JSON, which pycocotools and the tools around it load.

Two files: the results, and beside them the images and categories their ids refer to, an annotation file without
annotations:

    truth = COCO("results_images.json"); found = truth.loadRes("results.json")

An image's id is its place in the plan, from 1: the same however often the job was killed, and whatever failed. A
category's id is its class id + 1. pycocotools (2.0.11) cannot load a results file without any result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from rayseg.errors import ConfigError, OutputError
from rayseg.pipeline.identity import is_scenes
from rayseg.pipeline.read_tables import committed, in_order, read_job, read_rows
from rayseg.pipeline.storage import Store, is_local
from rayseg.tables import OK

_OBJECTS = ["unit_id", "class_id", "score", "x0", "y0", "x1", "y1", "rle_h", "rle_w", "rle_counts"]


def export_coco(store: Store, path: str | os.PathLike[str], *, min_score: float | None = None) -> int:
    """Write `path` (results) and `<path without .json>_images.json`; memory is that of one shard of the plan.

    Regions of a semantic model are results, too; they have score 1.

    Args:
        path: local file.
        min_score: leave out objects below it.

    Returns:
        How many results were written.

    Raises:
        ConfigError: the path is a URL, the job is one of scenes, or `min_score` is given for a semantic model.
        OutputError: the folder holds no job, or a file of it cannot be read.
    """
    job = read_job(store)
    if is_scenes(job):
        raise ConfigError(f"{store.url} is a job of scenes, whose masks are no whole images; use `rayseg export-geo`")
    if not is_local(os.fspath(path)):
        raise ConfigError(f"{path}: export-coco writes local files only; copy them afterwards")
    if min_score is not None and job["model"].get("task") == "semantic":
        raise ConfigError(f"min_score {min_score} is set, but regions of a semantic model have no scores; leave it out")
    path = Path(path)
    categories = [{"id": i + 1, "name": str(name)} for i, name in enumerate(job["model"]["labels"])]
    chunks, written, first_id = committed(store), 0, 1
    with _whole(_images_path(path)) as images, _whole(path) as results:
        about = {"description": f"{job['model'].get('name')} on {(job.get('settings') or {}).get('source')}"}
        images.write(f'{{"info": {json.dumps(about)}, "categories": {json.dumps(categories)}, "annotations": [], ')
        image_list = _Array(images, before='"images": ')
        result_list = _Array(results)
        for shard in job["plan"]["shards"]:
            ids = _image_ids(store, shard, first_id)
            for rows, objects in in_order(lambda name: _read(store, name), chunks.get(shard, [])):
                image_list.extend(_image_entries(rows, ids))
                written += result_list.extend(_result_entries(objects, ids, min_score))
            first_id += len(ids)
        result_list.close()
        image_list.close()
        images.write("}\n")
    return written


def _images_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_images.json")


def _image_ids(store: Store, shard: str, first_id: int) -> dict[int, int]:
    """Image id of each unit of a shard."""
    units = read_rows(store, f"plan/{shard}.parquet", ["unit_id"])["unit_id"].to_pylist()
    return {unit: first_id + i for i, unit in enumerate(units)}


def _read(store: Store, chunk: str) -> tuple[pa.Table, pa.Table]:
    rows = read_rows(store, f"images/{chunk}.parquet", ["unit_id", "uri", "page", "width", "height", "status"])
    return rows, read_rows(store, f"objects/{chunk}.parquet", _OBJECTS)


def _image_entries(rows: pa.Table, ids: dict[int, int]) -> Iterator[str]:
    """Images that did not fail; `page` tells pages of one file apart."""
    for row in rows.to_pylist():
        if row["status"] == OK:
            entry = {"id": _id(ids, row["unit_id"]), "file_name": row["uri"], "page": row["page"]}
            yield json.dumps(entry | {"width": row["width"], "height": row["height"]})


def _result_entries(objects: pa.Table, ids: dict[int, int], min_score: float | None) -> Iterator[str]:
    # Text of a float32 is the shortest that reads back as the same float32.
    score = objects["score"].fill_null(1.0).to_numpy()
    x0, y0, x1, y1 = (objects[name].to_numpy() for name in ("x0", "y0", "x1", "y1"))
    boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)
    keep = np.ones(len(score), dtype=bool) if min_score is None else score >= np.float32(min_score)
    names = ("unit_id", "class_id", "rle_h", "rle_w", "rle_counts")
    units, classes, heights, widths, counts = (objects[name].to_pylist() for name in names)
    for i in np.flatnonzero(keep).tolist():
        box = ", ".join(str(v) for v in boxes[i])
        mask = f'{{"size": [{heights[i]}, {widths[i]}], "counts": {json.dumps(counts[i])}}}'
        yield (
            f'{{"image_id": {_id(ids, units[i])}, "category_id": {classes[i] + 1}, "bbox": [{box}], '
            f'"score": {score[i]!s}, "segmentation": {mask}}}'
        )


def _id(ids: dict[int, int], unit: int) -> int:
    try:
        return ids[unit]
    except KeyError:
        raise OutputError(f"unit {unit} has results but is not planned; `rayseg verify` says what to do") from None


class _Array:
    """A JSON array written entry by entry, a line each."""

    def __init__(self, file: IO[str], *, before: str = "") -> None:
        self._file, self._first = file, True
        file.write(f"{before}[")

    def extend(self, entries: Iterator[str]) -> int:
        """Append entries that are JSON already; returns how many."""
        n = 0
        for entry in entries:
            self._file.write(f"\n{entry}" if self._first else f",\n{entry}")
            self._first, n = False, n + 1
        return n

    def close(self) -> None:
        self._file.write("\n]")


@contextmanager
def _whole(path: Path) -> Iterator[IO[str]]:
    """A file that appears under its name only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="ascii") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
