"""A program in pieces: what they are, and how they are made of one that does not convert as a whole.

Where the cuts are is decided in cut.py, one ONNX file is made in onnx_file.py, what is kept where in converted.py. Running the
pieces is `rayseg.predict.backends.piecewise`'s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayseg.errors import BackendError, ModelError
from rayseg.predict.convert.cut import Part, cut, write_parts
from rayseg.predict.convert.onnx_file import TIME_LIMIT_S, OnnxFile, write_onnx_files
from rayseg.predict.model_dir import PARAMS_FILE, PROGRAM_FILES

PROGRAM_FILE, OLD_PROGRAM_FILE = PROGRAM_FILES
ONNX_FILE = "model.onnx"


@dataclass(frozen=True)
class Piece:
    """A part of a program, run by one engine.

    Attributes:
        kind: "onnx" for the engine that was asked for, "paddle" for what only Paddle runs.
        path: an .onnx file, or a folder with inference.json and, where the part has parameters, inference.pdiparams.
        inputs: names of what it takes, in its own order: inputs of the program, or outputs of earlier pieces. For a program in
            several pieces they are ours, not those of the file.
        outputs: names of what it gives, in its own order.
    """

    kind: Literal["onnx", "paddle"]
    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Converted:
    """A program as pieces, in the order in which they run.

    Attributes:
        outputs: of the whole, in the program's order; each is one of some piece.
    """

    pieces: tuple[Piece, ...]
    outputs: tuple[str, ...]


def write_pieces(program: Path, params: Path, folder: Path, *, timeout_s: float = TIME_LIMIT_S) -> Converted:
    """Cut a program and convert what can be.

    Args:
        program: inference.json; not changed.
        params: its parameters.
        folder: takes the folders `0`, `1`, ... of the pieces.
        timeout_s: of converting them.

    Raises:
        BackendError: it cannot be cut, nothing of it is worth converting, or a piece does not convert either.
    """
    if program.name == OLD_PROGRAM_FILE:
        raise BackendError(f"{program}: only programs in {PROGRAM_FILE} can be cut; export the model again with Paddle 3")
    try:
        whole = cut(json.loads(program.read_bytes()))
        if len(whole.parts) == 1 or not any(part.converts for part in whole.parts):
            raise BackendError(f"{program}: holds no operator known to stand between convolutions that could be converted")
        folders = write_parts(program, params, whole.parts, folder)
    except ModelError as error:
        raise BackendError(f"{program}: cannot be cut into pieces: {error}") from error
    jobs = [_files(own) for part, own in zip(whole.parts, folders, strict=True) if part.converts]
    files = iter(write_onnx_files(jobs, timeout_s=timeout_s))
    pieces = [_piece(part, own, next(files) if part.converts else None) for part, own in zip(whole.parts, folders, strict=True)]
    return Converted(tuple(pieces), whole.outputs)


def _piece(part: Part, folder: Path, made: OnnxFile | None) -> Piece:
    if made is None:
        return Piece("paddle", folder, part.inputs, part.outputs)
    program, params, onnx_path = _files(folder)
    if set(made.inputs) != set(part.inputs) or len(made.outputs) != len(part.outputs):
        raise BackendError(
            f"{onnx_path}: takes {', '.join(made.inputs)} and gives {len(made.outputs)} values; the program it was "
            f"made of takes {', '.join(part.inputs)} and gives {len(part.outputs)}"
        )
    program.unlink()
    params.unlink(missing_ok=True)
    return Piece("onnx", onnx_path, part.inputs, part.outputs)


def _files(folder: Path) -> tuple[Path, Path, Path]:
    """Program, parameters and ONNX file of a part."""
    return folder / PROGRAM_FILE, folder / PARAMS_FILE, folder / ONNX_FILE
