"""Death at the three narrow places of a commit, once each: put into every worker of a `hooked` driver.

    objects   the objects file is written under its temporary name, not yet renamed
    images    the objects file is there; the ledger file is written under its temporary name
    after     both are there, and nobody has been told

RAYSEG_TEST_DIE_AT names the places, comma-separated, RAYSEG_TEST_MARKS a folder that remembers where death has struck,
RAYSEG_TEST_VICTIM who dies: `worker`, or `driver` (with the worker, so that it cannot finish its write).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_EARLIEST = 5
"""Commits that go well before the first death."""


def install() -> None:
    """Runs in each worker before its first task."""
    from rayseg.pipeline import storage

    places, marks = os.environ["RAYSEG_TEST_DIE_AT"].split(","), Path(os.environ["RAYSEG_TEST_MARKS"])

    class Os:
        """`os` as storage.py sees it."""

        def __getattr__(self, name: str):
            return getattr(os, name)

        def replace(self, temporary: str, final: str) -> None:
            folder = Path(final).parent
            busy = folder.name in ("objects", "images") and sum(1 for _ in folder.glob("*.parquet")) >= _EARLIEST
            if busy and folder.name in places:
                _die_once(marks / folder.name)
            os.replace(temporary, final)
            if busy and folder.name == "images" and "after" in places:
                _die_once(marks / "after")

    storage.os = Os()


def _die_once(mark: Path) -> None:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    if os.environ["RAYSEG_TEST_VICTIM"] == "driver":
        os.kill(int(os.environ["RAYSEG_TEST_DRIVER"]), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
