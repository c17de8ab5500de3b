"""What of a folder travels with a submitted job: the files, the limit on their size, and the archive of them.

Ray unpacks the archive on every machine and starts the job in it. Results never lie there: it goes when the job does.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rayseg.errors import ConfigError

MAX_UPLOAD_BYTES = 100 * 2**20
"""Ray keeps the archive in the memory of the head and refuses one of 512 MiB; code and settings are far below."""

NEVER = (
    *(".git", ".hg", ".svn", "__pycache__", "*.py[cod]", "*.egg-info", "node_modules", ".DS_Store"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints", ".tox", ".cache"),
    *(".env", ".aws", ".ssh", ".netrc", "*.pem"),  # credentials
)
"""Names of files and folders that are left out wherever they are."""


def files_to_upload(folder: Path, *, exclude: Iterable[str] = (), include: Iterable[str] = ()) -> list[str]:
    """Names below a folder that travel, sorted, with forward slashes.

    Left out are NEVER, virtual environments, outputs of jobs, and, where the folder is a git checkout, what git ignores.

    Args:
        exclude: patterns such as "data" or "*.tif", matched against each name on the way and against the whole.
        include: files or folders below the folder that git ignores and that travel all the same.

    Raises:
        ConfigError: there is no such folder, or nothing at an `include`.
    """
    if not folder.is_dir():
        raise ConfigError(f"--working-dir {folder}: no such folder")
    patterns = (*NEVER, *exclude)
    found = set(_walk(folder, folder, patterns))
    tracked = _known_to_git(folder)
    if tracked is not None:
        found &= tracked
    for name in include:
        extra = folder / name
        if not extra.exists() or not extra.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"--include {name}: nothing there below {folder}, which is what is uploaded")
        if extra.is_file():
            found.add(Path(os.path.normpath(name)).as_posix())
        else:
            found |= set(_walk(folder, Path(os.path.normpath(extra)), patterns, outputs=True))
    return sorted(found)


def check_size(folder: Path, names: Sequence[str], *, limit: int = MAX_UPLOAD_BYTES) -> int:
    """Bytes of the files.

    Raises:
        ConfigError: more than the limit; the largest folders are named.
    """
    sizes = {name: (folder / name).stat().st_size for name in names}
    total = sum(sizes.values())
    if total > limit:
        tops: Counter[str] = Counter()
        for name, size in sizes.items():
            tops[name.partition("/")[0]] += size
        largest = ", ".join(f"{name} {_mib(size)}" for name, size in tops.most_common(5))
        raise ConfigError(
            f"{folder}: {len(names)} files of {_mib(total)} would be uploaded, the limit is {_mib(limit)}. Largest: {largest}. "
            "Leave some out with --exclude NAME; images and models belong on storage that the whole cluster sees "
            "(--max-upload-mib raises the limit, Ray's own is 512)."
        )
    return total


def pack(folder: Path, names: Iterable[str], path: Path) -> Path:
    """A zip of the files. The same files give the same bytes, so that Ray uploads them once."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            source = folder / name
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if os.access(source, os.X_OK) else 0o644) << 16
            archive.writestr(entry, source.read_bytes())
    return path


def _walk(root: Path, start: Path, patterns: Sequence[str], *, outputs: bool = False) -> Iterable[str]:
    for folder, folders, files in os.walk(start):
        here = Path(folder).relative_to(root)
        folders[:] = [
            name
            for name in folders
            if not _matches(here / name, patterns)
            and not _is_environment(Path(folder, name))
            and (outputs or not _is_output(Path(folder, name)))
        ]
        for name in files:
            if not _matches(here / name, patterns) and Path(folder, name).is_file():
                yield (here / name).as_posix()


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    whole = path.as_posix()
    clean = [pattern.removeprefix("./").rstrip("/") for pattern in patterns]
    return any(fnmatch.fnmatch(path.name, pattern) or fnmatch.fnmatch(whole, pattern) for pattern in clean)


def _is_environment(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()


def _is_output(folder: Path) -> bool:
    return (folder / "job.json").is_file() and (folder / "plan").is_dir()


def _known_to_git(folder: Path) -> set[str] | None:
    """Files that git tracks, or would if asked to add; None where the folder is no checkout, or there is no git."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, check=False)
    return {os.fsdecode(name) for name in done.stdout.split(b"\0") if name} if done.returncode == 0 else None


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
