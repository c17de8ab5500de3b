"""Paddle without its inference engine: an exported program or a network at hand, run operator by operator.

Slower than Paddle Inference, and a second opinion when that one misbehaves. Training uses it to try a network before
export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayseg.errors import BackendError
from rayseg.predict.model_dir import model_files
from rayseg.predict.spec import ModelSpec


class PaddleEager:
    """A callable that takes tensors, as a backend.

    Args:
        function: takes the tensors of `input_names` in this order, gives a tensor or a sequence of them in the
            program's order.
    """

    name = "eager"

    def __init__(self, function: Callable[..., Any], input_names: Sequence[str], *, batches: bool = False) -> None:
        self.batches = batches
        self._function = function
        self._input_names = tuple(input_names)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        import paddle

        with paddle.no_grad():
            found = self._function(*(paddle.to_tensor(inputs[name]) for name in self._input_names))
        return [tensor.numpy() for tensor in (found if isinstance(found, list | tuple) else [found])]


def eager(spec: ModelSpec, *, device: str) -> PaddleEager:
    """Load a model directory.

    Raises:
        BackendError: Paddle cannot load it, or has no such device.
    """
    import paddle

    try:
        paddle.set_device(device)
        program, _, _ = model_files(Path(spec.path))
        layer = paddle.jit.load(str(program.with_suffix("")))
        layer.eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise BackendError(f"eager: Paddle could not load {spec.path} on {device}: {error}") from error
    return PaddleEager(layer, spec.inputs, batches=device != "cpu")
