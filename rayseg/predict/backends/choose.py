"""Which engine runs a model: what was asked for, or the fastest that gives the plain engine's numbers here."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rayseg.errors import BackendError
from rayseg.predict.backends.fake import FakeBackend
from rayseg.predict.backends.paddle_eager import eager
from rayseg.predict.backends.paddle_inference import gpu, last_line, onednn_cpu, plain_cpu
from rayseg.predict.backends.probe import deviation
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.spec import ModelSpec

log = logging.getLogger(__name__)

NAMES = ("auto", "paddle", "paddle-onednn", "eager", "fake")


def open_backend(spec: ModelSpec, name: str, *, device: str, threads: int) -> Backend:
    """Load a model into an engine.

    Args:
        name: one of NAMES. `auto` on CPU is paddle-onednn where it can be trusted, else paddle.
        device: cpu, or gpu:N.
        threads: of a CPU engine.

    Raises:
        BackendError: the engine asked for cannot run the model, or name and device contradict each other.
    """
    if name not in NAMES:
        raise BackendError(f"backend {name!r} is unknown; known: {', '.join(NAMES)}")
    if spec.scripted != (name == "fake") and not (spec.scripted and name == "auto"):
        raise BackendError(f"backend {name!r} cannot run {spec.name}; fake models and the fake backend go together")
    if spec.scripted:
        return FakeBackend(spec)
    if device != "cpu" and not (device.startswith("gpu:") and device[4:].isdigit()):
        raise BackendError(f"device {device!r} is unknown; expected cpu or gpu:0, gpu:1, ...")
    if name == "eager":
        return eager(spec, device=device)
    if device != "cpu":
        if name == "paddle-onednn":
            raise BackendError(f"backend paddle-onednn runs on CPUs only, but the device is {device}; use backend auto")
        return gpu(spec, index=int(device[4:]))
    return _on_cpu(spec, name, threads)


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


def _on_cpu(spec: ModelSpec, name: str, threads: int) -> Backend:
    def sure() -> Backend:
        return plain_cpu(spec, threads=threads)

    def fast() -> Backend:
        return onednn_cpu(spec, threads=threads)

    if name == "paddle":
        return sure()
    if name == "auto":
        return fastest_trusted(spec, fast, sure)
    backend, reason = _try(spec, fast, sure())
    if backend is None:
        raise BackendError(f"backend paddle-onednn gives wrong results for {spec.name}: {reason}. Use backend auto or paddle.")
    return backend


def _try(spec: ModelSpec, fast: Callable[[], Backend], trusted: Backend) -> tuple[Backend | None, str]:
    try:
        backend = fast()
        reason = deviation(spec, backend, trusted)
    except Exception as error:  # noqa: BLE001 - engines raise anything from RuntimeError to SystemError
        return None, last_line(error)
    return (None, reason) if reason else (backend, "")
