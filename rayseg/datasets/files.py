"""Where data sets keep their files: joining names, reading through a callable, and writing that destroys nothing.

Readers take a `Reader`, so that a layer above can bring one for object stores; nothing here knows more than local files
and the shape of a URL. What is in the files is left to the format readers beside this file.
"""

from __future__ import annotations

import json
import os
import posixpath
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayseg.errors import DatasetError

Reader = Callable[[str], bytes]
"""Gives the whole content of a path or URL. Raises FileNotFoundError where there is none, OSError where it cannot be read."""

_URL = "://"


def read_local(path: str) -> bytes:
    """A file of this machine."""
    return Path(path.removeprefix("file://")).read_bytes()


def join(root: str | Path, name: str) -> str:
    """Where a file that a data set names lies.

    Args:
        root: folder or URL that `name` is relative to.
        name: relative, possibly with `..`; or absolute, or a URL, which stands for itself. `/` on every system; a Windows
            tool's backslashes are taken for `/`.
    """
    root, name = str(root), name.replace("\\", "/")
    if _URL in name or name.startswith("/"):
        return name
    head, mark, path = root.partition(_URL) if _URL in root else ("", "", root)
    return head + mark + posixpath.normpath(posixpath.join(path or ".", name))


def parent(path: str | Path) -> str:
    """The folder, or the URL of the folder, that holds a file."""
    return str(path).rpartition("/")[0] or ("/" if str(path).startswith("/") else ".")


def read_json(path: str | Path, read: Reader = read_local) -> Any:
    """The content of a JSON file.

    Raises:
        DatasetError: it is not there, cannot be read or is not JSON.
    """
    try:
        return json.loads(read(str(path)).decode("utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error}); check its permissions, or fetch it again") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON ({error}); save the annotations again as one UTF-8 JSON object") from None


def read_lines(path: str | Path, read: Reader = read_local) -> list[tuple[int, str]]:
    """Numbered lines of a text file, from 1, without the empty ones.

    Raises:
        DatasetError: it is not there, cannot be read or is not UTF-8.
    """
    try:
        text = read(str(path)).decode("utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such list; it names one image a line") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error}); check its permissions, or fetch it again") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text ({error}); save the list as UTF-8") from None
    lines = enumerate((line.strip() for line in text.splitlines()), start=1)
    return [(number, line) for number, line in lines if line]


def local_folder(dataset_dir: str | Path, what: str) -> Path:
    """The folder to change.

    Raises:
        DatasetError: it is a URL or not there. `what` says what was to be done.
    """
    if _URL in str(dataset_dir):
        raise DatasetError(f"{dataset_dir}: {what} works on local folders; fetch the data set, {what} it and put it back")
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; dataset_dir is the folder that holds images/ and the annotations")
    return folder


def write_new(path: Path, data: bytes | str) -> Path | None:
    """Write a whole file; what was there is kept as .bak, or .bak.1, .bak.2 where older ones exist.

    The file appears at once or not at all. Where it holds the same bytes already, nothing happens.

    Returns:
        Where the old content is now; None when there was none or it was the same.
    """
    data = data.encode() if isinstance(data, str) else data
    if path.is_file() and path.read_bytes() == data:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(data)
        kept = _keep(path)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return kept


def _keep(path: Path) -> Path | None:
    if not path.exists():
        return None
    number = 0
    while True:
        backup = path.with_name(f"{path.name}.bak" + (f".{number}" if number else ""))
        try:
            os.link(path, backup)  # fails where the name is taken, which os.rename would not
        except FileExistsError:
            number += 1
            continue
        except OSError:  # a file system without hard links
            if backup.exists():
                number += 1
                continue
            backup.write_bytes(path.read_bytes())
        return backup
