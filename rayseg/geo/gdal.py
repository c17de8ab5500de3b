"""GDAL kept within bounds: one thread, a small block cache, few open files, and credentials for S3 that stay out of tables.

Everything that touches a raster goes through `dataset`. What the file then means is decided in `raster.py`.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import rasterio
from rasterio._err import CPLE_BaseError  # documented nowhere, raised everywhere
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.session import Session

from rayseg.errors import ConfigError, CorruptImage, SourceError, UnsupportedImage

CACHE_BYTES = 64 << 20
"""Decoded blocks GDAL keeps, for all files of a process."""

MAX_OPEN = 8
"""Files a thread keeps open between reads."""

_BOUNDS = {
    "GDAL_CACHEMAX": CACHE_BYTES,  # rasterio hands it on as bytes
    "GDAL_NUM_THREADS": "1",  # tasks run side by side; threads below them would only fight for the same cores
    "GDAL_MAX_DATASET_POOL_SIZE": "16",  # sources of a VRT that are open at once
    "CPL_VSIL_CURL_CACHE_SIZE": str(16 << 20),
    # Sidecars are looked for by name. The default lists the folder, which takes minutes where it holds a million files.
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_VRT_ENABLE_PYTHON": "NO",  # what users bring is never evaluated
}
_S3_FIELDS = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "token": "AWS_SESSION_TOKEN"}
_REMOTE_TROUBLE = ("CPLE_AWS", "CPLE_Http", "HTTP", "CURL", "does not exist", "No such file")


def is_local(uri: str) -> bool:
    """True for plain paths and file:// URLs."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """The file behind a local URI, absolute."""
    return unquote(uri[7:]) if uri.startswith("file://") else os.path.abspath(uri)


def gdal_path(uri: str) -> str:
    """What GDAL calls a file.

    Raises:
        SourceError: neither a local path nor s3://.
    """
    if is_local(uri):
        return local_path(uri)
    if uri.startswith("s3://"):
        return "/vsis3/" + uri[5:]
    raise SourceError(
        f"{uri}: scenes are read from local paths and s3://, not from {uri.partition('://')[0]}://. Copy it to one of them."
    )


def s3_settings(storage: Mapping[str, Any] | None) -> dict[str, str]:
    """GDAL's settings from the options that fsspec takes for S3; what is not given comes from the environment.

    Args:
        storage: any of key, secret, token, endpoint_url, anon, region_name.

    Raises:
        ConfigError: an option that GDAL has no counterpart for.
    """
    options = {name: value for name, value in (storage or {}).items() if value is not None}
    out = {gdal: str(options.pop(name)) for name, gdal in _S3_FIELDS.items() if name in options}
    endpoint = options.pop("endpoint_url", None) or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        parts = urlsplit(str(endpoint))
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"endpoint_url {endpoint!r} is no URL; write it like https://minio.example.org:9000")
        https = "YES" if parts.scheme == "https" else "NO"
        # Servers other than Amazon's seldom have a name for each bucket.
        out |= {"AWS_S3_ENDPOINT": parts.netloc + parts.path.rstrip("/"), "AWS_HTTPS": https, "AWS_VIRTUAL_HOSTING": "FALSE"}
    if options.pop("anon", False):
        out["AWS_NO_SIGN_REQUEST"] = "YES"
    if region := options.pop("region_name", None):
        out["AWS_REGION"] = str(region)
    if options:
        raise ConfigError(
            f"storage option {min(options)!r} means nothing to GDAL, which reads the scenes; it takes "
            "key, secret, token, endpoint_url, anon and region_name. Others may be set in the environment (AWS_...)."
        )
    return out


def version(uri: str) -> tuple[int, ...]:
    """Time of change in ns and size in bytes of a local file; empty for others.

    Raises:
        SourceError: there is no such file, or no right to look at it.
    """
    if not is_local(uri):
        return ()
    try:
        stat = os.stat(local_path(uri))
    except OSError as error:
        raise SourceError(f"{uri}: cannot be read: {error.strerror}. Check the path.") from error
    return stat.st_mtime_ns, stat.st_size


