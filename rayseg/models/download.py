"""Files from the web into a cache folder: resumable, checked, and usable without a network once they are there.

    $RAYSEG_CACHE or ~/.cache/rayseg        the folder
    <name>                                  a whole file
    <name>.sha256                           its digest, written when it was complete; checked whenever it is used
    <name>.part                             a download that was interrupted; the next one goes on from its end

A file put there by hand is taken as it is, and its digest recorded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from rayseg.errors import WeightsError

CACHE_VARIABLE = "RAYSEG_CACHE"
_BLOCK = 1 << 20
_TIMEOUT_S = 60
_ATTEMPTS = 4


def is_url(text: str) -> bool:
    """Whether it names something on the web."""
    return text.startswith(("http://", "https://"))


def cache_dir() -> Path:
    """Where downloads are kept: the folder named by RAYSEG_CACHE, else ~/.cache/rayseg."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "rayseg")


def cached(url: str, *, sha256: str | None = None) -> Path:
    """The local file of a URL, downloaded unless it is there.

    Several processes may ask for one file at once: one of them downloads, the others wait.

    Args:
        sha256: hex digest the file must have, where it is known.

    Raises:
        WeightsError: it cannot be had, is not what was promised, or has changed since it was downloaded. The message
            names the URL and where to put the file by hand.
    """
    folder = cache_dir()
    path = folder / _file_name(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path):
            if not path.is_file():
                _download(url, path)
            _check(path, url, sha256)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error}). Set {CACHE_VARIABLE} to a folder with room.") from error
    return path


def _file_name(url: str) -> str:
    """The URL's last part; urls that end alike are told apart by a few letters of their digest."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name or name in (".", ".."):
        raise WeightsError(f"{url}: names no file")
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(url: str, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    for attempt in range(_ATTEMPTS):
        try:
            _fetch_rest(url, part)
            break
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            final = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429
            if final or attempt == _ATTEMPTS - 1:
                raise WeightsError(
                    f"{url}: cannot be downloaded ({error}). Without a network, fetch it elsewhere and put it at {path}"
                ) from error
            time.sleep(0.2 * 4**attempt)
    part.replace(path)


def _fetch_rest(url: str, part: Path) -> None:
    """Append to the part what it lacks; raises ConnectionError when the server stops early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the part is longer than the file, or all of it; only a fresh start can tell
            part.unlink()
            return _fetch_rest(url, part)
        raise
    with response:
        resumed = response.status == 206 and _starts_at(response.headers.get("Content-Range"), have)
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            got = file.tell()
    if length is not None and got != start + int(length):
        raise ConnectionError(f"the connection ended after {got} of {start + int(length)} bytes")
    return None


def _starts_at(content_range: str | None, offset: int) -> bool:
    return bool(content_range) and str(content_range).replace("bytes ", "").split("-")[0] == str(offset)


def _check(path: Path, url: str, sha256: str | None) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    record = path.with_name(path.name + ".sha256")
    recorded = record.read_text().strip() if record.exists() else None
    for wanted, what in ((sha256, "the known one of this file"), (recorded, "the one recorded when it was downloaded")):
        if wanted and found != wanted.lower():
            raise WeightsError(f"{path}: its sha256 {found} is not {what}, {wanted}. Delete it and run again to get {url} afresh")
    if recorded is None:
        record.write_text(found + "\n")
