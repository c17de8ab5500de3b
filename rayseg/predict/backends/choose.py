"""Which engine runs a model: what was asked for, or the fastest that gives the plain engine's numbers here.

Measuring engines against each other on a job's own images is trial.py's; this file knows the table of engines, which of
them could run here, and how each is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from rayseg.config.backends import BACKENDS, PRECISIONS
from rayseg.errors import BackendError
from rayseg.predict.backends.fake import FakeBackend
from rayseg.predict.backends.onnxruntime import onnxruntime_cpu, onnxruntime_gpu
from rayseg.predict.backends.openvino import openvino_cpu
from rayseg.predict.backends.paddle_eager import eager
from rayseg.predict.backends.paddle_inference import gpu, has_tensorrt, last_line, onednn_cpu, plain_cpu, tensorrt_gpu
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.backends.second_look import distrust
from rayseg.predict.convert.least_score import drops_early
from rayseg.predict.spec import ModelSpec

log = logging.getLogger(__name__)

FP32 = PRECISIONS[0]
_CPU, _GPU = "cpu", "gpu"


@dataclass(frozen=True)
class Engine:
    """One row of the table."""

    precisions: Mapping[str, tuple[str, ...]]
    """Kind of device it runs on, cpu or gpu -> precisions it has there."""
    packages: tuple[str, ...]
    """Modules that must be there, ..."""
    extra: str
    """... and the extra of rayseg that brings them."""
    comparable: bool = True
    """Whether it is a choice for `auto`; eager is for second opinions only."""


ENGINES: dict[str, Engine] = {
    "paddle": Engine({_CPU: (FP32,), _GPU: (FP32,)}, ("paddle",), "cpu"),
    "paddle-onednn": Engine({_CPU: (FP32, "bf16")}, ("paddle",), "cpu"),
    "onnxruntime": Engine({_CPU: (FP32,), _GPU: (FP32,)}, ("onnxruntime", "onnx", "paddle2onnx"), "onnxruntime"),
    "openvino": Engine({_CPU: (FP32, "bf16")}, ("openvino", "onnx", "paddle2onnx"), "openvino"),
    "paddle-tensorrt": Engine({_GPU: (FP32, "fp16")}, ("paddle",), "gpu"),
    "eager": Engine({_CPU: (FP32,), _GPU: (FP32,)}, ("paddle",), "cpu", comparable=False),
}
"""What can run an exported program; the first is the sure one. `fake` runs fake models only, and nothing else runs those."""


def candidates(spec: ModelSpec, *, device: str, precision: str = FP32) -> tuple[str, ...]:
    """Engines that could run a model on a device and whose packages are there, the sure one first.

    Whether they do, and with which numbers, shows when they are opened and run: a conversion may fail.

    Args:
        device: cpu, or gpu:N.

    Raises:
        BackendError: a device or precision nobody knows.
    """
    if spec.scripted:
        return ("fake",)
    kind = _kind(device)
    _check_precision(precision)
    return tuple(
        name
        for name, engine in ENGINES.items()
        if engine.comparable and precision in engine.precisions.get(kind, ()) and _is_there(name, engine)
    )


def open_backend(
    spec: ModelSpec,
    name: str,
    *,
    device: str,
    threads: int,
    precision: str = FP32,
    check: bool = True,
    least_score: float = 0.0,
) -> Backend:
    """Load a model into an engine.

    Args:
        name: one of BACKENDS. `auto` on CPU is paddle-onednn where it can be trusted, else paddle.
        device: cpu, or gpu:N.
        threads: of a CPU engine.
        precision: one of PRECISIONS. Engines that lack it are refused by name; `auto` takes the first that has it.
        check: compare a CPU engine in fp32 with the plain one on a made-up image; False for an engine that has been
            compared on better images.
        least_score: what asks for objects wants those that exceed it; an engine that can be spared the others is, after the
            comparison. The plain engine runs the program as it is.

    Raises:
        BackendError: the engine asked for cannot run the model, lacks a package, or name, device and precision contradict
            each other.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend {name!r} is unknown; known: {', '.join(BACKENDS)}")
    _check_precision(precision)
    if spec.scripted != (name == "fake") and not (spec.scripted and name == "auto"):
        raise BackendError(f"backend {name!r} cannot run {spec.name}; fake models and the fake backend go together")
    if spec.scripted:
        return _fake(spec, precision)
    kind = _kind(device)
    if name == "auto":
        return _auto(spec, device, threads, precision, least_score)
    _check_combination(name, kind, device, precision)
    if not (check and kind == _CPU and precision == FP32 and name not in ("paddle", "eager")):
        return _open(spec, name, device, threads, precision, least_score)
    backend = _open(spec, name, device, threads, precision)
    _, reason = _try(spec, lambda: backend, plain_cpu(spec, threads=threads))
    if reason:
        raise BackendError(f"backend {name} gives wrong results for {spec.name}: {reason}. Use backend auto or paddle.")
    return _spared(spec, backend, lambda: _open(spec, name, device, threads, precision, least_score), least_score)


