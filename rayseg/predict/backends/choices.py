"""Choices of engines that were made before, in the cache folder: one file for each model, kind of machine and way to run.

    cache_dir()/engines/<fingerprint>/choice-<key>.json

The key holds what a choice depends on: the machine, threads, precision, threshold, and the versions of all packages that could
run the model, so that a new engine or another version is tried again. The folder may be missing or read-only: nothing is
remembered then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from rayseg.models.download import cache_dir
from rayseg.predict.backends.trial import UNPROVED, Choice
from rayseg.predict.machine import MachineKind
from rayseg.predict.spec import ModelSpec

log = logging.getLogger(__name__)

_PACKAGES = (
    *("rayseg", "paddlepaddle", "paddlepaddle-gpu", "onnxruntime", "onnxruntime-gpu", "openvino", "onnx", "paddle2onnx"),
    *("tensorrt", "numpy"),
)


def choice_file(
    spec: ModelSpec,
    machine: MachineKind,
    *,
    device: str,
    threads: int,
    precision: str,
    threshold: float | None,
    most: int,
    engines: Sequence[str] | None = None,
    folder: str | None = None,
) -> Path:
    """Where a choice is remembered.

    Args:
        most: images at once that the caller allows.
        engines: that were tried beside the sure one; None for all.
        folder: in place of cache_dir().
    """
    on = device.partition(":")[0]
    key = json.dumps(
        [machine.key, on, threads if on == "cpu" else 0, precision, threshold, most, engines, versions()], sort_keys=True
    )
    return choices_folder(spec, folder=folder) / f"choice-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def choices_folder(spec: ModelSpec, *, folder: str | None = None) -> Path:
    """Where the choices for a model are; `folder` in place of cache_dir()."""
    return (Path(folder) if folder else cache_dir()) / "engines" / spec.fingerprint


def versions() -> dict[str, str]:
    """Of the packages that could run a model here."""
    return {name: version for name in _PACKAGES if (version := _version(name))}


def remembered(path: Path) -> Choice | None:
    """The choice in a file; None where there is none, or none that can be read."""
    try:
        return Choice.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: cannot be used (%s); engines are tried again", path, error)
        return None


def remember(path: Path, choice: Choice) -> None:
    """Keep a choice, unless it had too little to go by; a folder that cannot be written to costs a line of the log."""
    if (choice.engine is None and not choice.ended_early) or any(row.verdict == UNPROVED for row in choice.trials):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".choice-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(choice.to_json(), file, indent=2)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
    except OSError as error:
        log.warning("%s: the choice of an engine is not remembered (%s)", path, error)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
