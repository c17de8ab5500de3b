"""What every command with a settings file leaves in its output folder: its settings, and `<mode>_result.json` however it
ends, as PaddleX's users know it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayseg.cli.shared import DONE
from rayseg.config.train import Settings
from rayseg.errors import OutputError


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    result: dict[str, Any] | None = None
    """What is written; None where the command has written its own."""
    status: int = DONE


def recorded(settings: Settings, act: Callable[[Settings], Outcome]) -> int:
    """Do what is asked; returns the exit status.

    The result of an earlier run goes before anything is done, so that what is there belongs to this one. `train` stores its
    settings as config.yaml itself, others here as `<mode>_config.yaml`.

    Raises:
        OutputError: the folder cannot be written to.
        Exception: whatever `act` raises, after it was written down.
    """
    mode, folder = settings.general.mode, Path(settings.general.output)
    path = folder / f"{mode}_result.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if mode != "train":
            write_text(folder / f"{mode}_config.yaml", settings.to_yaml())
    except OSError as error:
        raise OutputError(f"Global.output {folder}: cannot write there ({error.strerror}); name another folder") from error
    try:
        outcome = act(settings)
    except BaseException as error:
        write_text(path, _json({"done_flag": False, "err_type": type(error).__name__, "err_msg": str(error)}))
        raise
    if outcome.result is not None:
        write_text(path, _json({"done_flag": True, **outcome.result}))
    return outcome.status


def write_text(path: Path, text: str) -> None:
    """The file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