def fastest_trusted(spec: ModelSpec, fast: Callable[[], Backend], sure: Callable[[], Backend]) -> Backend:
    """The fast engine when it loads, runs and agrees with the sure one; else the sure one, and one line in the log."""
    trusted = sure()
    backend, reason = _try(spec, fast, trusted)
    if backend is not None:
        return backend
    log.warning(
        "%s: using the plain engine, which is 2 to 3 times slower, because the fast one is not right: %s",
        spec.name,
        reason,
    )
    return trusted


def _spared(spec: ModelSpec, backend: Backend, again: Callable[[], Backend], least_score: float) -> Backend:
    """An engine that was compared with all its objects, opened again without those nobody wants."""
    return again() if least_score > 0 and drops_early(spec) else backend


def _auto(spec: ModelSpec, device: str, threads: int, precision: str, least_score: float) -> Backend:
    if precision != FP32:
        able = candidates(spec, device=device, precision=precision)
        if not able:
            raise BackendError(_no_such_precision(_kind(device), device, precision))
        return _open(spec, able[0], device, threads, precision, least_score)
    if device != _CPU:
        return _open(spec, "paddle", device, threads, precision)
    backend = fastest_trusted(spec, lambda: onednn_cpu(spec, threads=threads), lambda: plain_cpu(spec, threads=threads))
    if backend.name == "paddle":
        return backend
    return _spared(spec, backend, lambda: onednn_cpu(spec, threads=threads, least_score=least_score), least_score)


def _open(spec: ModelSpec, name: str, device: str, threads: int, precision: str, least_score: float = 0.0) -> Backend:
    """The engine itself, unchecked."""
    if name == "eager":
        return eager(spec, device=device)
    if device == _CPU:
        if name == "paddle":
            return plain_cpu(spec, threads=threads)
        if name == "paddle-onednn":
            return onednn_cpu(spec, threads=threads, precision=precision, least_score=least_score)
        if name == "openvino":
            return openvino_cpu(spec, threads=threads, precision=precision, least_score=least_score)
        return onnxruntime_cpu(spec, threads=threads, least_score=least_score)
    index = int(device[4:])
    if name == "paddle":
        return gpu(spec, index=index)
    if name == "paddle-tensorrt":
        return tensorrt_gpu(spec, index=index, precision=precision)
    return onnxruntime_gpu(spec, index=index, least_score=least_score)


def _fake(spec: ModelSpec, precision: str) -> Backend:
    if precision != FP32:
        raise BackendError(f"precision {precision!r}: fake models compute nothing; use {FP32}")
    return FakeBackend(spec)


def _kind(device: str) -> str:
    if device == _CPU:
        return _CPU
    if device.startswith("gpu:") and device[4:].isdigit():
        return _GPU
    raise BackendError(f"device {device!r} is unknown; expected cpu or gpu:0, gpu:1, ...")


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise BackendError(f"precision {precision!r} is unknown; known: {', '.join(PRECISIONS)}")


def _check_combination(name: str, kind: str, device: str, precision: str) -> None:
    """Raise what would be silly to try, and say what can be had instead."""
    engine = ENGINES[name]
    if kind not in engine.precisions:
        only = "CPUs" if _CPU in engine.precisions else "GPUs"
        raise BackendError(f"backend {name} runs on {only} only, but the device is {device}; use backend auto")
    if precision not in engine.precisions[kind]:
        raise BackendError(
            f"backend {name} computes in {' or '.join(engine.precisions[kind])} on {device}, not in {precision}. "
            + _no_such_precision(kind, device, precision)
        )
    missing = [package for package in engine.packages if find_spec(package) is None]
    if missing:
        raise BackendError(
            f"backend {name} needs {' and '.join(missing)}, not installed here: pip install 'rayseg[{engine.extra}]', "
            "or use backend auto"
        )


def _no_such_precision(kind: str, device: str, precision: str) -> str:
    have = [name for name, engine in ENGINES.items() if engine.comparable and precision in engine.precisions.get(kind, ())]
    return f"On {device}, {precision} is to be had with backend {' or '.join(have) or 'nothing'}; {FP32} with any"


def _is_there(name: str, engine: Engine) -> bool:
    if any(find_spec(package) is None for package in engine.packages):
        return False
    return name != "paddle-tensorrt" or has_tensorrt()


def _try(spec: ModelSpec, fast: Callable[[], Backend], trusted: Backend) -> tuple[Backend | None, str]:
    try:
        backend = fast()
        reason = distrust(spec, backend, trusted)
    except Exception as error:  # noqa: BLE001 - engines raise anything from RuntimeError to SystemError
        return None, last_line(error)
    return (None, reason) if reason else (backend, "")
