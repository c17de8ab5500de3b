"""Drivers as users start them, `rayseg segment` in a process of its own, to be killed at a chosen moment.

And what they leave behind: commits, debris, files that were read.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
UNITS, CHUNK_IMAGES = 320, 4
CHUNKS = UNITS // CHUNK_IMAGES
PATIENCE_S = 240.0
"""A job of this size takes seconds; on a machine that is busy with other things, a minute."""


def segment(source: Path | str, out: Path | str, *more: str, delay_ms: float = 40, num_cpus: int = 2) -> list[str]:
    """The command of a job with the fake predictor. Of options that are given twice, the last counts."""
    options = [
        "--num-cpus",
        str(num_cpus),
        "--predictors",
        "2",
        "--chunk-images",
        str(CHUNK_IMAGES),
        "--no-report",
        "-q",
    ]
    return ["segment", str(source), str(out), "--model", f"fake:instance?delay_ms={delay_ms:g}", *options, *more]


def start(arguments: Sequence[str], *, module: str = "rayseg.cli", env: dict[str, str] | None = None) -> subprocess.Popen:
    """`python -m rayseg.cli ARGUMENTS`, not waited for; its words are kept for `end`."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment() | (env or {}),
        cwd=ROOT,
    )


def end(process: subprocess.Popen, *, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
    """(exit status, all it said). One that does not end by itself is killed, and the test with it."""
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        raise AssertionError(f"{process.args} still ran after {timeout_s:g} s and had said: {said}") from None
    return process.returncode, said


def run(
    arguments: Sequence[str],
    *,
    module: str = "rayseg.cli",
    env: dict[str, str] | None = None,
    timeout_s: float = PATIENCE_S,
) -> tuple[int, str]:
    """Start a driver and wait: (exit status, all it said)."""
    return end(start(arguments, module=module, env=env), timeout_s=timeout_s)


def environment() -> dict[str, str]:
    """Of a driver: workers find rayseg and the tests, libraries share the cores."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}


def wait_until(reached: Callable[[], object], process: subprocess.Popen, *, timeout_s: float = PATIENCE_S) -> bool:
    """Wait until something is true; False when the process ends before."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, f"{process.args} did not get there in {timeout_s:g} s"
        time.sleep(0.003)
    return True


def kill_when(
    process: subprocess.Popen, reached: Callable[[], bool], *, delay_s: float = 0.0, timeout_s: float = PATIENCE_S
) -> bool:
    """SIGKILL the process `delay_s` after something is true; False when it ended before by itself."""
    if not wait_until(reached, process, timeout_s=timeout_s):
        return False
    time.sleep(delay_s)
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()
    return process.returncode == -signal.SIGKILL


def commits(out: Path) -> int:
    """How many chunks are committed."""
    return sum(name.endswith(".parquet") for name in _names(out / "images"))


def committed_units(out: Path) -> int:
    """How many rows the ledger has."""
    files = sorted((out / "images").glob("*.parquet"))
    return sum(len(pd.read_parquet(file, columns=["unit_id"])) for file in files)


def debris(out: Path) -> list[str]:
    """What a killed job may leave for a while and a finished one must not.

    Half-written files, files without their other half, listings.
    """
    left = [str(p.relative_to(out)) for p in out.rglob(".*") if p.name != ".lock"]
    images, objects = ({n for n in _names(out / folder) if not n.startswith(".")} for folder in ("images", "objects"))
    return sorted([*left, *(f"objects/{n}" for n in objects - images), *(f"images/{n}" for n in images - objects)])


def descendants(pid: int) -> dict[int, str]:
    """Titles of all processes below one, by process id."""
    parents, titles = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry)] = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue  # it ended meanwhile
    found, waiting = {}, [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, its in parents.items() if its == parent]
        found |= {child: titles[child] for child in children if child in titles}
        waiting += children
    return found


class Reads:
    """Which files of an archive were read since `reset`, by their access times: the work that a kill has cost."""

    def __init__(self, source: Path) -> None:
        self._files = [p for p in sorted(source.rglob("*")) if p.is_file()]

    def reset(self) -> None:
        for path in self._files:
            os.utime(path, ns=(0, path.stat().st_mtime_ns))

    def count(self) -> int:
        return sum(path.stat().st_atime_ns > 0 for path in self._files)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
