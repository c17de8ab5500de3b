"""What stitching costs: time and memory for scenes of 10^3 to 10^6 objects, row of tiles by row of tiles.

Objects are discs, a little apart, one for each cell of a lattice, with a river from top to bottom and one from left to right;
the fragments are what a perfect predictor would report, made row by row so that they do not count. Each number of objects
runs in a process of its own. `peak_mb` is the growth of its resident memory over that after imports, less what is needed to
make the fragments of a row.

    python bench/stitch.py --objects 1000 10000 100000
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayseg.geometry import Size
from rayseg.tiling.fragments import fragments_table
from rayseg.tiling.grid import Grid
from rayseg.tiling.runs import Runs, encode, union
from rayseg.tiling.stitch import Stitcher

_CELL, _TILE, _OVERLAP = 50, 1024, 128


def scene_of(n_objects: int) -> tuple[Size, int]:
    """Size of a scene with about so many discs, and discs to a row."""
    side = math.ceil(math.sqrt(n_objects))
    return Size(side * _CELL, side * _CELL), side


def discs(cells: np.ndarray, side: int) -> Runs:
    """Discs of 18 to 44 px across, by number; the same cell has the same disc in every tile."""
    radius = 9 + (cells * 7919) % 14
    y, x = cells // side * _CELL + _CELL // 2, cells % side * _CELL + _CELL // 2
    item = np.repeat(np.arange(len(cells)), 2 * radius + 1)
    dx = np.arange(len(item)) - np.repeat(np.cumsum(2 * radius + 1) - (2 * radius + 1), 2 * radius + 1) - radius[item]
    half = np.sqrt(radius[item] ** 2 - dx**2).astype(np.int64)
    return Runs(item, x[item] + dx, y[item] - half, y[item] + half + 1)


def river(size: Size, window: np.ndarray) -> Runs:
    """Two winding bands, joined where they cross, inside one window."""
    x0, y0, x1, y1 = window.tolist()
    x = np.arange(x0, x1)
    level = (size.height // 2 + 300 * np.sin(x / 500)).astype(np.int64)
    y = np.arange(y0, y1)
    course = (size.width // 2 + 300 * np.sin(y / 500)).astype(np.int64)
    near = (course + 4 > x0) & (course - 4 < x1)
    y, course = y[near], course[near]
    column = (course[:, None] + np.arange(-4, 5)).reshape(-1)
    every = Runs(
        *(
            np.concatenate(pair)
            for pair in ((x * 0, column * 0), (x, column), (level, np.repeat(y, 9)), (level + 9, np.repeat(y + 1, 9)))
        )
    )
    merged = union(every.item, every.x, every.y0, every.y1)
    return merged.clip(window[None])


def rows(grid: Grid, side: int) -> Iterator[pa.Table]:
    """The fragments of each row of tiles."""
    for row in range(len(grid.rows)):
        tables = [_tile(grid, index, side) for index in range(row * len(grid.columns), (row + 1) * len(grid.columns))]
        yield pa.concat_tables(tables).combine_chunks()


def _tile(grid: Grid, index: int, side: int) -> pa.Table:
    window = grid.windows(np.asarray([index]))[0]
    x0, y0, x1, y1 = (window // _CELL).tolist()
    y, x = np.mgrid[y0 : min(y1 + 1, side), x0 : min(x1 + 1, side)]
    cells = (y * side + x).reshape(-1)
    runs = discs(cells, side).clip(np.tile(window, (len(cells), 1)))
    water = river(grid.scene, window)
    runs = Runs(
        *(
            np.concatenate([a, b])
            for a, b in ((runs.item, water.item + len(cells)), (runs.x, water.x), (runs.y0, water.y0), (runs.y1, water.y1))
        )
    )
    kept, item = np.unique(runs.item, return_inverse=True)
    runs = Runs(item, runs.x, runs.y0, runs.y1)
    windows = runs.windows(len(kept))
    classes = (kept == len(cells)).astype(np.int32)
    return fragments_table(np.full(len(kept), index), classes, np.full(len(kept), 0.75), windows, encode(runs, windows))


def resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_one(n_objects: int) -> dict[str, float]:
    """Stitch one scene in this process."""
    size, side = scene_of(n_objects)
    grid = Grid(size, _TILE, _OVERLAP)
    list(zip(range(1), rows(grid, side), strict=False))
    before = resident_mb()
    most_open, objects, last = 0, 0, None
    tables = rows(grid, side)
    making = making_cpu = 0.0

    def timed() -> Iterator[pa.Table]:
        nonlocal making, making_cpu
        while True:
            start, cpu = time.perf_counter(), time.process_time()
            table = next(tables, None)
            making, making_cpu = making + time.perf_counter() - start, making_cpu + time.process_time() - cpu
            if table is None:
                return
            yield table

    start, cpu = time.perf_counter(), time.process_time()
    stats = None
    for part in Stitcher(grid).rows(timed()):
        objects += len(part.finished)
        most_open = max(most_open, len(part.open))
        stats = part.stats if stats is None else stats + part.stats
        last = part
    seconds, cpu_seconds = time.perf_counter() - start - making, time.process_time() - cpu - making_cpu
    assert last is not None and stats is not None and len(last.open) == 0
    assert objects == side**2 + 1, f"{objects} objects of {side**2 + 1}"
    return {
        "objects": objects, "fragments": stats.fragments, "joined": stats.joined, "tiles": len(grid), "scene_px": size.width,
        "seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3),
        "cpu_us_per_object": round(1e6 * cpu_seconds / objects, 2), "most_open": most_open,
        "peak_mb": round(resident_mb() - before, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one)))
        return
    report = {"tile_px": _TILE, "overlap_px": _OVERLAP, "runs": []}
    for n in options.objects:
        done = subprocess.run([sys.executable, __file__, "--one", str(n)], check=True, capture_output=True, text=True)
        report["runs"].append(json.loads(done.stdout))
        print(json.dumps(report["runs"][-1]), file=sys.stderr)
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
