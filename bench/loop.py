"""What the pipeline costs against a loop written by hand: the same engine, the same images, the same cores.

The loop is one process: read, decode, prepare, run, finish, and one Parquet file at the end; the engine has all cores. The
pipeline is a job on one node. Both start from nothing, so loading is in both; Ray's own start is told apart. A scripted model
sleeps instead of computing (delay_ms), and then each side has one predictor.

    python bench/loop.py --model demo/model --source demo/images --images 500 --cores 2
    python bench/loop.py --model 'fake:instance?pattern=box&delay_ms=10' --images 500
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _cpu import watched_cpu
from efficiency import archive


def by_hand(model: str, source: str, out: str, *, backend: str, threads: int) -> dict[str, float]:
    """The loop, in this process."""
    begun = time.perf_counter()
    from rayseg.images import decode
    from rayseg.pipeline.plan import parquet_bytes
    from rayseg.predict.families import finish
    from rayseg.predict.model_dir import load_model_dir
    from rayseg.predict.predictor import Predictor
    from rayseg.predict.prepare import prepare
    from rayseg.tables import Unit, objects_table

    spec = load_model_dir(model)
    predictor = Predictor(spec, backend, device="cpu", threads=threads)
    loaded = time.perf_counter()
    tables = []
    paths = sorted(Path(source).iterdir())
    for path in paths:
        (raw,) = predictor.run([prepare(spec, decode(path.read_bytes()))], min_score=spec.draw_threshold)
        tables.append(objects_table(Unit(str(path)), finish(spec, raw), spec.labels))
    import pyarrow as pa

    Path(out).write_bytes(parquet_bytes(pa.concat_tables(tables)))
    ended = time.perf_counter()
    return {
        "wall_s": ended - begun,
        "start_s": loaded - begun,
        "cpu_s": time.process_time(),
        "objects": sum(t.num_rows for t in tables),
    }


def by_job(model: str, source: str, out: str, *, backend: str, cores: int, predictors: str) -> dict[str, float]:
    """The job, in a Ray that is started for it."""
    begun = time.perf_counter()
    from rayseg.config.segment import SegmentSettings
    from rayseg.pipeline.job import run_job
    from rayseg.pipeline.progress import Progress
    from rayseg.pipeline.runtime import connected

    settings = SegmentSettings(source, out, model, backend=backend, predictors=predictors)
    with watched_cpu() as cpu, connected(num_cpus=cores):
        up = time.perf_counter()
        result = run_job(settings, progress=Progress(quiet=True))
        ended = time.perf_counter()
        cpu_s = cpu.seconds
    assert result.complete, result.findings.problems
    files = sorted(path.stat().st_mtime for path in Path(out, "images").iterdir())
    after_first = time.time() - (time.perf_counter() - ended) - files[0]
    return {
        "wall_s": ended - begun,
        "ray_start_s": up - begun,
        "job_s": ended - up,
        "from_first_commit_s": after_first,
        "cpu_s": cpu_s,
        "objects": result.findings.objects,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--source", default="demo/images")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--backend", default="paddle-onednn", help="of both; the fake one is taken for fake models")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out")
    parser.add_argument("--one", nargs=3, metavar=("WHICH", "SOURCE", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    fake = args.model.startswith("fake:")
    backend = "fake" if fake else args.backend
    if args.one:
        which, source, out = args.one
        if which == "loop":
            found = by_hand(args.model, source, out, backend=backend, threads=args.cores)
        else:
            predictors = "1" if fake else "auto"
            found = by_job(args.model, source, out, backend=backend, cores=args.cores, predictors=predictors)
        print(json.dumps(found))
        return
    runs: dict[str, list[dict[str, float]]] = {"loop": [], "job": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        archive(Path(args.source), folder / "in", args.images)
        for i in range(args.runs):  # in turn, so that a machine that slows down slows both
            for which, some in runs.items():
                command = [sys.executable, __file__, "--model", args.model, "--cores", str(args.cores), "--backend", args.backend]
                command += ["--one", which, str(folder / "in"), str(folder / f"{which}-{i}")]
                some.append(
                    json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
                )
                print(which, {key: round(value, 2) for key, value in some[-1].items()}, file=sys.stderr, flush=True)
    ratios = [loop["wall_s"] / job["wall_s"] for loop, job in zip(runs["loop"], runs["job"], strict=True)]
    in_ray = [loop["wall_s"] / job["job_s"] for loop, job in zip(runs["loop"], runs["job"], strict=True)]
    found = {
        "model": args.model,
        "backend": backend,
        "images": args.images,
        "cores": args.cores,
        "images_per_second": {
            "loop": round(args.images / statistics.median(r["wall_s"] for r in runs["loop"]), 2),
            "job": round(args.images / statistics.median(r["job_s"] for r in runs["job"]), 2),
            "job_with_start_of_ray": round(args.images / statistics.median(r["wall_s"] for r in runs["job"]), 2),
        },
        "cpu_s_per_image": {w: round(statistics.median(r["cpu_s"] for r in some) / args.images, 4) for w, some in runs.items()},
        "job_speed_over_loop": [round(x, 3) for x in in_ray],
        "job_speed_over_loop_with_start_of_ray": [round(x, 3) for x in ratios],
        "runs": runs,
    }
    print(json.dumps(found, indent=2))
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
