"""The two sides of against_paddlex.py: one run of PaddleX, one of rayseg, on a folder of images, and what each left."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _measured import Run, run


@dataclass(frozen=True)
class Work:
    """One model, and what both sides do with it."""

    model: str
    folder: Path
    threshold: float | None
    threads: int
    limit_s: float
    backend: str
    python: str | None


@dataclass(frozen=True)
class Done:
    """What one run of a side left: seconds since the epoch of each result, bytes, and objects where they were counted."""

    run: Run
    times: list[float]
    bytes: int
    objects: int | None
    engine: str | None = None

    @property
    def problem(self) -> str | None:
        """Why there is nothing to count: it ended by itself and not well, or not one result was there at the limit."""
        if self.run.code and not self.run.stopped:
            return self.run.why
        return None if self.times else f"no result after {self.run.seconds:.0f} s"

    def figures(self) -> dict[str, Any]:
        """The run as one row of the report."""
        n = len(self.times)
        return {
            "images": n,
            "stopped": self.run.stopped,
            "seconds": round(self.run.seconds, 1),
            "whole": _short(n / self.run.seconds),
            "steady": _short(steady(self.times)),
            "cpu_s_per_image": _short(self.run.cpu_seconds / n if n else None),
            "peak_mb": {name: round(value) for name, value in self.run.peak_mb.items()},
            "bytes_per_image": self.bytes // n if n else None,
            "objects": self.objects,
            "engine": self.engine,
        }


def steady(times: Sequence[float]) -> float | None:
    """Results a second: the slope of the line through (time, number). None where all came at once."""
    order = np.sort(np.asarray(times, dtype=np.float64))
    if len(order) < 2 or order[-1] - order[0] < 1e-3:
        return None
    return float(np.polyfit(order - order[0], np.arange(len(order)), 1)[0])


def run_paddlex(work: Work, setting: str, images: Path, *, keep: Path | None = None) -> Done:
    """PaddleX on a folder of images.

    Args:
        setting: run mode / batch size / processes. A word after `mkldnn-` is a pass that Paddle is told to leave out.
        keep: a folder that gets the results as arrays.
    """
    from rayseg.predict.model_dir import load_model_dir

    mode, batch, processes = setting.split("/")
    directory = work.folder / "paddlex"
    with tempfile.TemporaryDirectory(prefix="paddlex-") as name:
        out, times = Path(name, "out"), Path(name, "times")
        out.mkdir()
        times.touch()
        paths = [str(path) for path in sorted(images.iterdir())]
        job = {
            "name": load_model_dir(directory).name, "model_dir": str(directory), "paths": paths, "run_mode": mode,
            "batch": int(batch), "processes": int(processes), "threads": work.threads, "threshold": work.threshold,
            "out": str(out), "times": str(times), "keep": paths if keep else [], "keep_in": str(keep),
        }  # fmt: skip
        path = Path(name, "job.json")
        path.write_text(json.dumps(job))
        command = [str(work.python), str(Path(__file__).with_name("_paddlex.py")), str(path)]
        env = {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True", "PADDLE_PDX_CPU_NUM_THREADS": str(work.threads)}
        took = run(command, limit_s=work.limit_s, cores=work.threads, env=env)
        rows = [json.loads(line) for line in times.read_text().splitlines()]
        objects = None if any(row[1] is None for row in rows) else sum(row[1] for row in rows)
        return Done(took, [row[0] for row in rows], _size(out), objects, setting)


def run_rayseg(work: Work, flavour: str, images: Path, *, keep: Path | None = None) -> Done:
    """`rayseg segment` on a folder of images.

    Args:
        keep: the job's output stays, there.
    """
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="rayseg-") as name:
        out = keep or Path(name, "out")
        took = run(_segment(work, flavour, images, out), limit_s=work.limit_s, cores=work.threads)
        files = list((out / "images").glob("*.parquet"))
        counts = [(path.stat().st_mtime, pq.read_table(path, columns=["n_objects", "status"])) for path in files]
        times = [moment for moment, table in counts for status in table["status"].to_pylist() if status == "ok"]
        objects = sum(sum(table["n_objects"].to_pylist()) for _, table in counts)
        return Done(took, times, _size(out), objects, _engine(out))


def plan_rayseg(work: Work, flavour: str, images: Path, *, limit_s: float) -> Run:
    """`rayseg segment --plan-only`: the engine is chosen and remembered on this machine, and a sample is run."""
    with tempfile.TemporaryDirectory(prefix="rayseg-") as name:
        command = [*_segment(work, flavour, images, Path(name, "out")), "--plan-only"]
        return run(command, limit_s=limit_s, cores=work.threads)


def _segment(work: Work, flavour: str, images: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", "rayseg.cli", "segment", str(images), str(out), "--model", str(work.folder / flavour)]
    command += ["--backend", work.backend, "--num-cpus", str(work.threads), "--device", "cpu", "--no-report"]
    return command + ([] if work.threshold is None else ["--threshold", str(work.threshold)])


def _engine(out: Path) -> str | None:
    """What the job ran on, by its own note; of a job that was stopped, what it had chosen."""
    notes = [json.loads(path.read_text()) for path in (out / "runs").glob("*.json")]
    ran = {note["backend"] for note in notes if note.get("backend")}
    job = out / "job.json"
    if not ran and job.exists():
        ran = {entry["choice"]["engine"] for entry in (json.loads(job.read_text()).get("engine") or {}).values()} - {None}
    return ", ".join(sorted(ran)) or None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
