"""ONNX Runtime in fp32, on CPU and with CUDA on GPU. What it runs is made by `rayseg.predict.convert`.

Equal inputs give equal bits with any number of threads it was opened with, but not from one number to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayseg.errors import BackendError
from rayseg.predict.backends.piecewise import open_pieces
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.convert.converted import converted
from rayseg.predict.convert.least_score import onnx_program
from rayseg.predict.spec import ModelSpec

ONE_IMAGE_FAMILIES = ("ppyoloe_seg", "rcnn", "solov2")
"""Their programs choose objects by operators that paddle2onnx 2.1 writes for a single image; a batch would be wrong."""


class OnnxRuntime:
    """One ONNX file, loaded.

    Args:
        name: what the user calls the engine.
        program: its path, or what is in it.
        providers: of ONNX Runtime, the first that is there is used; all of them must be.
        threads: of a CPU.
    """

    def __init__(self, name: str, program: Path | bytes, *, providers: Sequence[Any], threads: int, batches: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; warnings are about constants it folds
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # predictors share cores
        self.name = name
        self.batches = batches
        try:
            given = program if isinstance(program, bytes) else str(program)
            self._session = onnxruntime.InferenceSession(given, sess_options=options, providers=list(providers))
        except Exception as error:
            raise BackendError(f"{name}: ONNX Runtime could not load {_said(program)}: {error}") from error
        self._inputs = tuple(value.name for value in self._session.get_inputs())
        self._outputs = [value.name for value in self._session.get_outputs()]

    @property
    def providers(self) -> tuple[str, ...]:
        """What ONNX Runtime really uses; it drops a provider that fails to load."""
        return tuple(self._session.get_providers())

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        return self._session.run(self._outputs, {name: np.ascontiguousarray(inputs[name]) for name in self._inputs})


def onnxruntime_cpu(spec: ModelSpec, *, threads: int, least_score: float = 0.0) -> Backend:
    """A model directory on CPU, in fp32.

    Args:
        least_score: objects must exceed it; others may be missing from the outputs.

    Raises:
        BackendError: the model cannot be converted or loaded.
    """

    def load(path: Path) -> OnnxRuntime:
        program = onnx_program(path, least_score)
        return OnnxRuntime("onnxruntime", program, providers=["CPUExecutionProvider"], threads=threads, batches=False)

    return open_pieces("onnxruntime", converted(spec), load, threads=threads, least_score=least_score)


def onnxruntime_gpu(spec: ModelSpec, *, index: int, least_score: float = 0.0) -> OnnxRuntime:
    """A model directory on one GPU of this process.

    Args:
        least_score: as on a CPU.

    Raises:
        BackendError: the model cannot be converted or loaded, or ONNX Runtime has no CUDA here.
    """
    import onnxruntime

    wanted = "CUDAExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise BackendError(
            f"onnxruntime: this build has no {wanted}, asked for gpu:{index}; install onnxruntime-gpu in place of onnxruntime, "
            "or use backend auto"
        )
    program = converted(spec)
    if len(program.pieces) > 1:
        raise BackendError(f"onnxruntime: {spec.name} converts in pieces only, which is for CPUs; use backend auto or paddle")
    providers = [(wanted, {"device_id": index}), "CPUExecutionProvider"]
    together = spec.family not in ONE_IMAGE_FAMILIES
    (path,) = (piece.path for piece in program.pieces)
    given = onnx_program(path, least_score)
    backend = OnnxRuntime("onnxruntime", given, providers=providers, threads=1, batches=together)
    if wanted not in backend.providers:
        raise BackendError(f"onnxruntime: CUDA failed to start on gpu:{index}; it runs on {', '.join(backend.providers)} only")
    return backend


def _said(program: Path | bytes) -> str:
    return "a program whose least score was raised" if isinstance(program, bytes) else str(program)
