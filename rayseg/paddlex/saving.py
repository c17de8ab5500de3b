"""Names of the files a result is written to: PaddleX's, and no result of one run overwrites another.

`<stem>_res<extension>` in the folder given, `<stem>_<page>_res` for files that are made of pages. The first result of a run
with a name has it; another one, of a file elsewhere, gets `<stem>-<8 letters of the digest of its path>_res`. A path that
itself ends in .json, or in an image's ending, is the file.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import secrets
import time
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from rayseg.errors import OutputError
from rayseg.models.download import is_url

_WRITABLE = (".bmp", ".dib", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Stems:
    """The stems given out in one run."""

    def __init__(self) -> None:
        self._owner: dict[str, bytes] = {}

    def claim(self, input_path: str | None, page_index: int | None) -> str:
        """A stem for one result; the same again for the same page of the same file.

        An array, which has no name, gets the time and a random number, as in PaddleX.
        """
        if input_path is None:
            return f"{int(time.time())}_{secrets.token_hex(4)}"
        page = "" if page_index is None else f"_{page_index}"
        stem = f"{_stem_of(input_path)}{page}"
        digest = hashlib.sha256(f"{input_path}\0{page}".encode("utf-8", "surrogateescape")).digest()[:8]
        if self._owner.setdefault(stem, digest) == digest:
            return stem
        return f"{_stem_of(input_path)}-{digest[:4].hex()}{page}"


def target(save_path: str | os.PathLike[str], stem: str, *, kind: str, extension: str) -> Path:
    """The file to write, its folder made.

    Args:
        kind: "application/json", or "image" for all images.
        extension: of a file in a folder.

    Raises:
        OutputError: the folder cannot be made.
    """
    path = Path(save_path)
    guessed = mimetypes.guess_type(path.name)[0] or ""
    if not guessed.startswith(kind) or path.is_dir():
        path = path / f"{stem}_res{extension}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be made ({error.strerror}); give another save_path") from error
    return path


def image_extension(input_path: str | None) -> str:
    """That of the input where it is one of an image we can write; else .png."""
    if input_path is None:
        return ".png"
    found = PurePosixPath(urlsplit(input_path).path if is_url(input_path) else input_path).suffix
    return found if found.lower() in _WRITABLE else ".png"


def _stem_of(input_path: str) -> str:
    path = unquote(urlsplit(input_path).path) if "://" in input_path else input_path
    return PurePosixPath(path).stem or "image"
