"""The same model directories, photographs and cores: PaddleX and rayseg, from paths on disk to results on disk.

Each side is a process of its own, start-up and loading included: PaddleX predicts a list of paths and saves each result as
JSON, as its users do; rayseg is `rayseg segment`, Ray and all, to Parquet. Both are kept to `--threads` CPUs. PaddleX runs with
the fastest of `--settings` whose results are those of the first one that works, found anew for each model on `--check`
images; those images also say whether the two sides find the same objects and pixels. Before it is timed rayseg runs once on
them (`first_job_s`) and plans a job of the images under ten names each, which converts the model and chooses the engine, once
for a directory and a machine; how long that took is reported as `plan_..._s`. Then the sides take turns.

`rayseg` is given the very directory that PaddleX reads; `rayseg-lean` our own export of the same weights. Without
`--reference`, a folder with fill.py and scales/, weights are fresh ones, which find little; with it they find a hundred objects
or more of an image, and --objects N looks for the threshold that leaves N. DIR/NAME/paddlex and DIR/NAME/lean below
`--models-dir DIR` are used as they are where they exist, so a model of any origin can be named. Without --paddlex-python
there are our own figures only.

    python3.11 -m venv /tmp/paddlex && /tmp/paddlex/bin/pip install 'paddlex[cv]==3.7.2' paddlepaddle==3.3.1
    python bench/against_paddlex.py --paddlex-python /tmp/paddlex/bin/python --images photos --n 200 --objects 15

Rates: `whole` is images over all of the time; `steady` the slope of the line through the moments at which results were on disk,
so without start-up. A side that is not done at --limit-s is stopped, and what was done counts. MB are 2^20 bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _sides import Done, Work, plan_rayseg, run_paddlex, run_rayseg, steady

BENCH = Path(__file__).resolve().parent
MODELS = ("PP-LiteSeg-T", "SegFormer-B0", "Mask-RT-DETR-S", "PP-YOLOE_seg-S", "MaskRCNN-ResNet50-FPN")
NO_PASS = "mkldnn-onednn_placement_pass"
SETTINGS = ("paddle/1/1", "paddle/4/1", "default/1/1", "mkldnn/1/1", f"{NO_PASS}/1/1", f"{NO_PASS}/1/2", "hpip/1/1")
SUFFIXES = (".jpg", ".jpeg", ".png")
SAME_PIXELS = 1e-4  # of two settings of PaddleX: at most this share of pixels, and this share of objects, may differ


def photographs(sources: Sequence[Path], n: int, folder: Path) -> dict[str, int]:
    """`n` numbered copies in a folder: the different images found below the sources, over and over if they are too few."""
    files = sorted(p for source in sources for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
    different = list({hashlib.sha256(path.read_bytes()).digest(): path for path in reversed(files)}.values())[::-1]
    if not different:
        raise SystemExit(f"no {', '.join(SUFFIXES)} below {', '.join(map(str, sources))}; name a folder of images with --images")
    folder.mkdir(parents=True)
    for i in range(n):
        path = different[i % len(different)]
        shutil.copy(path, folder / f"{i:06d}{path.suffix.lower()}")
    return {"images": n, "different": min(n, len(different))}


def archive(images: Path, folder: Path, times: int) -> None:
    """The images under so many names each."""
    folder.mkdir()
    for path in images.iterdir():
        for i in range(times):
            (folder / f"{i:03d}-{path.name}").hardlink_to(path)


def export(model: str, folder: Path, reference: str | None) -> None:
    """Both flavours of a model, made by zoo.py in a process of its own."""
    command = [sys.executable, str(BENCH / "zoo.py"), "--models", model, "--child", "export", str(folder)]
    command += ["--reference", reference] if reference else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{model} could not be exported: {done.stderr.strip().splitlines()[-1]}")


def threshold_for(work: Work, objects: int, images: Path, folder: Path) -> float | None:
    """The score that leaves about so many objects an image; None for a model without scores, or with fewer objects."""
    import pyarrow.parquet as pq

    done = run_rayseg(replace(work, threshold=0.0), "lean", images, keep=folder)
    if done.problem:
        raise SystemExit(f"{work.model}: no scores to choose a threshold from: {done.problem}")
    scores = np.sort([s for s in pq.read_table(folder / "objects")["score"].to_pylist() if s is not None])[::-1]
    wanted = objects * len(done.times)
    return None if len(scores) <= wanted else float((scores[wanted - 1] + scores[wanted]) / 2)


def best_setting(work: Work, settings: Sequence[str], images: Path, folder: Path) -> tuple[str | None, dict[str, Any]]:
    """The fastest right setting of PaddleX, and what became of each. Results of the first that works stay in `folder`/sure."""
    from _agreement import compare, of_paddlex

    from rayseg.geometry import Size

    sizes = {path.name: Size(*_shape(path)) for path in images.iterdir()}
    sure, rates = None, {}
    said: dict[str, Any] = {}
    for number, setting in enumerate(settings):
        kept = folder / str(number)
        kept.mkdir(parents=True)
        done = run_paddlex(work, setting, images, keep=kept)
        if done.problem:
            said[setting] = done.problem
            continue
        found = of_paddlex(kept, sizes)
        if sure is None:
            sure = found
            kept.rename(folder / "sure")
        agreed = compare(sure, found)
        said[setting] = {**done.figures(), "agrees": agreed}
        if _agrees(agreed):
            rates[setting] = steady(done.times) or len(done.times) / done.run.seconds
    return max(rates, key=lambda key: rates[key], default=None), said


def _agrees(found: Mapping[str, Any]) -> bool:
    odd = found["alone"] + found["alone_other"]
    return (
        found["images"] > 0
        and odd <= SAME_PIXELS * found["objects"]
        and found["pixels_differing"] <= SAME_PIXELS * max(found["pixels"], 1)
    )


def _shape(path: Path) -> tuple[int, int]:
    from rayseg.images import decode

    height, width = decode(path.read_bytes()).shape[:2]
    return int(height), int(width)


def one_model(work: Work, args: argparse.Namespace, images: Path, few: Path, many: Path, scratch: Path) -> dict[str, Any]:
    """All figures of a model."""
    found: dict[str, Any] = {}
    if args.objects and work.threshold is None:
        work = replace(work, threshold=threshold_for(work, args.objects, few, scratch / "scores"))
    found["threshold"] = work.threshold
    setting = None
    if work.python:
        setting, found["settings"] = best_setting(work, args.settings, few, scratch / "paddlex")
        _say({"model": work.model, "fastest": setting, "settings": found["settings"]})
    for flavour in args.flavours:
        found[f"first_{_side(flavour)}"] = first_job(work, flavour, few, scratch)
        _say({"model": work.model, f"first_{_side(flavour)}": found[f"first_{_side(flavour)}"]})
        planned = plan_rayseg(work, flavour, many, limit_s=args.plan_limit_s)
        found[f"plan_{_side(flavour)}_s"] = round(planned.seconds, 1)
        _say({"model": work.model, f"plan_{_side(flavour)}_s": round(planned.seconds, 1), "code": planned.code})
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        for side, done in one_round(work, setting, args.flavours, images):
            runs.setdefault(side, []).append({"failed": done.problem} if done.problem else done.figures())
            _say({"model": work.model, "side": side, **runs[side][-1]})
    found |= {"runs": runs, **ratios(runs)}
    return found


def first_job(work: Work, flavour: str, images: Path, scratch: Path) -> dict[str, Any]:
    """The first job with a model directory on some images, and whether it found what PaddleX's sure setting found."""
    from _agreement import compare, of_paddlex, of_rayseg

    out = scratch / f"job-{flavour}"
    done = run_rayseg(work, flavour, images, keep=out)
    if done.problem:
        return {"failed": done.problem}
    first: dict[str, Any] = {"first_job_s": round(done.run.seconds, 1), "engine": done.engine}
    if (scratch / "paddlex" / "sure").is_dir():
        ours, sizes = of_rayseg(out)
        first["against_paddlex"] = compare(of_paddlex(scratch / "paddlex" / "sure", sizes), ours)
    return first


