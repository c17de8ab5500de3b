"""Local files that appear under their name only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayseg.errors import ConfigError


@contextmanager
def appearing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`, renamed when the block ends well and removed when it does not.

    Raises:
        ConfigError: the path is a URL.
    """
    if "://" in os.fspath(path):
        raise ConfigError(f"{os.fspath(path)}: this file is written locally only; copy it afterwards")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
