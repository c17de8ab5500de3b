"""Paths of a job that is run elsewhere: what a path means there, and those that cannot mean what they mean here.

Three kinds mean the same on every machine: a URL, a path from the root on storage that all of them mount, and, for what is
only read, a path inside the folder that is uploaded. A result beside the code would be thrown away with it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rayseg.config.load import parse_overrides, read_yaml
from rayseg.config.train import Settings, load_settings
from rayseg.errors import ConfigError

SHARED = "it must be the same storage on every machine of the cluster"


def check_paths(job: str, args: argparse.Namespace, root: Path | None, uploaded: Sequence[str]) -> list[str]:
    """What the user should know of the paths of a job.

    Args:
        args: of the command that is submitted.
        root, uploaded: the folder that travels and the names of the files in it that do; None and nothing.

    Raises:
        ConfigError: a path that would mean something else on the cluster, or nothing.
    """
    notes: list[str] = []
    config = getattr(args, "config", None)
    if job in ("segment", "retry") or getattr(args, "out", None):
        _lasting("OUT", args.out, notes)
    if job == "segment":
        _lasting("SRC", args.source, notes)  # its absolute path is part of what a job is, and would change each time
        _model(_model_of(args, root), root, uploaded, notes)
        _readable("--aoi", args.aoi, root, uploaded, notes)
    if getattr(args, "truth", None):
        _readable("--truth", args.truth, root, uploaded, notes)
    if config:
        _readable("-c", config, root, uploaded, notes)
        here = (root or Path()) / config
        if job != "segment" and here.is_file():
            settings = load_settings(here, [*args.override, f"Global.mode={job.replace('-', '_')}"])
            _check_settings(settings, root, uploaded, notes)
    return list(dict.fromkeys(notes))


def _model_of(args: argparse.Namespace, root: Path | None) -> str | None:
    """As `rayseg segment` will find it: -o over the flag over the file."""
    here = (root or Path()) / (args.config or "")
    values = read_yaml(here) if args.config and here.is_file() else {}
    given = parse_overrides(args.override).get("model") or args.model or values.get("model")
    return None if given is None else str(given)


def _model(path: str | None, root: Path | None, uploaded: Sequence[str], notes: list[str]) -> None:
    if path is not None and _is_url(path):
        raise ConfigError(
            f"--model {path}: a model is read from a folder, not from a URL. Let it travel with the job (a folder in what is "
            "uploaded, see --include), or name a folder that all machines have, such as one of their image"
        )
    _readable("--model", path, root, uploaded, notes)
    if path is not None and not os.path.isabs(path) and not path.startswith("fake:"):
        notes.append(f"--model {path}: travels with this job only; `rayseg retry` will want it at a path that lasts")


def _check_settings(settings: Settings, root: Path | None, uploaded: Sequence[str], notes: list[str]) -> None:
    _lasting("Global.output", settings.general.output, notes)
    for name, path in (
        ("Cluster.storage_path", settings.cluster.storage_path),
        ("Train.resume_path", settings.train.resume_path),
    ):
        if path is not None:
            _lasting(name, path, notes)
    for name, path in (
        ("Global.dataset_dir", settings.general.dataset_dir),
        ("Evaluate.weight_path", settings.evaluate.weight_path),
    ):
        _readable(name, path, root, uploaded, notes)


def _lasting(name: str, path: str, notes: list[str]) -> None:
    if _is_url(path):
        return
    if not os.path.isabs(path):
        raise ConfigError(
            f"{name} {path}: a relative path would lie in a scratch folder of the cluster and be lost with the job. "
            "Give a URL such as s3://bucket/folder, or an absolute path on storage that all machines mount"
        )
    notes.append(f"{name} {path}: {SHARED}")


def _readable(name: str, path: str | None, root: Path | None, uploaded: Iterable[str], notes: list[str]) -> None:
    if path is None or _is_url(path) or path.startswith("fake:"):
        return
    if os.path.isabs(path):
        notes.append(f"{name} {path}: {SHARED}")
        return
    if root is None:
        raise ConfigError(
            f"{name} {path}: nothing is uploaded, so a relative path means nothing on the cluster. Give a URL or an absolute "
            "path there, or the folder it lies in as --working-dir"
        )
    wanted = Path(os.path.normpath(path)).as_posix()
    if not any(file == wanted or file.startswith(f"{wanted}/") for file in uploaded):
        there = "is left out of what is uploaded; add --include" if (root / wanted).exists() else "is not there; mend it, add"
        raise ConfigError(f"{name} {path}: {root / wanted} {there} {path}, or give a URL or an absolute path")


def _is_url(path: str) -> bool:
    return "://" in path and not path.startswith(("file://", "local://"))
