"""What stitching makes of the fragments of tiles, ours and SAHI's: objects cut, merged, doubled and missing, and the time.

Both get the same fragments of the same drawn scenes: discs, discs that touch in pairs, bars that cross several tiles, and
rivers that cross the scene. `exact` fragments are the true masks cut by their tiles; `noisy` ones are grown or shrunk by a pixel
and moved by up to one, in each tile otherwise, and may be missed where fewer than 20 pixels show. Scores grow with the share of
the object that the tile sees. What SAHI knows about kinds of objects, it is told: discs, bars and rivers are three classes.

SAHI runs in an environment of its own, which this script enters by itself: its postprocessing alone, on ObjectPredictions
whose polygons SAHI made from the masks, with the metric, threshold and per-class setting of `get_sliced_prediction`, and with
others. Making fragments and polygons is not timed, on either side. Without --sahi-python there are our own figures only.

    python3.11 -m venv /tmp/sahi && /tmp/sahi/bin/pip install sahi numba
    python bench/against_sahi.py --sahi-python /tmp/sahi/bin/python --objects 1000 10000 100000
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _fragments import DISC, Masks, core, cut, draw, fragments

TILE_PX, OVERLAP_PX = 512, 102  # SAHI's own share of overlap, 0.2
DEFAULT = "GREEDYNMM IOS 0.5"
SETTINGS = [f"{kind} {metric} 0.5" for kind in ("GREEDYNMM", "NMM", "NMS") for metric in ("IOS", "IOU")]
BEST = ["NMS IOS 0.2", "GREEDYNMM IOS 0.3"]  # of all that --search tries with 10,000 objects; the second, of those that merge
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.7, 0.9)


def ours(grid: Any, found: Masks, columns: dict[str, np.ndarray]) -> tuple[Masks, dict[str, float]]:
    """Objects as rayseg joins them, and how long it took."""
    import pyarrow as pa

    from rayseg import rle
    from rayseg.tiling.fragments import fragments_table
    from rayseg.tiling.objects import to_objects
    from rayseg.tiling.stitch import Stitcher

    counts = pa.array([rle.encode(mask).counts.decode("ascii") for mask in found.masks], pa.string())
    table = fragments_table(columns["tile"], columns["class_id"], columns["score"], found.windows, counts)
    start = _clock()
    joined = Stitcher(grid).scene(table).finished
    times = _since(start)
    objects = to_objects(joined)
    windows = np.asarray([[o.window.x0, o.window.y0, o.window.x1, o.window.y1] for o in objects], dtype=np.int64)
    return Masks(windows, [rle.decode(o.mask) > 0 for o in objects]), times


def sahis(python: str, path: Path, settings: list[str], limit_s: float) -> Iterator[tuple[str, Masks | None, dict[str, Any]]]:
    """Of each setting the objects as SAHI joins them, None where it took too long, and what else it said."""
    command = [python, __file__, "--merge", str(path), "--settings", *settings, "--limit-s", str(limit_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            said = json.loads(line)
            result = said.pop("result")
            if result is None:
                yield said["setting"], None, said
                continue
            with np.load(result) as file:
                yield said["setting"], Masks.load(file), said
            Path(result).unlink()
    if child.returncode:
        raise SystemExit(f"SAHI's side of the comparison ended with {child.returncode}; its message is above")


def merge(path: Path, settings: list[str], limit_s: float) -> None:
    """The child, in SAHI's environment: one JSON line a setting."""
    import sahi
    from sahi.annotation import Mask
    from sahi.postprocess.backends import resolve_backend
    from sahi.predict import POSTPROCESS_NAME_TO_CLASS
    from sahi.prediction import ObjectPrediction

    with np.load(path) as file:
        found, class_id, score, extent = Masks.load(file), file["class_id"], file["score"], file["extent"].tolist()
    predictions, start = [], _clock()
    for i, (x0, y0) in enumerate(found.windows[:, :2].tolist()):
        # In its own window, then moved: the same polygons as from a mask of the whole tile.
        polygons = Mask.from_bool_mask(found.masks[i], extent, [x0, y0]).get_shifted_mask().segmentation
        if polygons:
            predictions.append(
                ObjectPrediction(category_id=int(class_id[i]), score=float(score[i]), segmentation=polygons, full_shape=extent)
            )
    facts = {
        "version": sahi.__version__, "backend": resolve_backend(), "without_polygon": len(found.masks) - len(predictions),
        "polygon_cpu_seconds": _since(start)["cpu_seconds"],
    }  # fmt: skip

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, stop)
    for number, setting in enumerate(settings):
        kind, metric, threshold = setting.split()
        post = POSTPROCESS_NAME_TO_CLASS[kind](match_threshold=float(threshold), match_metric=metric, class_agnostic=False)
        post([ObjectPrediction([0, 0, 9, 9], 0, score=s) for s in (0.5, 0.6)])  # what is compiled, is compiled here
        given = list(predictions)
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        start = _clock()
        try:
            joined = post(given)
        except TimeoutError:
            print(json.dumps({"setting": setting, "result": None, "over_limit_s": limit_s, **_since(start), **facts}), flush=True)
            continue
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        times = _since(start)
        target = path.with_name(f"{path.stem}.{number}.npz")
        painted(joined).save(target)
        print(json.dumps({"setting": setting, "result": str(target), **times, **facts}), flush=True)


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> dict[str, float]:
    """Wall and CPU seconds since then: on a machine that others use, the second are the ones to compare."""
    wall, cpu = _clock()
    return {"seconds": round(wall - start[0], 3), "cpu_seconds": round(cpu - start[1], 3)}


