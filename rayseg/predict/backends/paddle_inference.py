"""Paddle Inference on CPU, plain or with oneDNN, and on GPU, plain or with TensorRT.

oneDNN as Paddle 3.3 ships it fails on every segmentation program: its placement pass takes the resize operators
along, whose lists of doubles it cannot express (`ConvertPirAttribute2RuntimeAttribute not support
ArrayAttribute<DoubleAttribute>`, PaddlePaddle/Paddle#79749). Without that one pass the fused convolutions stay, the
rest runs plain, and CPUs are two to three times faster. A predictor can be created and still fail when run, or give
wrong numbers: probe it (probe.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayseg.errors import BackendError
from rayseg.predict.convert.changed import paddle_program
from rayseg.predict.convert.lean import ends_with_masks
from rayseg.predict.model_dir import model_files
from rayseg.predict.spec import ModelSpec

GPU_MEMORY_MB = 256
"""Taken at start; Paddle takes more as it needs it."""


TENSORRT_BATCH = 64
"""Largest batch its engines are made for."""


class PaddleInference:
    """One Paddle Inference predictor. Use one of the functions below."""

    def __init__(self, name: str, config: Any, *, batches: bool) -> None:
        from paddle.inference import create_predictor

        self.name = name
        self.batches = batches
        try:
            self._predictor = create_predictor(config)
        except Exception as error:  # Paddle raises RuntimeError, ValueError, SystemError and its own kinds
            raise BackendError(f"{name}: Paddle could not load the program: {last_line(error)}") from error
        self._inputs = {n: self._predictor.get_input_handle(n) for n in self._predictor.get_input_names()}
        self._outputs = [self._predictor.get_output_handle(n) for n in self._predictor.get_output_names()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        for name, handle in self._inputs.items():
            handle.copy_from_cpu(np.ascontiguousarray(inputs[name]))
        self._predictor.run()
        return [handle.copy_to_cpu() for handle in self._outputs]


def plain_cpu(spec: ModelSpec, *, threads: int) -> PaddleInference:
    """The slow and sure way."""
    config = _config(spec)
    config.disable_gpu()
    config.disable_mkldnn()
    config.set_cpu_math_library_num_threads(threads)
    return PaddleInference("paddle", config, batches=False)


def onednn_cpu(spec: ModelSpec, *, threads: int, precision: str = "fp32", least_score: float = 0.0) -> PaddleInference:
    """oneDNN without the pass that breaks resizing, and without two that drop steps of integer arithmetic.

    Args:
        least_score: objects must exceed it; others may be missing from the outputs.

    Raises:
        BackendError: Paddle cannot load the program, or this CPU lacks the precision, fp32 or bf16.
    """
    from paddle.inference import Config

    program, params, _ = model_files(Path(spec.path))
    with paddle_program(program, least_score=least_score, lean=ends_with_masks(spec)) as changed:
        config = Config(str(changed), str(params))
        config.disable_glog_info()
        config.disable_gpu()
        config.enable_mkldnn()
        if precision == "bf16":
            config.enable_mkldnn_bfloat16()
        for broken in ("onednn_placement_pass", "operator_scale_onednn_fuse_pass", "elementwise_act_onednn_fuse_pass"):
            config.delete_pass(broken)
        config.set_cpu_math_library_num_threads(threads)
        return PaddleInference("paddle-onednn", config, batches=False)


def gpu(spec: ModelSpec, *, index: int) -> PaddleInference:
    """One GPU of this process.

    Raises:
        BackendError: this Paddle or this machine has none.
    """
    return PaddleInference("paddle-gpu", _gpu_config(spec, index), batches=True)


def has_tensorrt() -> bool:
    """Whether this Paddle was built with TensorRT and finds it."""
    import paddle.inference

    built, found = paddle.inference.get_trt_compile_version(), paddle.inference.get_trt_runtime_version()
    return any(built) and any(found)


def tensorrt_gpu(spec: ModelSpec, *, index: int, precision: str = "fp32") -> PaddleInference:
    """One GPU of this process, the parts of the program that TensorRT knows given to it.

    Args:
        precision: fp32 or fp16.

    Raises:
        BackendError: this Paddle has no TensorRT, or this machine no such GPU.
    """
    from paddle.inference import PrecisionType

    config = _gpu_config(spec, index)
    if not has_tensorrt():
        raise BackendError("paddle-tensorrt: this Paddle finds no TensorRT; install tensorrt, or use backend auto")
    kinds = {"fp32": PrecisionType.Float32, "fp16": PrecisionType.Half}
    config.enable_tensorrt_engine(
        workspace_size=1 << 30,
        max_batch_size=TENSORRT_BATCH,
        min_subgraph_size=3,
        precision_mode=kinds[precision],
        use_static=False,
        use_calib_mode=False,
    )
    return PaddleInference("paddle-tensorrt", config, batches=True)


def _gpu_config(spec: ModelSpec, index: int) -> Any:
    import paddle

    if not paddle.is_compiled_with_cuda():
        raise BackendError(
            f"device gpu:{index}: this Paddle was built without GPU support; install paddlepaddle-gpu, or use device cpu"
        )
    if paddle.device.cuda.device_count() <= index:
        raise BackendError(f"device gpu:{index}: Paddle sees {paddle.device.cuda.device_count()} GPUs; see nvidia-smi")
    config = _config(spec)
    config.enable_use_gpu(GPU_MEMORY_MB, index)
    return config


def _config(spec: ModelSpec) -> Any:
    from paddle.inference import Config

    program, params, _ = model_files(Path(spec.path))
    config = Config(str(program), str(params))
    config.disable_glog_info()
    return config


def last_line(error: Exception) -> str:
    """The sentence that matters in Paddle's page of C++ frames, or the last one of any other message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("(")), lines[-1] if lines else type(error).__name__)
