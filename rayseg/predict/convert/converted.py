"""A model directory as ONNX: converted once on a machine, by one process at a time, and kept.

    $RAYSEG_CACHE/engines/<fingerprint of the model>/<versions of what converts>/
        model.onnx      the program
        pieces/         instead, where the whole does not convert: folders of its pieces
        made.json       the pieces in order with their inputs, outputs and digests; written last
        failed.json     instead: why it cannot be had. Not tried again with these versions, unless the file is deleted. A
                        conversion that ran out of time leaves none

A folder that cannot be written to is replaced by one of the user's own among the temporary files. What runs the program is
`rayseg.predict.backends`'s.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rayseg.errors import BackendError
from rayseg.models.download import CACHE_VARIABLE, cache_dir
from rayseg.predict.convert.changed import paddle_program
from rayseg.predict.convert.lean import ends_with_masks
from rayseg.predict.convert.onnx_file import TIME_LIMIT_S, OutOfTime, converter, write_onnx
from rayseg.predict.convert.pieces import Converted, Piece, write_pieces
from rayseg.predict.model_dir import model_files
from rayseg.predict.spec import ModelSpec

log = logging.getLogger(__name__)

MADE, FAILED, PROGRAM, PIECES = "made.json", "failed.json", "model.onnx", "pieces"


def converted(spec: ModelSpec, *, timeout_s: float = TIME_LIMIT_S) -> Converted:
    """The program of a model directory for engines that read ONNX; made now unless it is there.

    Args:
        timeout_s: of a conversion.

    Raises:
        BackendError: what converts is not installed, or the program does not convert; the message says why, and where the
            failure is remembered.
        OutOfTime: a conversion took longer than `timeout_s`; the next call tries again.
    """
    _check_packages()
    for root in (cache_dir() / "engines", _temporary_root()):
        folder = root / spec.fingerprint / converter()
        found = _kept(folder)
        if found is not None:
            return found
        if _usable(folder):
            with _one_at_a_time(folder):
                return _kept(folder) or _make(spec, folder, timeout_s)
        log.warning("%s: cannot be written to, converted programs go to temporary files; set %s to a folder with room",
                    folder, CACHE_VARIABLE)  # fmt: skip
    raise BackendError(f"{folder}: cannot be written to; set {CACHE_VARIABLE} to a folder with room")


def _check_packages() -> None:
    missing = [package for package in ("paddle2onnx", "onnx") if find_spec(package) is None]
    if missing:
        raise BackendError(
            f"programs are converted by {' and '.join(missing)}, not installed here: pip install 'rayseg[onnxruntime]' or "
            "'rayseg[openvino]'"
        )


def _make(spec: ModelSpec, folder: Path, timeout_s: float) -> Converted:
    started = time.monotonic()
    try:
        made = _convert(spec, folder, timeout_s)
    except OutOfTime as error:
        raise OutOfTime(f"{error}. Use backend auto or paddle, or try again when the machine has less to do") from error
    except BackendError as error:
        _write(folder / FAILED, {"reason": str(error)})
        raise BackendError(_failed(folder, str(error))) from error
    _write(folder / MADE, {"outputs": made.outputs, "pieces": [_described(piece, folder) for piece in made.pieces]})
    words = "" if len(made.pieces) == 1 else f" in {len(made.pieces)} pieces"
    log.info("%s: converted to ONNX%s, %.1f s, kept in %s", spec.name, words, time.monotonic() - started, folder)
    return made


def _convert(spec: ModelSpec, folder: Path, timeout_s: float) -> Converted:
    """The program as a whole, else in pieces; not in pieces because the machine was busy, since what is made is kept."""
    program, params, _ = model_files(Path(spec.path))
    try:
        with paddle_program(program, lean=ends_with_masks(spec)) as given:
            names = write_onnx(given, params, folder / PROGRAM, timeout_s=timeout_s)
    except OutOfTime:
        raise
    except BackendError as whole:
        shutil.rmtree(folder / PIECES, ignore_errors=True)  # of a process that was killed
        (folder / PIECES).mkdir()
        try:
            return write_pieces(program, params, folder / PIECES, timeout_s=timeout_s)
        except BackendError as error:
            shutil.rmtree(folder / PIECES)
            raise type(error)(f"{whole}. In pieces: {error}") from error
    return Converted((Piece("onnx", folder / PROGRAM, names.inputs, names.outputs),), names.outputs)


def _kept(folder: Path) -> Converted | None:
    """What was made before, when it is whole; raises when that was a failure."""
    failed = _read(folder / FAILED)
    if failed is not None:
        raise BackendError(_failed(folder, str(failed.get("reason"))))
    made = _read(folder / MADE)
    try:
        return None if made is None else _whole(made, folder)
    except (KeyError, TypeError):
        return None  # damaged: made again


def _whole(made: dict[str, Any], folder: Path) -> Converted | None:
    pieces = []
    for described in made["pieces"]:
        piece = Piece(described["kind"], folder / described["path"], tuple(described["inputs"]), tuple(described["outputs"]))
        if _digests(piece.path) != described["sha256"]:
            return None
        pieces.append(piece)
    return Converted(tuple(pieces), tuple(made["outputs"]))


def _described(piece: Piece, folder: Path) -> dict[str, Any]:
    return {
        "kind": piece.kind,
        "path": str(piece.path.relative_to(folder)),
        "inputs": piece.inputs,
        "outputs": piece.outputs,
        "sha256": _digests(piece.path),
    }


def _digests(path: Path) -> dict[str, str]:
    """File name -> sha256, of a file or of all files of a folder; without those that are not there."""
    found = {}
    for file in sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []:
        with file.open("rb") as opened:
            found[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def _failed(folder: Path, reason: str) -> str:
    return f"{reason}. Use backend auto or paddle; this is remembered in {folder / FAILED}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None  # not there, or cut short: made again
    return found if isinstance(found, dict) else None


def _write(path: Path, content: dict[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
    fresh.replace(path)


def _usable(folder: Path) -> bool:
    """Whether files can be written there; the folder is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _temporary_root() -> Path:
    """A folder that belongs to this user and to nobody else."""
    root = Path(tempfile.gettempdir(), f"rayseg-engines-{os.getuid()}")
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        status = root.lstat()
        mine = status.st_uid == os.getuid() and not root.is_symlink() and not status.st_mode & 0o077
    except OSError:
        mine = True  # not to be written to: found out by its user
    return root if mine else Path(tempfile.mkdtemp(prefix="rayseg-engines-"))


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Others that want to convert the same program wait."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
