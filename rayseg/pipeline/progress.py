"""What a run says while it works: live lines in a terminal, a log line now and then elsewhere, nothing with --quiet."""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import ray

from rayseg.pipeline.board import Tally
from rayseg.pipeline.budget import Budget
from rayseg.pipeline.planner import Costs, Expected, corrected, expected, said
from rayseg.pipeline.verify import Findings

log = logging.getLogger(__name__)

_STAGES = ("decode", "predict", "encode")
_LIVE_S, _LOG_S = 0.5, 10.0
_RECENT_S = 120.0  # the time left is told from what was done lately
_SETTLED_S = 20.0  # what holds a job up is not told from its first chunks


class Progress:
    """Receives the events of a job and shows them.

    Args:
        quiet: show nothing but errors.
        stream: where live lines go; live only when it is a terminal.
        log_units: each unit that fails is a log line, and no lines are live: for logs that machines read.

    Attributes:
        noun: what is counted.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, log_units: bool = False) -> None:
        self.noun = "images"
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._log_units = log_units
        self._live = not quiet and not log_units and self._stream.isatty()
        self._lock = threading.Lock()
        self._planned = self._done = self._failed = self._at_start = 0
        self._started = self._shown = time.monotonic()
        self._lines = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._budget: Budget | None = None
        self._pool = ""
        self._expected: Expected | None = None
        self._cpus = 1.0

    @property
    def interval_s(self) -> float:
        """How often `show` is worth calling."""
        return _LIVE_S if self._live else _LOG_S

    def listed(self, units: int) -> None:
        """So many units found so far."""
        if time.monotonic() - self._shown > self.interval_s:
            self._shown = time.monotonic()
            self._write([f"listing: {units} {self.noun} found"])

    def planned(self, units: int, budget: Budget) -> None:
        """Planning is over."""
        self._planned = units
        self._pool = _pool(budget)
        self._say(f"planned {units} {self.noun}; {self._pool}")

    def resumed(self, done: int, failed: int) -> None:
        """So many were done by earlier runs."""
        self._done, self._failed, self._at_start = done, failed, done
        self._started = time.monotonic()
        if done:
            self._say(f"{done} of them are done already ({failed} failed); going on with the rest")

    def expects(self, budget: Budget, expected: Expected | None, *, cpus: float) -> None:
        """How the machine is shared out now, and what was expected of it; None where nothing was measured."""
        self._budget, self._expected, self._cpus = budget, expected, cpus
        if _pool(budget) != self._pool:
            self._say(f"for what is left: {_pool(budget)}")

    def committed(self, done: int, failed: int) -> None:
        """So many are in the ledger now."""
        with self._lock:
            self._done, self._failed = done, failed

    def failed_unit(self, chunk: str, failure: dict[str, Any]) -> None:
        """A unit is in the ledger as failed; the keys of `failure` are those of `stages.STATS`."""
        if self._log_units:
            about = {"chunk": chunk, **{name: failure[name] for name in ("unit", "uri", "page", "stage")}}
            log.warning("failed at %s: %s", failure["stage"], failure["reason"], extra=about)

    def show(self, tallies: dict[str, Tally]) -> None:
        """Show where the job is."""
        if self._quiet:
            return
        self._compare(tallies)
        self._write(self._stage_lines(tallies) if self._live else [self._line()])

    def _compare(self, tallies: dict[str, Tally]) -> None:
        """Say once what holds the job up, where nothing was expected or something else was."""
        budget, costs = self._budget, Costs.of_tallies(tallies)
        if budget is None or costs is None or time.monotonic() - self._started < _SETTLED_S:
            return
        found = expected(costs, budget, cpus=self._cpus)
        self._budget = None
        if self._expected is None:
            self.say(said(found, budget, self._planned - self._done, self.noun))
        elif found.bottleneck != self._expected.bottleneck:
            self.say(corrected(self._expected, found, budget))

    def finished(self, findings: Findings) -> None:
        """The job has ended and its output was checked."""
        self._lines = 0
        left = f", {findings.missing} left" if findings.missing else ""
        self._say(
            f"{findings.done_ok} ok, {findings.failed} failed{left}, {findings.objects} objects, of "
            f"{findings.planned} planned {self.noun}"
        )

    def say(self, text: str) -> None:
        """One line of news."""
        self._lines = 0
        self._say(text)

    def _line(self) -> str:
        with self._lock:
            done, failed = self._done, self._failed
        rate = self._rate(done)
        eta = _clock((self._planned - done) / rate) if rate > 0 else "?"
        share = 100 * done / max(1, self._planned)
        return f"{done}/{self._planned} {self.noun} ({share:.0f}%), {rate:.1f}/s, {failed} failed, {eta} left"

    def _rate(self, done: int) -> float:
        """Units a second lately; since the start while that is not long ago, which includes loading the models."""
        now = time.monotonic()
        self._recent.append((now, done))
        while len(self._recent) > 2 and now - self._recent[1][0] > _RECENT_S:
            self._recent.popleft()
        then, before = self._recent[0] if now - self._started > _RECENT_S else (self._started, self._at_start)
        return (done - before) / max(1e-9, now - then)

    def _stage_lines(self, tallies: dict[str, Tally]) -> list[str]:
        lines = []
        todo = self._planned - self._at_start
        for stage in _STAGES:
            tally = tallies.get(stage, Tally())
            busy = sum(tally.seconds.values()) / max(1e-9, time.monotonic() - self._started)
            filled = round(24 * tally.images / max(1, todo))
            lines.append(f"{stage:>8} {'━' * filled}{'─' * (24 - filled)} {tally.images}/{todo}  {busy:.1f} cores busy")
        return [*lines, self._line()]

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._write([text])
            self._lines = 0

    def _write(self, lines: list[str]) -> None:
        if self._quiet:
            return
        if not self._live:
            for line in lines:
                log.info("%s", line)
            return
        up = f"\x1b[{self._lines}A" if self._lines else ""
        self._stream.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
        self._stream.flush()
        self._lines = len(lines)


@contextmanager
def watch(board: Any, progress: Progress) -> Iterator[None]:
    """Show the board's state now and then until the block ends."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(progress.interval_s):
            try:
                tallies, _ = ray.get(board.read.remote(), timeout=progress.interval_s)
            except ray.exceptions.RayError:
                continue  # a busy or lost board costs a line, never the job
            progress.show(tallies)

    here = contextvars.copy_context()  # what log lines are about
    thread = threading.Thread(target=here.run, args=(loop,), name="rayseg-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _pool(budget: Budget) -> str:
    low, high, threads = budget.min_predictors, budget.max_predictors, budget.threads
    many = f"{low}:{high}" if low != high else high
    return f"{many} predictor{'s' * (high > 1)} on {budget.device}, {threads} thread{'s' * (threads > 1)} each"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
