"""OpenVINO on CPU, in fp32 or bf16. What it runs is made by `rayseg.predict.convert`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rayseg.errors import BackendError
from rayseg.predict.backends.piecewise import open_pieces
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.convert.converted import converted
from rayseg.predict.convert.least_score import onnx_program
from rayseg.predict.spec import ModelSpec

_TYPES = {"fp32": "f32", "bf16": "bf16"}


class OpenVino:
    """One ONNX file, by its path or its bytes, compiled for this CPU."""

    name = "openvino"
    batches = False

    def __init__(self, program: Path | bytes, *, threads: int, precision: str = "fp32") -> None:
        import openvino

        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError("openvino: this CPU has no bf16 arithmetic; use precision fp32")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _TYPES[precision],  # its default is bf16 where the CPU has it
            "ENABLE_CPU_PINNING": False,  # predictors share cores
        }
        try:
            model = core.read_model(program if isinstance(program, bytes) else str(program))
            # Not a tensor's name: those of casts and the like that come to nothing are names of an input as well.
            self._inputs = tuple(value.get_node().get_friendly_name() for value in model.inputs)
            compiled = core.compile_model(model, "CPU", settings)
            self._request = compiled.create_infer_request()
        except Exception as error:
            what = program if isinstance(program, Path) else "a program whose least score was raised"
            raise BackendError(f"openvino: could not load {what}: {error}") from error
        self.precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        """What it computes in, in OpenVINO's word: f32 or bf16."""
        self._outputs = range(len(compiled.outputs))

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        given = {index: np.ascontiguousarray(inputs[name]) for index, name in enumerate(self._inputs)}
        self._request.infer(given, share_inputs=True)
        return [np.array(self._request.get_output_tensor(index).data) for index in self._outputs]


def openvino_cpu(spec: ModelSpec, *, threads: int, precision: str = "fp32", least_score: float = 0.0) -> Backend:
    """A model directory on CPU.

    Args:
        least_score: objects must exceed it; others may be missing from the outputs.

    Raises:
        BackendError: the model cannot be converted or loaded, or this CPU lacks the precision.
    """

    def load(path: Path) -> OpenVino:
        return OpenVino(onnx_program(path, least_score), threads=threads, precision=precision)

    return open_pieces("openvino", converted(spec), load, threads=threads, least_score=least_score)
