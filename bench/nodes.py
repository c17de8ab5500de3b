"""How a job grows with its nodes: 1, 2 and 4 logical nodes on this machine, with a predictor that sleeps instead of computing.

A logical node is a Ray node of its own (raylet, object store, workers) with so many logical CPUs; all of them share the real
ones. So this measures what sharing work out costs, not what more cores give. The rate is that between the first and the last
tenth of the commits, so that starting workers and loading models, which here all do on the same cores, is not in it.

    python bench/nodes.py --nodes 1 2 4 --images 1000
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _commits import steady_rate


def tiny(folder: Path, images: int) -> None:
    """So many names of one small PNG."""
    import os

    import cv2
    import numpy as np

    folder.mkdir(parents=True)
    seed = folder.parent / f"{folder.name}.png"
    cv2.imwrite(str(seed), np.full((16, 16, 3), 60, np.uint8))
    for i in range(images):
        os.link(seed, folder / f"{i:07d}.png")


def run_one(folder: Path, args: argparse.Namespace, nodes: int) -> dict[str, object]:
    """The jobs on one cluster, in this process."""
    import ray
    from ray.cluster_utils import Cluster

    from rayseg.config.segment import SegmentSettings
    from rayseg.pipeline.job import run_job
    from rayseg.pipeline.progress import Progress
    from rayseg.pipeline.runtime import connected

    shape = {"num_cpus": args.cpus, "object_store_memory": 150 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**shape, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(**shape)
    cluster.wait_for_nodes()
    out, pool = folder / "out", str(nodes * args.predictors)
    settings = SegmentSettings(str(folder / "in"), str(out), args.model, predictors=pool, chunk_images=args.chunk)
    try:
        with connected(cluster.address):
            result = run_job(settings, progress=Progress(quiet=True))
        assert result.complete, result.findings.problems
    finally:
        ray.shutdown()
        cluster.shutdown()
    busy = json.loads(next((out / "runs").iterdir()).read_text())["predictor_seconds"]
    return {
        "nodes": nodes,
        "predictors": nodes * args.predictors,
        "images": args.images * nodes,
        "job_s": round(result.seconds, 2),
        "images_per_second": round(steady_rate(out), 2),
        "predictors_busy": round(busy["busy"] / max(1e-9, sum(busy.values())), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=1000, help="for each node")
    parser.add_argument("--predictors", type=int, default=1, help="on each node")
    parser.add_argument("--cpus", type=int, default=2, help="logical, of each node")
    parser.add_argument("--chunk", type=int, default=20, help="images in one chunk")
    parser.add_argument("--model", default="fake:instance?pattern=box&delay_ms=50")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "NODES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(Path(args.one[0]), args, int(args.one[1]))))
        return
    runs: list[list[dict[str, object]]] = []
    for _ in range(args.runs):
        some = []
        for nodes in args.nodes:
            with tempfile.TemporaryDirectory() as name:
                tiny(Path(name, "in"), args.images * nodes)
                command = [sys.executable, __file__, *sys.argv[1:], "--one", name, str(nodes)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                some.append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(json.dumps(some[-1]), file=sys.stderr, flush=True)
        runs.append(some)
    speeds = [[float(str(one["images_per_second"])) for one in some] for some in runs]
    ups = [[speed / some[0] for speed in some] for some in speeds]
    found = {
        "model": args.model,
        "nodes": args.nodes,
        "images_per_second": [round(statistics.median(column), 2) for column in zip(*speeds, strict=True)],
        "speed_up": [round(statistics.median(column), 3) for column in zip(*ups, strict=True)],
        "speed_up_of_each_run": [[round(up, 3) for up in some] for some in ups],
        "runs": runs,
    }
    print(json.dumps(found, indent=2))
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
