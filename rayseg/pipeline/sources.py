"""From what the user names (file, folder, glob, manifest, URL) to units, without ever holding the archive.

`open_source` looks at the source once on the driver and returns a small description; `expand` runs inside tasks, follows
some of its folders or a manifest, and yields units with the folders it did not get to. Planning is in `plan.py`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from fsspec.core import split_protocol
from fsspec.utils import glob_translate

from rayseg.config.load import nearest
from rayseg.errors import ConfigError, ImageError, SourceError
from rayseg.images import count_pages
from rayseg.pipeline.storage import filesystem, is_final, is_local, with_retries
from rayseg.tables import Unit

log = logging.getLogger(__name__)

MANIFESTS = (".txt", ".csv", ".parquet")
_PATH_COLUMNS = ("uri", "path", "image", "image_path", "file", "filename", "file_name", "url")
_MAGIC = re.compile(r"[*?\[]")
_TIFF = (".tif", ".tiff")
_PAGE_THREADS = 8


@dataclass(frozen=True)
class Source:
    """What the user named, looked at once.

    Attributes:
        kind: "files" (folders to walk) or "manifest".
        roots: folders or single files to walk, or the one manifest; as URIs.
        pattern: regular expression a whole file path must match, from a glob.
        skip: a folder that is never walked: the output, should it lie inside the source.
        column: of the manifest that holds the paths.
        options: fsspec options.
        attempts: tries for each operation.
        pages: each page of a TIFF is a unit; else the file is.
    """

    kind: str
    roots: tuple[str, ...]
    pattern: str | None = None
    skip: str | None = None
    column: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    attempts: int = 6
    pages: bool = True


@dataclass(frozen=True)
class Found:
    """What one call of `expand` saw: units, and folders left for another call."""

    units: list[Unit]
    folders: list[str]


def open_source(
    source: str,
    *,
    column: str | None = None,
    options: dict[str, Any] | None = None,
    out: str | None = None,
    attempts: int = 6,
) -> Source:
    """Look at a source on the driver; reads at most one directory entry.

    Args:
        source: file, folder, glob, manifest, or any fsspec URL of these.
        column: of a CSV or Parquet manifest.
        options: fsspec options, such as endpoint_url.
        out: the output folder, never listed as input.

    Raises:
        SourceError: nothing is there, or it may not be read.
    """
    options = dict(options or {})
    fs = filesystem(source, options)
    path = os.path.abspath(split_protocol(source)[1]) if is_local(source) else str(fs._strip_protocol(source)).rstrip("/")
    base = Source("files", (), skip=_inside(fs, source, out), options=options, attempts=attempts)
    try:
        kind = with_retries(lambda: _kind(fs, path), attempts=attempts, what=source)
    except Exception as error:
        raise SourceError(f"{source}: cannot be read: {error}. Check the path, the credentials and --endpoint-url.") from error
    if kind == "file" and path.lower().endswith(MANIFESTS):
        return replace(base, kind="manifest", roots=(to_uri(fs, path),), column=column)
    if column is not None:
        raise ConfigError(f"manifest_column {column!r} is set, but {source} is not a {', '.join(MANIFESTS)} file")
    if kind in ("file", "directory"):
        return replace(base, roots=(to_uri(fs, path),))
    if _MAGIC.search(path):
        root = path[: _MAGIC.search(path).start()].rsplit("/", 1)[0] or "/"  # type: ignore[union-attr]
        return replace(base, roots=(to_uri(fs, root),), pattern=glob_translate(path))
    raise SourceError(f"{source}: there is no such file or folder. Check the spelling; a glob needs quotes in the shell.")


def expand(source: Source, roots: list[str], *, max_units: int) -> Found:
    """Walk some of a source's folders, depth first, until `max_units` units are found.

    A folder that may not be listed becomes a unit itself, so that the job accounts for it as a failed row.

    Raises:
        SourceError: the storage kept failing. A plan made now would lack files that are there.
    """
    fs = filesystem(roots[0], source.options) if roots else None
    pending, units = list(reversed(roots)), list[Unit]()
    match = re.compile(source.pattern).fullmatch if source.pattern else None
    while pending and len(units) < max_units and fs is not None:
        root = pending.pop()
        path = to_path(fs, root)
        if source.skip and path == source.skip.rstrip("/"):
            continue
        try:
            entries = with_retries(partial(_entries, fs, path), attempts=source.attempts, what=root)
        except Exception as error:  # storage libraries raise their own trees
            if not is_final(error):
                raise SourceError(f"{root}: listing it keeps failing: {error}. Run the same command again later.") from error
            log.warning("%s: cannot be listed (%s); it becomes a failed row", root, error)
            units.append(Unit(root))
            continue
        files = []
        for entry in sorted(entries, key=lambda e: e["name"], reverse=True):
            name = entry["name"].rstrip("/")
            if entry["type"] == "directory":
                if not name.rsplit("/", 1)[-1].startswith(".") and name != path:
                    pending.append(to_uri(fs, name))
            elif (match is None or match(name)) and (path == name or not name.rsplit("/", 1)[-1].startswith(".")):
                files.append(entry)
        units.extend(_units(fs, list(reversed(files)), source))
    return Found(units, list(reversed(pending)))


def read_manifest(source: Source, *, batch_rows: int = 20_000) -> Iterator[list[Unit]]:
    """Units of a text, CSV or Parquet manifest, some at a time. Relative paths count from the manifest's folder.

    Raises:
        SourceError: the manifest cannot be read or has no column of paths.
    """
    manifest = source.roots[0]
    fs = filesystem(manifest, source.options)
    folder = manifest.rsplit("/", 1)[0]
    try:
        for paths in _manifest_paths(fs, to_path(fs, manifest), source, batch_rows):
            uris = [_absolute(p, folder) for p in paths if p and p.strip()]
            entries = [{"name": uri} for uri in uris]
            yield list(_paged(entries, lambda e: Unit(e["name"]), source.options, source))
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{manifest}: cannot read the manifest: {error}") from error


def to_uri(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """How a file is written in the tables: a plain path when local, else a URL.

    Local names that are not UTF-8, or hold a character that Arrow's strings cannot, become percent-encoded file:// URLs.
    """
    if not _is_local_fs(fs):
        return str(fs.unstrip_protocol(path))
    try:
        path.encode("utf-8")
        return path
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))


def to_path(fs: fsspec.AbstractFileSystem, uri: str) -> str:
    """The inverse of `to_uri`: what the file system's methods take."""
    if not _is_local_fs(fs):
        return str(fs._strip_protocol(uri))
    return os.fsdecode(unquote(uri[7:], errors="surrogateescape")) if uri.startswith("file://") else uri


