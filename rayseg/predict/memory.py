"""How full memory is where a predictor runs: a GPU's own, or the machine's. A hint for sizing things; None where nobody says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_ASK_S = 10


def used_share(device: str) -> float | None:
    """The share of memory that is in use, by whomever, 0 to 1.

    Args:
        device: cpu, or gpu:N as this process counts them.
    """
    if device == "cpu":
        return _machine()
    kind, _, index = device.partition(":")
    return _nvidia(int(index or 0)) if kind == "gpu" else None


def resident_bytes() -> int:
    """Of this process, as it is now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _machine() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        values = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return 1 - values["MemAvailable"] / values["MemTotal"]
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _nvidia(index: int) -> float | None:
    """Of the driver: what Paddle counts is its own share only, and others may be on the same GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    name = visible[index] if index < len(visible) else str(index)
    ask = [tool, "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits", "-i", name]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=_ASK_S, check=True).stdout
        used, total = (float(part) for part in said.strip().splitlines()[0].split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return used / total if total else None
