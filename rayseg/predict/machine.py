"""What kind of machine this is, as far as the speed and the numbers of an engine depend on it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_ASK_S = 10


@dataclass(frozen=True)
class MachineKind:
    """Machines of one kind run an engine alike.

    Attributes:
        name: for people.
        key: short hash, for names of files and of entries.
    """

    name: str
    key: str


def machine_kind(device: str) -> MachineKind:
    """Of this machine: a CPU's model, instruction sets and usable cores; a GPU's name.

    Args:
        device: kind of device, such as cpu or gpu, also with a number.
    """
    kind, _, index = device.partition(":")
    if kind == "gpu":
        name = _gpu_name(int(index or 0))
        return MachineKind(name, _hash(name))
    model, flags = _cpu()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = f"{model}, {cores} cores"
    return MachineKind(name if kind == "cpu" else f"{kind} beside {name}", _hash(f"{kind} {name} {flags}"))


def _cpu() -> tuple[str, str]:
    """Model, and instruction sets in alphabetical order; of systems without /proc what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), platform.machine()
    pairs = [line.split(":", 1) for line in reversed(lines) if ":" in line]
    rows = {name.strip(): value.strip() for name, value in pairs}  # of the first core, which is read last
    model = rows.get("model name") or platform.machine()
    return model, " ".join(sorted((rows.get("flags") or rows.get("Features") or "").split()))


def _gpu_name(index: int) -> str:
    """As the driver calls it; of those that this process may use."""
    tool = shutil.which("nvidia-smi")
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    which = visible[index] if index < len(visible) else str(index)
    if tool is None:
        return "unknown GPU"
    ask = [tool, "--query-gpu=name", "--format=csv,noheader", "-i", which]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=_ASK_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown GPU"
    return said.strip() or "unknown GPU"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