def _is_local_fs(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _inside(fs: fsspec.AbstractFileSystem, source: str, out: str | None) -> str | None:
    """The output as the source's file system writes paths; None when it cannot lie inside the source."""
    if out is None or is_local(out) != is_local(source):
        return None
    return os.path.abspath(split_protocol(out)[1]) if is_local(out) else str(fs._strip_protocol(out)).rstrip("/")


def _kind(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    try:
        return str(fs.info(path)["type"])
    except FileNotFoundError:
        return None


def _entries(fs: fsspec.AbstractFileSystem, path: str) -> list[dict[str, Any]]:
    """Files and folders right inside a folder, or the file itself. Links count as what they point to; broken ones as files."""
    if not _is_local_fs(fs):
        found = fs.ls(path, detail=True)
        # Object stores list a folder's own marker (an empty object whose name ends with a slash) as a file.
        return [e for e in found if not (e["type"] == "file" and e["name"].endswith("/"))]
    if os.path.isfile(path) or not os.path.isdir(path):
        return [_local_entry(path, is_dir=False)]
    here = os.path.realpath(path)
    out = []
    with os.scandir(path) as scan:
        for entry in scan:
            is_dir = entry.is_dir()
            if is_dir and entry.is_symlink() and (here + "/").startswith(os.path.realpath(entry.path) + "/"):
                log.warning("%s: a link to a folder that contains it; not followed", entry.path)
                continue
            out.append(_local_entry(entry.path, is_dir=is_dir))
    return out


def _local_entry(path: str, *, is_dir: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": path, "type": "directory" if is_dir else "file"}
    if not is_dir:
        try:
            stat = os.stat(path)
            entry |= {"size": stat.st_size, "version": str(stat.st_mtime_ns)}
        except OSError:
            pass  # a broken link: planned without a size, and reading it says why it failed
    return entry


def _units(fs: fsspec.AbstractFileSystem, entries: list[dict[str, Any]], source: Source) -> Iterator[Unit]:
    def unit(entry: dict[str, Any]) -> Unit:
        version = entry.get("version") or entry.get("ETag") or entry.get("etag") or entry.get("mtime")
        return Unit(to_uri(fs, entry["name"]), 0, entry.get("size"), None if version is None else str(version).strip('"'))

    return _paged(entries, unit, fs, source)


def _paged(entries: list[dict[str, Any]], unit: Any, fs: Any, source: Source) -> Iterator[Unit]:
    """One unit for each file, and one for each page of a TIFF; page counts are read side by side, headers only."""
    units = [unit(entry) for entry in entries]
    tiffs = [u for u in units if source.pages and u.uri.lower().endswith(_TIFF)]
    pages: dict[str, int] = {}
    if tiffs:
        with ThreadPoolExecutor(_PAGE_THREADS) as pool:
            pages = dict(zip([u.uri for u in tiffs], pool.map(lambda u: _pages(u.uri, fs, source.attempts), tiffs), strict=True))
    for u in units:
        for page in range(pages.get(u.uri, 1)):
            yield replace(u, page=page)


def _pages(uri: str, fs: Any, attempts: int) -> int:
    """Pages of a TIFF; 1 when the file does not tell, so that decoding reports what is wrong.

    Raises:
        SourceError: the storage kept failing. Pages would be missing in the plan.
    """

    def count() -> int:
        found = filesystem(uri, fs) if isinstance(fs, dict) else fs
        with found.open(to_path(found, uri), "rb") as file:
            try:
                return max(1, count_pages(file))
            except ImageError:
                return 1

    try:
        return with_retries(count, attempts=attempts, what=uri)
    except Exception as error:  # storage libraries raise their own trees
        if is_final(error) or isinstance(error, SourceError):
            return 1
        raise SourceError(f"{uri}: reading its header keeps failing: {error}. Run the same command again later.") from error


def _manifest_paths(fs: fsspec.AbstractFileSystem, path: str, source: Source, batch_rows: int) -> Iterator[list[str]]:
    with fs.open(path, "rb") as file:
        if path.lower().endswith(".txt"):
            lines: list[str] = []
            for line in file:
                lines.append(line.decode("utf-8").rstrip("\r\n"))
                if len(lines) == batch_rows:
                    yield lines
                    lines = []
            yield lines
        elif path.lower().endswith(".csv"):
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            with pyarrow.csv.open_csv(file, parse_options=parse) as reader:
                column = _column(reader.schema, source)
                for batch in reader:
                    yield batch.column(column).cast(pa.string()).to_pylist()
        else:
            parquet = pq.ParquetFile(file)
            column = _column(parquet.schema_arrow, source)
            for batch in parquet.iter_batches(batch_size=batch_rows, columns=[column]):
                yield batch.column(column).cast(pa.string()).to_pylist()


def _column(schema: pa.Schema, source: Source) -> str:
    if source.column is not None:
        if source.column in schema.names:
            return source.column
        raise SourceError(f"{source.roots[0]}: no column {source.column!r}{nearest(source.column, schema.names)}")
    for name in _PATH_COLUMNS:
        if name in schema.names:
            return name
    if len(schema.names) == 1:
        return schema.names[0]
    raise SourceError(
        f"{source.roots[0]}: none of its columns {schema.names} is named {', '.join(_PATH_COLUMNS)}; "
        "say which holds the paths with --manifest-column"
    )


def _absolute(path: str, folder: str) -> str:
    if split_protocol(path)[0] is not None or path.startswith("/"):
        return path
    return os.path.normpath(f"{folder}/{path}") if is_local(folder) else f"{folder}/{path}"
