"""One driver at a time for an output on a local disk. The kernel frees the lock when its process ends, however it ends.

Object stores have no such lock. Two drivers on one bucket cut the same chunks and write the same files, so that they
waste work; see `plan.py` on chunk names.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rayseg.errors import OutputError
from rayseg.pipeline.storage import Store


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Hold the output for this process.

    Raises:
        OutputError: another live process holds it, or the folder cannot be written.
    """
    if not store.local:
        yield
        return
    try:
        os.makedirs(store.root, exist_ok=True)
        file = open(store.path(".lock"), "a+", encoding="utf-8")  # noqa: SIM115 - closed below, after the job
    except OSError as error:
        raise OutputError(f"{store.url}: cannot write there: {error.strerror}. Give another output folder.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise OutputError(
                f"{store.url}: process {file.read().strip() or '?'} is writing there now. Wait for it, or stop it and run again."
            ) from error
        with suppress(OSError):  # on a full disk the lock holds all the same, without the name of its holder
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield
