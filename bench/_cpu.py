"""CPU seconds of this process with everything it started, and what those started, from /proc.

Watched, since Ray's workers leave no account of themselves when they end: what one did in its last moments is missing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_EVERY_S = 0.3


@dataclass
class TreeCpu:
    """Grows while it is watched."""

    _seen: dict[tuple[int, str], float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of all processes that were seen, as they are now or were when last seen."""
        self.look()
        return sum(self._seen.values())

    def look(self) -> None:
        """Read /proc once."""
        parent, took = {}, {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            pid = int(folder.name)
            parent[pid] = int(after_name[1])
            took[pid] = after_name[19], sum(int(ticks) for ticks in after_name[11:13]) / _TICK  # when it began, user + system
        me = os.getpid()
        for pid, (began, seconds) in took.items():
            above = pid
            while above and above != me:
                above = parent.get(above, 0)
            if above == me:
                self._seen[pid, began] = seconds


@contextmanager
def watched_cpu() -> Iterator[TreeCpu]:
    """Inside the block the CPU seconds of this process's tree are known at any time."""
    tree, stop = TreeCpu(), threading.Event()

    def loop() -> None:
        while not stop.wait(_EVERY_S):
            tree.look()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield tree
    finally:
        stop.set()
        thread.join()
