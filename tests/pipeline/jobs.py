"""Helpers for tests of whole jobs: archives of generated images, running a job in this session's Ray, and tables to compare."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from rayseg.config.segment import SegmentSettings
from rayseg.pipeline.job import JobResult, run_job
from rayseg.pipeline.progress import Progress

TIMINGS = ["fetch_s", "decode_s", "prepare_s", "predict_s", "encode_s"]


def blobs(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A dark image with a few bright rectangles, RGB."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 30, (height, width, 3), dtype=np.uint8)
    for _ in range(rng.integers(0, 5)):
        y, x = rng.integers(1, height - 8), rng.integers(1, width - 8)
        image[y : y + rng.integers(2, 8), x : x + rng.integers(2, 8)] = rng.integers(180, 255, 3)
    return image


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    path.write_bytes(data.tobytes())
    return path


def archive(folder: Path, n: int) -> Path:
    """`n` PNGs of several sizes in a few folders."""
    for i in range(n):
        write_image(folder / f"part-{i % 3}" / f"{i:04d}.png", blobs(i, 32 + i % 5 * 8, 40 + i % 3 * 16))
    return folder


def run(source: Path | str, out: Path | str, *, model: str = "fake:instance", update: bool = False, **settings) -> JobResult:
    """A quiet job in the Ray session that is up."""
    values = {"predictors": "1", **settings}
    return run_job(SegmentSettings(str(source), str(out), model, **values), progress=Progress(quiet=True), update=update)


def tables(out: Path | str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ledger without timings and objects, in an order that does not depend on files."""
    images = pd.read_parquet(f"{out}/images").drop(columns=TIMINGS).sort_values("unit_id", ignore_index=True)
    objects = pd.read_parquet(f"{out}/objects").sort_values(["unit_id", "object_id"], ignore_index=True)
    return images, objects


def assert_same_tables(out: Path | str, other: Path | str) -> None:
    """Row for row the same results."""
    for a, b in zip(tables(out), tables(other), strict=True):
        pd.testing.assert_frame_equal(a, b)
