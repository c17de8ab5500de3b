"""How near the pipeline comes to the sum of its parts.

The stages run image by image in one process with one thread and their CPU-seconds are added up; then the job runs on
the same images. efficiency = CPU-seconds / cores / wall time of the job from its first to its last commit's stage,
start-up of Ray and loading of models taken off by running the job twice: on the first `--warm` images and on all, in
one Ray session; the difference is the time of the rest. On a busy machine that difference is noise: the same from the first
to the last tenth of the commits of one job is given, too. A scripted model (--busy-ms) keeps a core
busy for so long an image; one that sleeps would leave its core to the decoders.

    python bench/efficiency.py --model demo/model --source demo/images --images 256 --cores 2
    python bench/efficiency.py --busy-ms 10 100
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _commits import steady_rate
from _cpu import TreeCpu, watched_cpu

from rayseg.config.segment import SegmentSettings

_FIRST = 4


def stage_seconds(model: str, paths: list[Path]) -> dict[str, float]:
    """CPU-seconds of each stage over some images, in this process."""
    from rayseg.images import decode
    from rayseg.pipeline.plan import parquet_bytes
    from rayseg.predict.families import finish
    from rayseg.predict.model_dir import load_model_dir
    from rayseg.predict.predictor import Predictor
    from rayseg.predict.prepare import prepare
    from rayseg.tables import Unit, objects_table

    spec = load_model_dir(model)
    predictor = Predictor(spec, device="cpu", threads=1)
    seconds = {"decode": 0.0, "predict": 0.0, "encode": 0.0}
    for n, path in enumerate([*paths[:_FIRST], *paths]):
        if n == _FIRST:  # until here modules were loaded
            seconds = dict.fromkeys(seconds, 0.0)
        start = time.process_time()
        prepared = prepare(spec, decode(path.read_bytes()))
        decoded = time.process_time()
        (raw,) = predictor.run([prepared], batch_size=1)
        predicted = time.process_time()
        parquet_bytes(objects_table(Unit(str(path)), finish(spec, raw), spec.labels))
        encoded = time.process_time()
        for name, value in zip(seconds, (decoded - start, predicted - decoded, encoded - predicted), strict=True):
            seconds[name] += value
    return seconds


def archive(source: Path, folder: Path, n: int) -> list[Path]:
    """`n` files, the source's images over and over."""
    images = sorted(p for p in source.iterdir() if p.suffix.lower() in (".png", ".jpg"))
    out = []
    for i in range(n):
        path = folder / f"{i:06d}{images[i % len(images)].suffix}"
        shutil.copy(images[i % len(images)], path)
        out.append(path)
    return out


def job_seconds(settings: SegmentSettings) -> tuple[float, dict[str, Any]]:
    """Wall time of a job in a Ray session that is up, and its note of itself."""
    from rayseg.pipeline.job import run_job
    from rayseg.pipeline.progress import Progress

    result = run_job(settings, progress=Progress(quiet=True))
    assert result.complete, result.findings.problems
    return result.seconds, json.loads(next(Path(settings.out, "runs").iterdir()).read_text())


def alone(model: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """CPU-seconds of an image by stage; before Ray and its threads are in this process."""
    sample = sorted((folder / "all").iterdir())[: args.sample]
    return {stage: took / len(sample) for stage, took in stage_seconds(model, sample).items()}


def measured(model: str, per_image: dict[str, float], folder: Path, args: argparse.Namespace, cpu: TreeCpu) -> dict[str, Any]:
    """One model: the jobs, against its stages alone."""
    ideal = sum(per_image.values()) / args.cores
    rest = args.images - args.warm
    runs = []
    for i in range(args.runs):
        notes, walls, cpu_s = {}, {}, {}
        for part in ("warm", "all"):
            out = folder / f"out-{abs(hash(model))}-{part}-{i}"
            before = cpu.seconds
            walls[part], notes[part] = job_seconds(SegmentSettings(str(folder / part), str(out), model))
            cpu_s[part] = cpu.seconds - before
        busy = notes["all"]["predictor_seconds"]
        runs.append(
            {
                "wall_per_image_s": (walls["all"] - walls["warm"]) / rest,
                "cpu_per_image_s": (cpu_s["all"] - cpu_s["warm"]) / rest,
                "job_s": walls["all"],
                "efficiency_between_commits": ideal * steady_rate(out),
                "predictors_waiting_share": busy["waiting"] / max(1e-9, sum(busy.values())),
                "stage_seconds_per_image": {k: v / args.images for k, v in notes["all"]["stage_seconds"].items()},
            }
        )
    return {
        "model": model,
        "cores": args.cores,
        "images": args.images,
        "seconds_per_image_alone": per_image,
        "efficiency": [round(ideal / run["wall_per_image_s"], 3) for run in runs],
        "efficiency_between_commits": [round(run["efficiency_between_commits"], 3) for run in runs],
        "images_per_second": [round(1 / run["wall_per_image_s"], 2) for run in runs],
        "where_the_rest_goes_ms_per_image": {
            "ideal": round(1000 * ideal, 3),
            "wall": round(1000 * statistics.median(run["wall_per_image_s"] for run in runs), 3),
            "cpu_beside_the_stages": round(
                1000 * (statistics.median(r["cpu_per_image_s"] for r in runs) - sum(per_image.values())), 3
            ),
            "predictors_waiting_share": round(statistics.median(run["predictors_waiting_share"] for run in runs), 3),
        },
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model")
    parser.add_argument(
        "--busy-ms", type=float, nargs="+", help="in place of a model, scripted ones that keep a core busy so long an image"
    )
    parser.add_argument("--source", default="demo/images")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--warm", type=int, default=32)
    parser.add_argument("--sample", type=int, default=32, help="images measured in one process")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out")
    args = parser.parse_args()
    from rayseg.pipeline.runtime import connected

    models = [f"fake:instance?pattern=box&busy_ms={busy:g}" for busy in args.busy_ms or ()] or [args.model]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, n in (("warm", args.warm), ("all", args.images)):
            (folder / part).mkdir()
            archive(Path(args.source), folder / part, n)
        stages = {model: alone(model, folder, args) for model in models}
        with watched_cpu() as cpu, connected(num_cpus=args.cores):
            found = [measured(model, stages[model], folder, args, cpu) for model in models]
    print(json.dumps({"models": found}, indent=2))
    if args.out:
        Path(args.out).write_text(json.dumps({"models": found}, indent=2))


if __name__ == "__main__":
    main()
