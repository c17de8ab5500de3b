"""An output folder written by hand, row by row, for tests of what reads one. No Ray, no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayseg import rle
from rayseg.geometry import Size
from rayseg.results import Instances, Result
from rayseg.tables import FAILED, OBJECTS, OK, STAGES, LedgerRow, Unit, images_table, objects_table, plan_table

SHARD = "00-00000"


@dataclass(frozen=True)
class Done:
    """One finished unit: what was found, or (stage, reason) of a failure."""

    unit: Unit
    result: Result | tuple[str, str]


def write_out(
    out: Path,
    done: Sequence[Done],
    *,
    labels: Sequence[str],
    task: str = "instance",
    left: Sequence[Unit] = (),
    chunk_images: int = 4,
    source: str = "photos",
    runs: Sequence[dict[str, Any]] = (),
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write plan, ledger, objects, job.json and notes of runs."""
    units = sorted([*(d.unit for d in done), *left], key=lambda u: (u.uri, u.page))
    for folder in ("plan", "images", "objects", "runs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    pq.write_table(plan_table(units), out / f"plan/{SHARD}.parquet")
    done = sorted(done, key=lambda d: (d.unit.uri, d.unit.page))
    for number, start in enumerate(range(0, len(done), chunk_images)):
        write_chunk(out, f"{SHARD}-{number:05d}-{number:012x}", done[start : start + chunk_images], labels)
    for number, run in enumerate(runs):
        (out / f"runs/{number:04d}.json").write_text(json.dumps(run))
    model = {"name": "Handmade-S", "task": task, "flavour": "lean", "labels": list(labels), "threshold": 0.5}
    plan = {"units": len(units), "shards": [SHARD], "digest": "0" * 64, "chunk_images": chunk_images, "duplicates": 0}
    job = {
        "format": 1,
        "rayseg": "0.0.0",
        "created": "2026-11-20T10:00:00+00:00",
        "identity": {},
        "settings": {"source": source, "out": str(out), **(settings or {})},
        "model": {**model, "fingerprint": "f" * 64, "path": "models/handmade"},
        "plan": plan,
        "versions": {"python": "3.11.7"},
    }
    (out / "job.json").write_text(json.dumps(job))
    return out


def write_chunk(out: Path, chunk: str, done: Sequence[Done], labels: Sequence[str]) -> None:
    """One commit."""
    rows, objects = [], [OBJECTS.empty_table()]
    for item in done:
        unit, seconds = item.unit, {stage: 0.01 * (i + 1) for i, stage in enumerate(STAGES)}
        if isinstance(item.result, tuple):
            stage, reason = item.result
            rows.append(LedgerRow(unit.unit_id, unit.uri, unit.page, FAILED, stage=stage, reason=reason))
            continue
        objects.append(objects_table(unit, item.result, labels))
        size = item.result.size
        sides = {"width": size.width, "height": size.height}
        n = objects[-1].num_rows
        rows.append(LedgerRow(unit.unit_id, unit.uri, unit.page, OK, n_objects=n, seconds=seconds, **sides))
    pq.write_table(pa.concat_tables(objects), out / f"objects/{chunk}.parquet")
    pq.write_table(images_table(rows), out / f"images/{chunk}.parquet")


def discs(size: Size, n: int, *, seed: int = 0, n_classes: int = 1, scores: Sequence[float] | None = None) -> Instances:
    """n discs of random place, size, class and score."""
    rng = np.random.default_rng(seed)
    boxes, masks = [], []
    for _ in range(n):
        x, y = rng.integers(0, size.width), rng.integers(0, size.height)
        canvas = np.zeros(size.hw, dtype=np.uint8)
        cv2.circle(canvas, (int(x), int(y)), int(rng.integers(2, 12)), 1, -1)
        rows, columns = np.nonzero(canvas)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        masks.append(rle.encode(canvas))
    found = rng.uniform(0.5, 1, n) if scores is None else np.asarray(scores)
    return Instances(size, np.float32(boxes).reshape(-1, 4), found, rng.integers(0, n_classes, n), tuple(masks))


def write_image(path: Path, size: Size, *, seed: int = 0) -> Unit:
    """A PNG of soft noise, as a unit of the plan."""
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", cv2.resize(small, size.wh, interpolation=cv2.INTER_CUBIC))[1].tobytes())
    return Unit(str(path), 0, path.stat().st_size, "1")


def run_note(done: int, *, wall_s: float = 10.0, failed: int = 0) -> dict[str, Any]:
    """What a finished run leaves in runs/."""
    return {
        "started": "2026-11-20T10:00:00+00:00",
        "ended": "2026-11-20T10:01:00+00:00",
        "wall_s": wall_s,
        "done": done,
        "failed": failed,
        "objects": 0,
        "stage_seconds": dict.fromkeys(STAGES, 1.0),
        "cluster": {"cpus": 2, "gpus": 0, "nodes": 1},
        "predictors": 2,
        "backend": "paddle-onednn",
    }
