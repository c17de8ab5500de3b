"""A program in pieces, each run by the engine that can: ONNX pieces by the one asked for, the rest by plain Paddle.

Values go from piece to piece as arrays in this process. How a program is cut is `rayseg.predict.convert`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rayseg.errors import BackendError
from rayseg.predict.backends.paddle_inference import PaddleInference
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.convert.changed import paddle_program
from rayseg.predict.convert.pieces import Converted
from rayseg.predict.model_dir import PARAMS_FILE, PROGRAM_FILES


def open_pieces(
    name: str, program: Converted, open_onnx: Callable[[Path], Backend], *, threads: int, least_score: float = 0.0
) -> Backend:
    """A program loaded into an engine; see Piecewise. Where it is one file, the engine alone."""
    if [piece.kind for piece in program.pieces] == ["onnx"]:
        return open_onnx(program.pieces[0].path)
    return Piecewise(name, program, open_onnx, threads=threads, least_score=least_score)


class Piecewise:
    """All pieces, loaded.

    Args:
        name: what the user calls the engine.
        program: in pieces.
        open_onnx: loads an ONNX file into that engine.
        threads: of the pieces that stay with Paddle, which run on the CPU.
        least_score: objects must exceed it; others may be missing from the outputs.
    """

    batches = False

    def __init__(
        self, name: str, program: Converted, open_onnx: Callable[[Path], Backend], *, threads: int, least_score: float = 0.0
    ) -> None:
        self.name = name
        self._outputs = program.outputs
        self._pieces = program.pieces
        self._last_use = _last_uses(program)
        self._engines = [
            open_onnx(piece.path) if piece.kind == "onnx" else _plain(piece.path, threads, least_score)
            for piece in program.pieces
        ]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """See `Backend.run`."""
        values = dict(inputs)
        for number, (piece, engine) in enumerate(zip(self._pieces, self._engines, strict=True)):
            given = engine.run({name: values[name] for name in piece.inputs})
            if len(given) != len(piece.outputs):
                raise BackendError(f"{self.name}: {piece.path} gave {len(given)} values, {len(piece.outputs)} were expected")
            values.update(zip(piece.outputs, given, strict=True))
            for name in [name for name in values if self._last_use.get(name, -1) <= number]:
                del values[name]
        return [values[name] for name in self._outputs]


def _last_uses(program: Converted) -> dict[str, int]:
    """Name of a value -> the last piece that takes it; those the program gives are never done with."""
    last = {name: number for number, piece in enumerate(program.pieces) for name in piece.inputs}
    return last | dict.fromkeys(program.outputs, len(program.pieces))


def _plain(folder: Path, threads: int, least_score: float) -> PaddleInference:
    """A folder with a program and perhaps parameters, as in `backends.paddle_inference.plain_cpu`."""
    from paddle.inference import Config

    params = folder / PARAMS_FILE
    # An empty name where there are no parameters: Paddle refuses a file of none.
    with paddle_program(folder / PROGRAM_FILES[0], least_score=least_score) as program:
        config = Config(str(program), str(params) if params.exists() else "")
        config.disable_glog_info()
        config.disable_gpu()
        config.disable_mkldnn()
        config.set_cpu_math_library_num_threads(threads)
        return PaddleInference("paddle", config, batches=False)
