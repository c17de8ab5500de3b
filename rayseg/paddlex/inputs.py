"""What `predict` takes, one picture at a time: arrays, paths, folders, URLs, lists of them, pages of TIFF and PDF.

Nothing is read before it is its turn, and a file that cannot be read is an error of its own turn. How pixels are read is
origins.py's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rayseg.errors import ConfigError, RaysegError, SourceError
from rayseg.models.download import is_url
from rayseg.paddlex.origins import ArrayOrigin, BytesOrigin, FileOrigin, Origin, fetch, pages, read_file, read_page

SUFFIXES = (
    *(".bmp", ".dib", ".jpeg", ".jpg", ".png", ".webp", ".tif", ".tiff", ".pdf"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".sr", ".ras"),
)
"""Files that are taken from a folder: those PaddleX takes. The last six we cannot decode, and say so."""


@dataclass(frozen=True)
class Picture:
    """One picture, named but not yet read.

    Attributes:
        input_path: as results have it; None for arrays.
        page_index: from 0, of files that are made of pages; else None.
        name: for messages.
        origin: gives its pixels again, later.
        read: gives its pixels now; raises RaysegError.
    """

    input_path: str | None
    page_index: int | None
    name: str
    origin: Origin | None
    read: Callable[[], np.ndarray]


def pictures(given: Any) -> Iterator[Picture]:
    """All pictures of an input, in its order; files of a folder in the order of their whole paths."""
    yield from _pictures(given, "input")


def check_input(given: Any) -> None:
    """Raise ConfigError for what cannot be an input; what a list holds is checked when it is its turn."""
    if isinstance(given, (str, os.PathLike, np.ndarray)):
        return
    if isinstance(given, Mapping):
        raise ConfigError(f"a dict is no input: give the path, array or list itself (got keys {', '.join(map(str, given))})")
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise ConfigError(f"{type(given).__name__} is no input: give a path, URL, folder, uint8 BGR array, or a list of them")


def _pictures(given: Any, place: str) -> Iterator[Picture]:
    try:
        check_input(given)
    except ConfigError as error:
        yield _broken(None, place, error)
        return
    if isinstance(given, np.ndarray):
        origin = ArrayOrigin(given)
        yield Picture(None, None, place, origin, origin.rgb)
    elif isinstance(given, (str, os.PathLike)):
        yield from _at(os.fsdecode(given))
    else:
        for index, one in enumerate(given):
            yield from _pictures(one, f"{place}[{index}]")


def _at(path: str) -> Iterator[Picture]:
    if is_url(path):
        yield from _file(path, partial(fetch, path), keep=True)
    elif "://" in path:
        error = SourceError("only http and https are read here; `rayseg segment` reads object stores")
        yield _broken(path, path, error)
    elif os.path.isdir(path):
        empty = True
        for file in _walk(path):
            empty = False
            yield from _file(file, partial(read_file, file), keep=False)
        if empty:
            yield _broken(path, path, SourceError(f"the folder holds no image (looked for {' '.join(SUFFIXES)})"))
    else:
        yield from _file(path, partial(read_file, path), keep=False)


def _file(path: str, get: Callable[[], bytes], *, keep: bool) -> Iterator[Picture]:
    """The pages of one file; its bytes are shared by them while they are read, and kept by results where told to."""
    try:
        data = get()
        count = pages(data)
    except RaysegError as error:
        yield _broken(path, path, error)
        return
    for page in range(count or 1):
        origin: Origin = BytesOrigin(data, page) if keep else FileOrigin(path, page)
        name = path if count in (None, 1) else f"{path} page {page}"
        yield Picture(path, None if count is None else page, name, origin, partial(read_page, data, page))


def _walk(folder: str) -> Iterator[str]:
    """Image files below a folder, as sorting all their paths would give them. Links to folders are not followed."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        yield folder  # reading it says why
        return
    is_folder = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    for name in sorted(is_folder, key=lambda name: name + "/" if is_folder[name] else name):
        path = os.path.join(folder, name)
        if is_folder[name]:
            yield from _walk(path)
        elif name.lower().endswith(SUFFIXES):
            yield path


def _broken(path: str | None, name: str, error: RaysegError) -> Picture:
    def fail() -> np.ndarray:
        raise error

    return Picture(path, None, name, None, fail)
