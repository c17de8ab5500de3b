"""Files on local disks and object stores behind five verbs, with atomic writes and a bounded patience for passing faults.

Everything goes through fsspec, so any URL it knows works. A write is either wholly there or not at all: a temporary name and
a rename on a file system, one put on an object store.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import fsspec
from fsspec.core import split_protocol

from rayseg.errors import OutputError, SourceError

log = logging.getLogger(__name__)
T = TypeVar("T")

# Errors that say no for good; trying again changes nothing.
_FINAL_ERRNO = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
}
_FINAL_CODES = {
    "NoSuchKey",
    "NoSuchBucket",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "403",
    "404",
}
# botocore's, which are of no narrower class; it need not be installed.
_FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError"}
_LONGEST_PAUSE_S = 20.0


def is_local(url: str) -> bool:
    """True for plain paths and file:// URLs."""
    return split_protocol(url)[0] in (None, "file", "local")


def filesystem(url: str, options: Mapping[str, Any] | None = None) -> fsspec.AbstractFileSystem:
    """The fsspec file system of a URL, without listing caches (another process may be writing).

    Raises:
        SourceError: fsspec does not know the protocol, or its package is not installed.
    """
    protocol = split_protocol(url)[0] or "file"
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False, **({} if is_local(url) else options or {}))
    except (ValueError, ImportError) as error:
        raise SourceError(
            f"{url}: cannot open {protocol}:// paths ({error}). Install the package that provides it, such as rayseg[s3]."
        ) from error


def with_retries(call: Callable[[], T], *, attempts: int, what: str) -> T:
    """Call until it works, pausing between tries for a random time that doubles, up to `attempts` times.

    Missing files, refused access and full disks are raised at once; so is the last error of all.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except Exception as error:  # storage libraries raise their own trees; what is final is decided below
            if attempt == attempts or is_final(error):
                raise
            pause_s = min(_LONGEST_PAUSE_S, 0.2 * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
            log.warning("%s: try %d of %d failed (%s), again in %.1f s", what, attempt, attempts, error, pause_s)
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def is_final(error: BaseException) -> bool:
    """True when trying again cannot help."""
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return True
    if type(error).__name__ in _FINAL_NAMES:
        return True
    response = getattr(error, "response", None)
    if isinstance(response, dict) and str(response.get("Error", {}).get("Code")) in _FINAL_CODES:
        return True
    if isinstance(error, OSError):
        return error.errno in _FINAL_ERRNO
    return isinstance(error, (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, ImportError))


@dataclass(frozen=True)
class Store:
    """The files below one folder or URL. Picklable; names are relative, with forward slashes.

    What the storage refuses, or what still fails after all attempts, is raised as OutputError.

    Attributes:
        url: folder, or any fsspec URL.
        options: fsspec options, such as endpoint_url.
        attempts: how often an operation is tried.
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict)
    attempts: int = 6

    @cached_property
    def fs(self) -> fsspec.AbstractFileSystem:
        return filesystem(self.url, self.options)

    @cached_property
    def root(self) -> str:
        """The folder as the file system writes it, without protocol and trailing slash."""
        url = os.path.abspath(split_protocol(self.url)[1]) if self.local else self.url
        return str(self.fs._strip_protocol(url)).rstrip("/")

    @property
    def local(self) -> bool:
        return is_local(self.url)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def below(self, folder: str) -> Store:
        """The same storage, one folder down; on disks by its whole path, since workers start in folders of their own."""
        return replace(self, url=f"{self.root if self.local else self.url.rstrip('/')}/{folder}")

    def list(self, folder: str) -> dict[str, int]:
        """Names and sizes in bytes of the files right inside a folder; empty when there is no such folder."""

        def call() -> dict[str, int]:
            try:
                found = self.fs.ls(self.path(folder), detail=True)
            except FileNotFoundError:
                return {}
            files = [entry for entry in found if entry["type"] == "file"]
            return {entry["name"].rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in files}

        return self._try(call, f"list {folder}/")

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._try(lambda: self.fs.cat_file(self.path(name)), f"read {name}")

    def exists(self, name: str) -> bool:
        def call() -> bool:
            try:
                return bool(self.fs.info(self.path(name))["type"] == "file")  # fs.isfile takes any fault for a no
            except FileNotFoundError:
                return False

        return self._try(call, f"look for {name}")

    def write(self, name: str, data: bytes) -> None:
        """Put one whole file in place of whatever was there.

        Raises:
            OutputError: the storage refuses, is full, or keeps failing.
        """
        try:
            with_retries(lambda: self._write_once(name, data), attempts=self.attempts, what=f"{self.url}: write {name}")
        except Exception as error:
            raise OutputError(
                f"{self.url}: cannot write {name} ({len(data)} bytes): {error}. "
                "What is already there stays; free space or mend access and run the same command again."
            ) from error

    def put_file(self, name: str, path: str | os.PathLike[str]) -> None:
        """Move a local file to its place, whole or not at all, without holding it in memory.

        Raises:
            OutputError: the storage refuses, is full, or keeps failing.
        """

        def call() -> None:
            if not self.local:
                self.fs.put_file(os.fspath(path), self.path(name))
                os.unlink(path)
                return
            final = self.path(name)
            folder, base = os.path.split(final)
            os.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/.{base}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                shutil.copyfile(path, temporary)
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, final)
                os.unlink(path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

        self._try(call, f"write {name}")

    def delete(self, name: str) -> None:
        """Remove one file; nothing happens when it is not there."""

        def call() -> None:
            try:
                self.fs.rm_file(self.path(name))
            except FileNotFoundError:
                return

        self._try(call, f"delete {name}")

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and all below it; nothing happens when it is not there."""

        def call() -> None:
            if self.fs.exists(self.path(folder)):
                self.fs.rm(self.path(folder), recursive=True)

        self._try(call, f"delete {folder}/")

    def _try(self, call: Callable[[], T], what: str) -> T:
        try:
            return with_retries(call, attempts=self.attempts, what=f"{self.url}: {what}")
        except FileNotFoundError:
            raise
        except Exception as error:  # storage libraries raise their own trees
            remedy = "its permissions" if self.local else "the credentials and --endpoint-url"
            raise OutputError(f"{self.url}: cannot {what}: {error}. Check {remedy} and run again.") from error

    def _write_once(self, name: str, data: bytes) -> None:
        if not self.local:
            self.fs.pipe_file(self.path(name), data)
            return
        final = self.path(name)
        folder, base = os.path.split(final)
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{base}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
