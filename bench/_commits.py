"""How fast a job went, from when its ledger files were written: without start and end, and piece by piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

_READ = 2000


def units_by_time(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times of commits in seconds, ascending, and how many units were done by then.

    Of more files than a benchmark should open, all are taken to have as many units as the middle one: they do, but for the last
    of each shard.
    """
    files = sorted((path.stat().st_mtime, path) for path in (out / "images").iterdir() if path.suffix == ".parquet")
    if len(files) <= _READ:
        rows = [pq.read_metadata(path).num_rows for _, path in files]
    else:
        rows = [pq.read_metadata(files[len(files) // 2][1]).num_rows] * len(files)
    return np.asarray([when for when, _ in files]), np.cumsum(rows)


def steady_rate(out: Path, *, skip: float = 0.1) -> float:
    """Units a second between the first and the last tenth of the commits."""
    at, done = units_by_time(out)
    first, last = int(skip * len(at)), len(at) - 1 - int(skip * len(at))
    if last - first < 5:
        raise ValueError(f"{out} has {len(at)} commits, too few to tell a rate; take more images or smaller chunks")
    return float((done[last] - done[first]) / (at[last] - at[first]))


def ms_by_slice(out: Path, parts: int = 10) -> list[float]:
    """Milliseconds a unit in each slice of a run; none where there are too few commits to tell."""
    at, done = units_by_time(out)
    if len(at) < 2 * parts:
        return []
    edges = np.linspace(0, len(at) - 1, parts + 1).astype(int)
    return [round(1000 * ms, 3) for ms in (np.diff(at[edges]) / np.diff(done[edges])).tolist()]
