"""A job of scenes as a user runs it: wall time, tiles a second, peak memory of each kind of process, with kills on the way.

Runs `rayseg segment SRC OUT ...` in a process of its own; every `--kill-after` seconds the whole process group is killed with
SIGKILL and the same command is run again, `--kills` times, and at last to its end. Then `rayseg verify`. Memory is the greatest
resident set seen of each process, twice a second, less what it shares with Ray's object store where the kernel tells.

    python bench/scenes.py scene.tif /tmp/out --kills 3 --kill-after 60 -- --model 'fake:instance?pattern=colours' --tile-px 1024
    python bench/scenes.py scene.tif /tmp/out --truth truth.parquet -- ...   compares with the objects of make_scene.py

With `--truth`, every object of the result is looked up by its window and size; with `--brightness N`, the label map is compared
pixel by pixel with what `fake:semantic` with N labels gives of an 8-bit source read row of blocks by row of blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--kill-after", type=float, default=60.0, metavar="S")
    parser.add_argument("--truth", metavar="FILE")
    parser.add_argument("--brightness", type=int, metavar="N")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    own, rest = sys.argv[1:], list[str]()
    if "--" in own:
        own, rest = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    command = [sys.executable, "-m", "rayseg.cli", "segment", args.source, args.out, *rest]
    peaks: dict[str, float] = defaultdict(float)
    walls, status = [], None
    for _ in range(args.kills):
        wall, status = run(command, peaks, kill_after=args.kill_after)
        walls.append(wall)
        if status is not None:
            break
    if status is None:
        wall, status = run(command, peaks)
        walls.append(wall)
    verified = subprocess.run(
        [sys.executable, "-m", "rayseg.cli", "verify", args.out], capture_output=True, text=True, check=False
    )
    found: dict[str, Any] = {
        "command": " ".join(command[3:]),
        "exit": status,
        "kills": len(walls) - 1,
        "wall_s": [round(w, 1) for w in walls],
        "peak_mb": {kind: round(peak) for kind, peak in sorted(peaks.items())},
        "verify": {"exit": verified.returncode, "says": verified.stdout.strip().splitlines()[-2:]},
        **figures(Path(args.out), sum(walls)),
    }
    if args.truth:
        found["truth"] = compare(Path(args.out), Path(args.truth))
    if args.brightness:
        found["label_map"] = compare_map(args.source, Path(args.out), args.brightness)
    print(json.dumps(found, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=2))


def run(command: list[str], peaks: dict[str, float], *, kill_after: float | None = None) -> tuple[float, int | None]:
    """Run to the end, or kill after a while. Returns seconds, and the exit status or None for a kill."""
    start = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    while process.poll() is None:
        watch(process.pid, peaks)
        time.sleep(0.5)
        if kill_after is not None and time.monotonic() - start > kill_after:
            members = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
            for pid in members:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait()
            return time.monotonic() - start, None
    return time.monotonic() - start, process.returncode


def watch(pid: int, peaks: dict[str, float]) -> None:
    """Note the memory of a process and all below it, by kind."""
    try:
        members = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in members:
        try:
            memory, title = member.memory_info(), " ".join(member.cmdline())
        except psutil.Error:
            continue
        kind = "driver" if member.pid == pid else kind_of(title)
        if kind:
            peaks[kind] = max(peaks[kind], (memory.rss - memory.shared) / 2**20)


def kind_of(title: str) -> str | None:
    """What a process of Ray's does, from its title."""
    for word, kind in (("PredictStage", "predictor"), ("fetch_tiles", "fetch"), ("encode_tiles", "encode"), ("_finish", "join")):
        if word in title:
            return kind
    if "ray::" in title:
        return "task" if "IDLE" not in title else "worker"
    return None


def figures(out: Path, wall_s: float) -> dict[str, Any]:
    """Counts and rates from the ledgers."""
    tiles = pq.read_table(out / "tiles" / "images")
    scenes = pq.read_table(out / "images", columns=["status", "tiles", "fragments", "joined", "dropped", "n_objects", "stitch_s"])
    columns = ("fetch_s", "prepare_s", "predict_s", "encode_s")
    return {
        "tiles": tiles.num_rows,
        "empty_tiles": pc.sum(pc.equal(tiles["reason"], "no valid pixel")).as_py() or 0,
        "tiles_per_s": round(tiles.num_rows / wall_s, 2),
        "stage_s": {name: round(pc.sum(tiles[name]).as_py() or 0, 1) for name in columns},
        "scenes": scenes.to_pylist()[:5],
    }


def compare(out: Path, truth: Path) -> dict[str, int]:
    """Objects of the result against those that were drawn, by window and size."""
    columns = ["x0", "y0", "x1", "y1", "area_px"]
    found = pq.read_table(out / "objects", columns=columns)
    drawn = pq.read_table(truth, columns=columns)
    drawn = drawn.filter(pc.greater(drawn["area_px"], 0))
    a = {tuple(int(v) for v in row) for row in zip(*(found[c].to_pylist() for c in columns), strict=True)}
    b = {tuple(int(v) for v in row) for row in zip(*(drawn[c].to_pylist() for c in columns), strict=True)}
    return {"drawn": drawn.num_rows, "found": found.num_rows, "equal": len(a & b), "missing": len(b - a), "extra": len(a - b)}


def compare_map(source: str, out: Path, n: int) -> dict[str, int]:
    """Pixels of the label map that differ from the source's brightness; pixels without data must be void."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    (path,) = (out / "label_maps").glob("*.tif")
    wrong = void = total = 0
    with rasterio.open(source) as scene, rasterio.open(path) as labels:
        for y in range(0, scene.height, 512):
            window = Window(0, y, scene.width, min(512, scene.height - y))
            colours = scene.read([1, 2, 3] if scene.count >= 3 else [1, 1, 1], window=window)
            brightness, valid = colours.sum(axis=0, dtype=np.int32) // 3, scene.dataset_mask(window=window) > 0
            wanted = np.where(valid, brightness * n // 256, 255)
            found = labels.read(1, window=window)
            wrong, void, total = wrong + int((found != wanted).sum()), void + int((~valid).sum()), total + found.size
    return {"pixels": total, "void": void, "differing": wrong}


if __name__ == "__main__":
    main()
