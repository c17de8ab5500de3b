"""How the pipeline's own cost grows with the archive: time per unit and driver memory from 10^3 to 10^6 units,
predictor for free.

Images are hard links to a few tiny PNGs, so that only the pipeline is measured: listing, planning, fetching, decoding 8
x 8 pixels, two files a chunk. Also: whether a unit takes the same time from the first tenth of a run to its last (by when
ledger files were written), the driver's CPU seconds for a unit, and `rayseg verify` at the end.

    python bench/scale.py --units 1000 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _commits import ms_by_slice

_LINKS = 30_000  # ext4 allows 65,000 names for one file
_PER_FOLDER = 1000


def archive(folder: Path, units: int) -> None:
    """A tree of `units` names of tiny PNGs, a thousand to a folder."""
    import cv2
    import numpy as np

    for i in range(units):
        if i % _LINKS == 0:
            seed = folder.parent / f"seed-{i}.png"
            cv2.imwrite(str(seed), np.full((8, 8, 3), (i // _LINKS) % 250, np.uint8))
        if i % _PER_FOLDER == 0:
            here = folder / f"{i // _PER_FOLDER:05d}"
            here.mkdir(parents=True)
        os.link(seed, here / f"{i:08d}.png")


def run_one(source: str, out: str, cpus: int) -> None:
    """The job in this process; prints time and peak memory of the driver as JSON."""
    from rayseg.config.segment import SegmentSettings
    from rayseg.pipeline.job import run_job
    from rayseg.pipeline.progress import Progress
    from rayseg.pipeline.runtime import connected

    settings = SegmentSettings(source, out, "fake:instance")
    with connected(num_cpus=cpus):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cpu = time.process_time()
        start = time.perf_counter()
        result = run_job(settings, progress=Progress(quiet=True))
        first = time.perf_counter() - start
        cpu = time.process_time() - cpu
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        again = run_job(settings, progress=Progress(quiet=True))
        resume = time.perf_counter() - start
    assert result.complete and again.complete, result.findings.problems
    verify = subprocess.run([sys.executable, "-m", "rayseg.cli", "verify", out], check=False, capture_output=True, text=True)
    assert verify.returncode == 0, verify.stdout + verify.stderr
    units = result.findings.planned
    print(
        json.dumps(
            {
                "units": units,
                "seconds": round(first, 1),
                "ms_per_unit": round(1000 * first / units, 3),
                "ms_per_unit_by_tenths": ms_by_slice(Path(out)),
                "driver_cpu_ms_per_unit": round(1000 * cpu / units, 3),
                "verified": verify.stdout.strip().splitlines()[-1:],
                "nothing_left_seconds": round(resume, 1),
                "driver_rss_mb_before": before // 1024,
                "driver_rss_mb_peak": after // 1024,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--out")
    parser.add_argument("--one", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(*args.one, args.cpus)
        return
    found = []
    for units in args.units:
        with tempfile.TemporaryDirectory() as name:
            archive(Path(name, "images"), units)
            command = [sys.executable, __file__, "--cpus", str(args.cpus), "--one", f"{name}/images", f"{name}/out"]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
            found.append(json.loads(line))
            print(line, flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
