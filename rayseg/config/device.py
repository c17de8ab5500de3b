"""Device strings as PaddleX writes them: `cpu`, `gpu`, `gpu:0`, `gpu:0,1`, `npu:0`; and what Ray calls the devices.

Whether a device is there is asked elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rayseg.errors import ConfigError

KINDS = ("cpu", "gpu", "npu", "xpu", "mlu", "dcu", "gcu", "iluvatar_gpu", "metax_gpu")

RESOURCES = {
    "gpu": "GPU",
    "dcu": "GPU",
    "metax_gpu": "GPU",
    "npu": "NPU",
    "xpu": "XPU",
    "mlu": "MLU",
    "gcu": "GCU",
    "iluvatar_gpu": "ILUVATAR_GPU",
}
"""What Ray calls each kind. It finds GPU and NPU by itself; of others nodes tell it: `ray start --resources '{"XPU": 1}'`."""

VISIBLE = {
    "gpu": "CUDA_VISIBLE_DEVICES",
    "metax_gpu": "CUDA_VISIBLE_DEVICES",
    "dcu": "HIP_VISIBLE_DEVICES",
    "npu": "ASCEND_RT_VISIBLE_DEVICES",
}
"""Where Ray writes which devices an actor reserved, for the kinds that it pins."""

PINNED = frozenset(RESOURCES[kind] for kind in VISIBLE)
"""Ray's names of those."""

_FORM = re.compile(r"([a-z_]+)(?::(\d+(?:,\d+)*))?")


@dataclass(frozen=True)
class DeviceChoice:
    """A kind of device, and which of them; None for any."""

    kind: str
    indices: tuple[int, ...] | None = None

    @property
    def resource(self) -> str | None:
        """What Ray calls it; None for CPUs."""
        return RESOURCES.get(self.kind)


def parse_device(text: str) -> DeviceChoice:
    """What a device string says.

    Raises:
        ConfigError: it is malformed, names an unknown kind, or one device twice.
    """
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[1] not in KINDS:
        raise ConfigError(
            f"device {text!r} is unknown; expected cpu, gpu, gpu:0, gpu:0,1 or the same with {', '.join(KINDS[2:])}"
        )
    kind, listed = match.groups()
    if listed is None:
        return DeviceChoice(kind)
    if kind == "cpu":
        raise ConfigError(f"device {text!r}: the CPU is one device and has no number; use cpu")
    indices = tuple(int(index) for index in listed.split(","))
    if len(set(indices)) < len(indices):
        raise ConfigError(f"device {text!r} names a device twice")
    return DeviceChoice(kind, indices)
