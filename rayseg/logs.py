"""Log lines: short ones for people, or with `--log-json` one JSON object a line for machines.

A line in JSON has time, level, logger and message, and where they are known the job, chunk, unit, uri, page and stage it is
about: of the record (`log.warning(..., extra={"chunk": name})`), else of the block it was written in (`about(job=name)`). Which
events are worth a line is for those who log.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

FIELDS = ("job", "chunk", "unit", "uri", "page", "stage", "error")
"""What a line may be about. `unit` is text: most readers of JSON have no 64-bit integers."""

_about: ContextVar[dict[str, str]] = ContextVar("rayseg_about", default={})  # noqa: B039 - replaced as a whole, never changed


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """What the lines written in this block are about.

    Raises:
        ValueError: a field that is none of FIELDS.
    """
    if unknown := set(fields) - set(FIELDS):
        raise ValueError(f"a log line is never about {sorted(unknown)}; known are {', '.join(FIELDS)}")
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


class JsonLines(logging.Formatter):
    """A record as one line of JSON, with line breaks escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        around = _about.get()
        for name in FIELDS:
            value = getattr(record, name, around.get(name))
            if value is not None:
                line[name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: int, *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send what is logged to `stream`, by default stderr. Ours from `level` on, of other packages warnings and errors.

    Args:
        as_json: as JSON lines, and Python's warnings with them. Without a stream, whatever this process and Ray inside it
            write to stderr becomes such lines, too, of a logger called "stderr".
    """
    if as_json and stream is None:
        stream = _wrapped_stderr()
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    # As text, whoever configured logging before us keeps that; lines of JSON would be spoilt by other formats among them.
    logging.basicConfig(handlers=[handler], force=as_json)
    logging.captureWarnings(as_json)
    logging.getLogger("rayseg").setLevel(level)


def _wrapped_stderr() -> TextIO:
    """The real stderr; what is written to file descriptor 2 from now on is logged line by line.

    Ray's core writes there from C++, past Python's loggers.
    """
    real = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    log = logging.getLogger("stderr")

    def forward() -> None:
        with os.fdopen(reading, encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                if line.strip():
                    log.warning("%s", line.rstrip())

    thread = threading.Thread(target=forward, name="rayseg-stderr", daemon=True)
    thread.start()

    def restore() -> None:
        sys.stderr.flush()
        os.dup2(real.fileno(), 2)  # the pipe ends here, unless a child of ours lives on
        thread.join(timeout=1)

    atexit.register(restore)
    return real
