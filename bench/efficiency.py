"""How near the pipeline comes to the sum of its parts.

The stages run image by image in one process with one thread and their CPU-seconds are added up; then the job runs on
the same images. efficiency = CPU-seconds / cores / wall time of the job from its first to its last commit's stage,
start-up of Ray and loading of models taken off by running the job twice: on the first `--warm` images and on all, in
one Ray session; the difference is the time of the rest.

    python bench/efficiency.py --model demo/model --source demo/images --images 256 --cores 2
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from rayseg.config.segment import SegmentSettings


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
    predictor.run([prepare(spec, decode(paths[0].read_bytes()))], batch_size=1)
    seconds = {"decode": 0.0, "predict": 0.0, "encode": 0.0}
    for path in paths:
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


def job_seconds(settings: SegmentSettings) -> tuple[float, dict[str, float]]:
    """Wall time of a job in a Ray session that is up, and its notes on stages."""
    from rayseg.pipeline.job import run_job
    from rayseg.pipeline.progress import Progress

    result = run_job(settings, progress=Progress(quiet=True))
    assert result.complete, result.findings.problems
    note = json.loads(next(Path(settings.out, "runs").iterdir()).read_text())
    return result.seconds, note["stage_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--source", default="demo/images")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--warm", type=int, default=32)
    parser.add_argument("--sample", type=int, default=32, help="images measured in one process")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out")
    args = parser.parse_args()
    from rayseg.pipeline.runtime import connected

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, n in (("warm", args.warm), ("all", args.images)):
            (folder / part).mkdir()
            archive(Path(args.source), folder / part, n)
        sample = sorted((folder / "all").iterdir())[: args.sample]
        parts = stage_seconds(args.model, sample)
        per_image = {k: v / len(sample) for k, v in parts.items()}
        runs = []
        with connected(num_cpus=args.cores):
            for i in range(args.runs):
                walls = {}
                for part in ("warm", "all"):
                    settings = SegmentSettings(str(folder / part), str(folder / f"out-{part}-{i}"), args.model)
                    walls[part], stages = job_seconds(settings)
                rest = args.images - args.warm
                steady = (walls["all"] - walls["warm"]) / rest
                runs.append({"wall_per_image_s": steady, "job_s": walls["all"], "stage_seconds": stages})
    ideal = sum(per_image.values()) / args.cores
    found = {
        "cores": args.cores,
        "images": args.images,
        "cpu_seconds_per_image": per_image,
        "efficiency": [round(ideal / run["wall_per_image_s"], 3) for run in runs],
        "images_per_second": [round(1 / run["wall_per_image_s"], 2) for run in runs],
        "runs": runs,
    }
    print(json.dumps(found, indent=2))
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
