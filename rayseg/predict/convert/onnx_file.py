"""One Paddle program to one ONNX file, in a process of its own: paddle2onnx ends the process when it meets what it cannot do.

Where files are kept and which of them are there already is converted.py's.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rayseg.errors import BackendError
from rayseg.predict.backends.child import in_child
from rayseg.predict.convert.mend import mend
from rayseg.predict.convert.rewrite import norms, reworded

log = logging.getLogger(__name__)

TIME_LIMIT_S = 600.0
"""Of one conversion; the largest network of the zoo takes half a minute."""
OPSET = 17
"""The first that has layer normalisation; grid sampling came with 16."""
REVISION = 4
"""Of our own part. Raise it when rewrite.py or mend.py change what comes out: older files are then made again."""

_REASON = re.compile(r"\[ERROR\]\[Paddle2ONNX\] *(.+)|\[Paddle2ONNX\] *(Oops.+)|^([A-Z]\w*Error: .+)|(Failed to convert .+)")
_SAID = 400


class OutOfTime(BackendError):
    """A conversion took longer than it was given: the fault of a busy machine, perhaps, and not of the program."""


@dataclass(frozen=True)
class OnnxFile:
    """Names of a converted program's inputs and outputs; the outputs are in the program's order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def converter() -> str:
    """What converts here, as a folder name: its version, Paddle's, and ours.

    Raises:
        BackendError: paddle2onnx is not installed.
    """
    return f"paddle2onnx-{version('paddle2onnx')}-paddle-{_paddle()}-{REVISION}"


def _paddle() -> str:
    """Version of Paddle, whose package has another name where it was built for GPUs."""
    for package in ("paddlepaddle", "paddlepaddle-gpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"


def write_onnx(program: Path, params: Path, onnx_path: Path, *, timeout_s: float = TIME_LIMIT_S) -> OnnxFile:
    """Convert a program; nothing is written but the file, and that only when all went well.

    Args:
        program: inference.json or inference.pdmodel; neither it nor its folder is changed.
        params: its parameters.
        onnx_path: written whole or not at all.

    Raises:
        BackendError: paddle2onnx refused or crashed, in its own words.
        OutOfTime: it took too long.
    """
    return write_onnx_files([(program, params, onnx_path)], timeout_s=timeout_s)[0]


def write_onnx_files(jobs: Sequence[tuple[Path, Path, Path]], *, timeout_s: float = TIME_LIMIT_S) -> list[OnnxFile]:
    """Convert several programs in one process, all or none.

    Args:
        jobs: program, parameters and file to write, of each; see `write_onnx`.
        timeout_s: of all together.

    Raises:
        BackendError: as `write_onnx`, for the first that failed.
    """
    freshes = [onnx_path.with_name(f".{onnx_path.name}.{os.getpid()}") for _, _, onnx_path in jobs]
    asked = [(program, params, fresh) for (program, params, _), fresh in zip(jobs, freshes, strict=True)]
    with tempfile.TemporaryDirectory(prefix="rayseg-convert-") as folder:
        said = Path(folder, "said")
        try:
            found: list[OnnxFile] = in_child(_convert_all, asked, Path(folder), said, timeout_s=timeout_s)
            for fresh, (_, _, onnx_path) in zip(freshes, jobs, strict=True):
                fresh.replace(onnx_path)
        except BackendError as error:
            program = next((program for program, _, fresh in asked if not fresh.exists()), asked[-1][0])
            if isinstance(error.__cause__, subprocess.TimeoutExpired):
                raise OutOfTime(f"converting {program} to ONNX {error}") from error
            raise BackendError(f"{program} does not convert to ONNX: {_reason(said) or error}") from error
        finally:
            for fresh in freshes:
                fresh.unlink(missing_ok=True)
    return found


def _reason(said: Path) -> str:
    """What paddle2onnx wrote before it ended; its last error but one is the telling one."""
    if not said.exists():
        return ""
    lines = [match for line in said.read_text(errors="replace").splitlines() if (match := _REASON.search(line))]
    words = [next(group for group in match.groups() if group).strip() for match in lines]
    return "; ".join(dict.fromkeys(words))[:_SAID]


def _convert_all(jobs: Sequence[tuple[Path, Path, Path]], folder: Path, said: Path) -> list[OnnxFile]:
    """In the child."""
    return [_convert(*job, folder, said) for job in jobs]


def _convert(program: Path, params: Path, onnx_path: Path, folder: Path, said: Path) -> OnnxFile:
    """In the child; may end its process."""
    with said.open("wb") as file:
        sys.stdout.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import onnx
    import paddle2onnx

    if program.suffix == ".pdmodel":
        program, params = _to_pir(program, folder)
    document = json.loads(program.read_bytes())
    text, poolings = reworded(document)
    copied = folder / "reworded.json"
    copied.write_text(json.dumps(text), encoding="utf-8")
    raw = folder / "raw.onnx"
    raw.unlink(missing_ok=True)  # of the program before
    # Its own optimiser installs packages when they are missing; engines fold constants themselves.
    paddle2onnx.export(str(copied), str(params), save_file=str(raw), opset_version=OPSET, optimize_tool="None")
    if not raw.exists():
        raise BackendError("paddle2onnx wrote no file")
    model = onnx.load(raw)
    mend(model, poolings, norms(document))
    onnx.save(model, onnx_path)
    onnx.checker.check_model(str(onnx_path))
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(value.name for value in model.graph.input if value.name not in constants)
    return OnnxFile(inputs, tuple(value.name for value in model.graph.output))


def _to_pir(program: Path, folder: Path) -> tuple[Path, Path]:
    """An inference.pdmodel as a program of today, written into a folder."""
    import paddle
    from paddle2onnx.convert import load_parameter, save_program

    runner = paddle.static.Executor(paddle.CPUPlace())
    with paddle.pir_utils.OldIrGuard():
        old, _, _ = paddle.static.load_inference_model(str(program.with_suffix("")), runner)
    new = paddle.pir.translate_to_pir(old.desc)
    load_parameter(new)
    save_program(new, str(folder / "translated"))
    return folder / "translated.json", folder / "translated.pdiparams"