def one_round(work: Work, setting: str | None, flavours: Sequence[str], images: Path) -> Iterator[tuple[str, Done]]:
    """Each side once."""
    if setting:
        yield "paddlex", run_paddlex(work, setting, images)
    for flavour in flavours:
        yield _side(flavour), run_rayseg(work, flavour, images)


def ratios(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Median, least and greatest of each rate, and of our rates over PaddleX's of the same round."""
    out: dict[str, Any] = {"rates": {}, "ratios": {}}
    for side, rows in runs.items():
        for rate in ("whole", "steady"):
            out["rates"].setdefault(side, {})[rate] = _spread([row.get(rate) for row in rows])
            if side != "paddlex" and "paddlex" in runs:
                pairs = [(row.get(rate), base.get(rate)) for row, base in zip(rows, runs["paddlex"], strict=True)]
                out["ratios"].setdefault(side, {})[rate] = _spread([a / b if a and b else None for a, b in pairs])
    return out


def _spread(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [float(f"{value:.3g}") for value in (statistics.median(known), min(known), max(known))] if known else None


def _side(flavour: str) -> str:
    return "rayseg" if flavour == "paddlex" else f"rayseg-{flavour}"


def _say(row: Mapping[str, Any]) -> None:
    print(json.dumps(row), file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paddlex-python", metavar="PYTHON", help="interpreter of an environment with PaddleX")
    parser.add_argument("--images", type=Path, nargs="+", default=[BENCH.parent / "demo" / "images"], metavar="DIR")
    parser.add_argument("--n", type=int, default=16, help="images of a run (16)")
    parser.add_argument("--check", type=int, default=8, help="images on which settings are tried and results compared (8)")
    parser.add_argument("--models", default=",".join(MODELS), help="names with commas between (one of each of five families)")
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="where exported directories are kept, or are already")
    parser.add_argument("--reference", metavar="DIR", help="weights that find objects: a folder with fill.py and scales/")
    parser.add_argument("--threshold", type=float, help="smallest score of an object (default: the model's)")
    parser.add_argument("--objects", type=int, metavar="N", help="take the threshold that leaves about N objects an image")
    parser.add_argument("--flavours", nargs="+", default=["paddlex", "lean"], choices=["paddlex", "lean"], help="rayseg's")
    parser.add_argument("--backend", default="auto", help="rayseg's engine (auto)")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, metavar="MODE/BATCH/PROCESSES", help="PaddleX's, to be tried")
    parser.add_argument("--threads", type=int, default=2, help="CPUs that a side may use (2)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=600.0, help="for one run of a side (600)")
    parser.add_argument("--plan-limit-s", type=float, default=600.0, help="for choosing rayseg's engine, once a directory (600)")
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.threshold is not None and args.objects:
        parser.error("--threshold and --objects exclude each other")
    for setting in args.settings:
        if len(parts := setting.split("/")) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
            parser.error(f"--settings {setting}: expected MODE/BATCH/PROCESSES, such as {SETTINGS[0]}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended and what is temporary goes
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name), args.models_dir or Path(name, "models")
        report: dict[str, Any] = {"threads": args.threads, "rounds": args.rounds, "limit_s": args.limit_s}
        report |= photographs(args.images, args.n, folder / "all")
        photographs([folder / "all"], min(args.check, args.n), folder / "few")
        archive(folder / "all", folder / "many", 10)
        report["models"] = {}
        for model in args.models.split(","):
            directory = (root / model).resolve()
            if not all((directory / flavour).is_dir() for flavour in ("paddlex", "lean")):
                export(model, directory, args.reference)
            work = Work(model, directory, args.threshold, args.threads, args.limit_s, args.backend, args.paddlex_python)
            report["models"][model] = one_model(work, args, folder / "all", folder / "few", folder / "many", folder / model)
            if args.out:
                args.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
