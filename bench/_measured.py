"""Run a command to its end or to a limit, and say what it took: seconds, CPU seconds, and memory of all its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

TICK_S, LOOK_S, GRACE_S = 0.1, 1.0, 45.0


@dataclass
class Run:
    """What a command took.

    Attributes:
        began: seconds since the epoch.
        seconds: from its start to its end, or to when it was told to stop.
        cpu_seconds: of all its processes, as last seen: what one did in the last second of its life is missing.
        code: exit status; of a run that was stopped, nothing follows from it.
        stopped: it had not ended at its limit.
        peak_mb: `unshared`, the most that its processes together held for themselves; `with_shared`, the same and their
            shared pages, each page once (Linux only); `largest`, the most that one of them held for itself.
        said: the end of what it wrote to stdout and stderr.
    """

    began: float
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    code: int = 0
    stopped: bool = False
    peak_mb: dict[str, float] = field(default_factory=dict)
    said: str = ""

    @property
    def why(self) -> str:
        """The last line that names an error, or the last line."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()] or [f"exit {self.code}"]
        return next((line for line in reversed(lines) if "Error" in line or "error:" in line), lines[-1])[:300]


def run(command: Sequence[str], *, limit_s: float, cores: int, env: Mapping[str, str] | None = None) -> Run:
    """Run a command on the first `cores` CPUs, where the system can pin processes.

    At the limit it gets SIGINT, as if a user had pressed Ctrl-C, and some time to end; then all its processes are killed.

    Args:
        env: added to this process's environment.
    """
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        found = Run(began=time.time())
        with _pinned(cores):
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})}, start_new_session=True)
        seen: dict[psutil.Process, float] = {}
        try:
            looked = 0.0
            while process.poll() is None and not found.stopped:
                if time.monotonic() - looked > LOOK_S:
                    looked = time.monotonic()
                    _look(process.pid, seen, found.peak_mb)
                time.sleep(TICK_S)
                found.stopped = time.monotonic() - start > limit_s
            found.seconds = time.monotonic() - start
        finally:
            _end(process, list(seen))
        found.code, found.cpu_seconds = process.returncode, sum(seen.values())
        log.seek(max(0, log.seek(0, os.SEEK_END) - 20_000))
        found.said = log.read().decode(errors="replace")
    return found


@contextmanager
def _pinned(cores: int) -> Iterator[None]:
    """What is started here keeps to the first CPUs, where the system can do that; so does all that it starts."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _look(pid: int, seen: dict[psutil.Process, float], peak_mb: dict[str, float]) -> None:
    """Note the CPU time and the memory of a process and all below it."""
    try:
        top = psutil.Process(pid)
        members = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    own, whole = [], []
    for member in members:
        try:
            times, memory = member.cpu_times(), member.memory_full_info()
        except psutil.Error:
            continue
        seen[member] = times.user + times.system
        own.append(memory.uss / 2**20)
        whole.append(getattr(memory, "pss", memory.uss) / 2**20)
    now = {"unshared": sum(own), "with_shared": sum(whole), "largest": max(own, default=0.0)}
    for name, value in now.items():
        peak_mb[name] = max(peak_mb.get(name, 0.0), value)


def _end(process: subprocess.Popen[bytes], members: list[psutil.Process]) -> None:
    """Nothing of it runs on; of a process whose number has been given to another since, that other is left alone."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for member in members:
        try:
            member.kill()
        except psutil.Error:
            continue