@contextmanager
def gdal(storage: Mapping[str, Any] | None = None) -> Iterator[None]:
    """GDAL's bounds and credentials hold inside the block."""
    with rasterio.Env(session=_Given(s3_settings(storage)), **_BOUNDS):
        yield


@contextmanager
def dataset(uri: str, *, storage: Mapping[str, Any] | None = None) -> Iterator[rasterio.DatasetReader]:
    """One raster, opened for reading or taken from those this thread has open.

    Args:
        uri: local path, file:// or s3:// URL.
        storage: credentials, see `s3_settings`.

    Raises:
        SourceError: there is no such file, or no right to read it, or the storage does not answer.
        UnsupportedImage: nothing that GDAL reads.
        CorruptImage: inside the block, a read that fails.
    """
    path = gdal_path(uri)
    key = (path, *version(uri), tuple(sorted((k, str(v)) for k, v in (storage or {}).items())))
    with gdal(storage):
        found = _open_files().pop(key, None) or _open(path, uri)
        try:
            yield found
        except (RasterioIOError, CPLE_BaseError) as error:
            _forget_error(found)
            found.close()
            raise _why(uri, error, reading=True) from error
        except BaseException:
            found.close()
            raise
        _keep(key, found)


def close_all() -> None:
    """Close the files this thread has open."""
    files = _open_files()
    while files:
        files.popitem()[1].close()


class _Given(Session):
    """Credentials as they are given. rasterio's own session would need boto3."""

    def __init__(self, options: dict[str, str]) -> None:
        self.options = options

    def get_credential_options(self) -> dict[str, str]:
        return self.options


_local = threading.local()  # GDAL's handles may not be used by two threads at once


def _open_files() -> OrderedDict[tuple, rasterio.DatasetReader]:
    if not hasattr(_local, "files"):
        _local.files = OrderedDict()
    return _local.files


def _keep(key: tuple, found: rasterio.DatasetReader) -> None:
    files = _open_files()
    files[key] = found
    while len(files) > MAX_OPEN:
        files.popitem(last=False)[1].close()


def _open(path: str, uri: str) -> rasterio.DatasetReader:
    try:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):  # pixel space is a fine place
            return rasterio.open(path)
    except (RasterioIOError, CPLE_BaseError) as error:
        raise _why(uri, error, reading=False) from error


def _forget_error(file: rasterio.DatasetReader) -> None:
    """rasterio 1.4 leaves the error of a failed read behind, and the next harmless call, on any file, would raise it."""
    with suppress(CPLE_BaseError):
        _ = file.colorinterp


def _why(uri: str, error: Exception, *, reading: bool) -> SourceError | CorruptImage | UnsupportedImage:
    """Ours for GDAL's. What rasterio raises is of one class; the causes behind it, or else their words, tell more."""
    causes = _causes(error)
    words = str(causes[-1] if reading else error).rstrip(".")
    said = " ".join(f"{type(cause).__name__} {cause}" for cause in causes)
    if not is_local(uri) and any(sign in said for sign in _REMOTE_TROUBLE):
        return SourceError(f"{uri}: cannot be read: {words}. Check the path, the credentials and the endpoint.")
    if reading:
        return CorruptImage(f"{uri}: a block cannot be read: {words}. The file is damaged; fetch it again.")
    if "not recognized" in words:
        return UnsupportedImage(f"{uri}: not a raster that GDAL reads ({words}).")
    return CorruptImage(f"{uri}: cannot be opened: {words}. The file is damaged or cut short; fetch it again.")


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and those behind it, the first cause last."""
    out: list[BaseException] = []
    while error is not None and error not in out:
        out.append(error)
        error = error.__cause__ or error.__context__
    return out
