"""The devices of this machine, found by their strings (`gpu:0`, `npu:0`), and a predictor for each of them.

A device that is not there is an error that names it. Kinds other than cpu and gpu run Paddle operator by operator: that is
what Paddle's plug-ins promise, and we have no such machine to try more.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayseg.config.backends import PRECISIONS
from rayseg.config.device import parse_device
from rayseg.errors import BackendError, ConfigError
from rayseg.predict.backends.paddle_eager import eager
from rayseg.predict.predictor import Predictor
from rayseg.predict.spec import ModelSpec


@dataclass(frozen=True)
class Device:
    """One device."""

    kind: str
    """One of `rayseg.config.device.KINDS`."""
    index: int = 0
    """Of its kind; the CPU is one device."""

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def parse_devices(text: str) -> tuple[Device, ...]:
    """The devices of a string; without an index the first of its kind.

    Raises:
        ConfigError: the string is malformed, names an unknown kind, or one device twice.
    """
    choice = parse_device(text)
    kind = choice.kind
    found = tuple(Device(kind, index) for index in choice.indices or (0,))
    if len(found) > 1 and kind != "gpu":
        raise ConfigError(
            f"device {text!r}: one process drives several devices only of kind gpu; start a process for each {kind}"
        )
    return found


def find_devices(text: str | None) -> tuple[Device, ...]:
    """As `parse_devices`, and each of them is there; None is the first GPU, or the CPU where there is none.

    Raises:
        BackendError: a device is not there.
    """
    there = present()
    if text is None:
        return (Device("gpu"),) if Device("gpu") in there else (Device("cpu"),)
    wanted = parse_devices(text)
    for device in wanted:
        if device not in there:
            seen = ", ".join(map(str, there))
            raise BackendError(
                f"device {device}: is not there; Paddle sees {seen} on this machine. Name one of them, or install the build of "
                f"Paddle for {device.kind}; nothing falls back to another device"
            )
    return wanted


def present() -> tuple[Device, ...]:
    """What this build of Paddle sees on this machine; the CPU always."""
    import paddle

    found = [Device("cpu")]
    found += [Device("dcu" if paddle.is_compiled_with_rocm() else "gpu", i) for i in range(paddle.device.cuda.device_count())]
    found += [Device("xpu", i) for i in range(paddle.device.xpu.device_count())]
    for name in paddle.device.get_available_custom_device() or ():
        kind, _, index = str(name).partition(":")  # a device that is the only one of its kind has no index
        found.append(Device(kind, int(index or 0)))
    return tuple(found)


def open_predictor(
    spec: ModelSpec,
    device: Device,
    *,
    backend: str = "auto",
    threads: int = 2,
    precision: str = PRECISIONS[0],
    least_score: float = 0.0,
) -> Predictor:
    """A loaded and probed model on one device.

    Args:
        backend: as `Predictor` takes it.
        threads: of a CPU engine.
        precision: of the arithmetic, one of `rayseg.config.backends.PRECISIONS`.
        least_score: as `Predictor` takes it.

    Raises:
        BackendError: the device cannot run the model with that backend, or not in that precision.
    """
    if device.kind in ("cpu", "gpu") or spec.scripted:
        return Predictor(spec, backend, str(device), threads, precision, least_score)
    if backend not in ("auto", "eager"):
        raise BackendError(f"device {device} runs the eager engine only, not {backend}; leave engine out")
    if precision != PRECISIONS[0]:
        raise BackendError(f"device {device} computes in {PRECISIONS[0]} only here, not in {precision}; leave precision out")
    paddles_name = f"gpu:{device.index}" if device.kind == "dcu" else str(device)
    return Predictor(spec, eager(spec, device=paddles_name), least_score=least_score)