def painted(predictions: list[Any]) -> Masks:
    """The masks of polygons, as SAHI paints them, each in its own window."""
    windows, masks = [], []
    for prediction in predictions:
        polygons = [np.rint(np.reshape(points, (-1, 2))).astype(np.int64) for points in prediction.mask.segmentation]
        every = np.concatenate(polygons)
        low, high = every.min(axis=0), every.max(axis=0) + 1
        mask = np.zeros((high - low)[::-1], dtype=np.uint8)
        cv2.fillPoly(mask, [(points - low).astype(np.int32) for points in polygons], (1,))
        windows.append([*low, *high])
        masks.append(mask > 0)
    return Masks(np.asarray(windows, dtype=np.int64).reshape(-1, 4), masks)


def judged(cores: np.ndarray, kind: np.ndarray, found: Masks) -> dict[str, float]:
    """Errors per 1,000 true objects. All but `merged` and `extra` are kinds of true objects, each of them at most one.

    Args:
        cores: int32 (H, W), numbers of objects, without a margin of CORE_PX.

    Returns:
        missing: no result holds a tenth of it.
        doubled: two results or more hold above half of it.
        cut: two or more hold at least a tenth of it, or the best lacks a tenth of it.
        merged: objects too many in a result that holds at least half of each of several.
        extra: results that are the best one of no object.
        wrong_discs, wrong_long: missing, doubled or cut, per 1,000 discs and per 1,000 bars and rivers.
    """
    areas = np.bincount(cores.reshape(-1), minlength=len(kind))
    result, number, share = [], [], []
    for i, mask in enumerate(found.masks):
        seen = np.bincount(cut(cores, found.windows[i])[mask])
        here = np.flatnonzero(seen[1:]) + 1
        result.append(np.full(len(here), i))
        number.append(here)
        share.append(seen[here] / areas[here])
    r, n, s = np.concatenate(result), np.concatenate(number), np.concatenate(share)
    tenths, halves = np.bincount(n[s >= 0.1], minlength=len(kind)), np.bincount(n[s > 0.5], minlength=len(kind))
    best = np.zeros(len(kind))
    np.maximum.at(best, n, s)
    true = kind >= 0
    missing, doubled = true & (tenths == 0), halves > 1
    is_cut = true & ~missing & ~doubled & ((tenths > 1) | (best < 0.9))
    held = np.bincount(r[s >= 0.5], minlength=len(found.masks))
    order = np.lexsort((r, -s, n))
    bests = order[np.concatenate([[True], np.diff(n[order]) != 0])] if len(order) else order
    counts = {
        "cut": is_cut.sum(), "merged": np.maximum(held - 1, 0).sum(), "doubled": doubled.sum(), "missing": missing.sum(),
        "extra": len(found.masks) - len(np.unique(r[bests])),
    }  # fmt: skip
    rates = {name: 1000 * float(count) / int(true.sum()) for name, count in counts.items()}
    for name, some in (("wrong_discs", kind == DISC), ("wrong_long", kind > DISC)):
        rates[name] = 1000 * float((some & (missing | doubled | is_cut)).sum()) / max(int(some.sum()), 1)
    return {name: round(rate, 2) for name, rate in rates.items()}


def compare(
    n_objects: int, *, python: str | None, settings: list[str], limit_s: float, seed: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """All figures of one size of scene."""
    from rayseg.geometry import Size
    from rayseg.tiling.grid import Grid

    canvas, kind, window = draw(n_objects, seed)
    grid = Grid(Size(*canvas.shape), TILE_PX, OVERLAP_PX)
    tiles = grid.windows(np.arange(len(grid)))
    kinds = {
        name: fragments(canvas, kind, window, tiles, noisy=name == "noisy", seed=seed) for name in ("exact", "noisy")
    }  # both before the canvas is reduced to what results are judged by
    for number in np.flatnonzero(kind >= 0):
        view = cut(canvas, window[number])
        view[(view == number) & ~core(view == number)] = 0
    for name, (found, columns) in kinds.items():
        facts = {"objects": int((kind >= 0).sum()), "fragments": len(found.masks), "tiles": len(grid), "kind": name}
        joined, times = ours(grid, found, columns)
        yield {**facts, "tool": "rayseg", "setting": "", **times, **judged(canvas, kind, joined)}
        if not python:
            continue
        path = folder / f"{n_objects}-{name}.npz"
        found.save(path, **columns, extent=np.asarray(canvas.shape))
        for _, theirs, said in sahis(python, path, settings, limit_s):
            yield {**facts, "tool": "sahi", **said, **(judged(canvas, kind, theirs) if theirs else {})}
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--sahi-python", metavar="PYTHON", help="interpreter of an environment with sahi")
    parser.add_argument("--settings", nargs="+", default=SETTINGS + BEST, help="'KIND METRIC THRESHOLD', as SAHI names them")
    parser.add_argument("--search", action="store_true", help="try many thresholds, too")
    parser.add_argument("--limit-s", type=float, default=300.0, help="CPU time for one merge of SAHI (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--merge", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.merge:
        merge(options.merge, options.settings, options.limit_s)
        return
    settings = list(options.settings)
    if options.search:
        tried = [f"{pair.rsplit(' ', 1)[0]} {threshold}" for pair in SETTINGS for threshold in THRESHOLDS]
        settings += [setting for setting in tried if setting not in settings]
    report: dict[str, Any] = {"tile_px": TILE_PX, "overlap_px": OVERLAP_PX, "sahi_default": DEFAULT, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        for n in options.objects:
            for run in compare(
                n, python=options.sahi_python, settings=settings, limit_s=options.limit_s, seed=options.seed, folder=Path(folder)
            ):
                report["runs"].append(run)
                print(json.dumps(run), file=sys.stderr, flush=True)
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
