"""What PaddleX's module files may hold that we do not have: dropped where it asks for nothing, refused with the reason
where it asks for something, translated where we say it another way. Nothing is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayseg.errors import ConfigError


@dataclass(frozen=True)
class Foreign:
    """A key of PaddleX that we do not honour."""

    idle: tuple[Any, ...]
    """Values that ask for nothing; the key is dropped."""
    reason: str
    """Why any other is refused, and what to do instead."""


_CONFIG = Foreign((None, ""), "there are no base files; every setting is in this file")
_ENGINE = "the engine is chosen, and probed, when the model is loaded; for another use `rayseg segment --backend`"

FOREIGN: dict[str, dict[str, Foreign]] = {
    "Global": {"export_with_pir": Foreign((None, True), "exports are programs of Paddle 3 (inference.json); drop the key")},
    "Train": {
        "dy2st": Foreign((None, False), "networks train as they are written; only exports are static programs. Drop the key"),
        "dist_ips": Foreign((None, ""), "machines are found by Ray; set Cluster.address and Cluster.num_workers"),
        "basic_config_path": _CONFIG,
        "uniform_output_enabled": Foreign((None, True), "the output folder has one layout; drop the key"),
    },
    "Evaluate": {"basic_config_path": _CONFIG},
    "Export": {"basic_config_path": _CONFIG},
    "Predict": {
        "kernel_option": Foreign((None, {}, {"run_mode": "paddle"}), _ENGINE),
        "engine": Foreign((None, "paddle", "paddle_static"), _ENGINE),
        "engine_config": Foreign((None, {}), _ENGINE),
        "use_hpip": Foreign((None, False), _ENGINE),
        "hpi_config": Foreign((None, {}), _ENGINE),
        "target_size": Foreign((None, -1), "the size of the input is the model directory's; export one with another size"),
    },
}


def translate(section: str, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """A section with the keys and values that our dataclasses know.

    Args:
        section: as PaddleX calls it, such as Train.
        where: names the origin in messages.

    Raises:
        ConfigError: a key of PaddleX that asks for something we do not do; the message says why.
    """
    out = dict(values)
    for key, foreign in FOREIGN.get(section, {}).items():
        if key in out and not any(type(out[key]) is type(idle) and out[key] == idle for idle in foreign.idle):
            raise ConfigError(f"{where}: {section}.{key}: {out[key]!r} of PaddleX is not honoured here: {foreign.reason}")
        out.pop(key, None)
    if section == "Train":
        if out.get("amp") is False:
            out["amp"] = "OFF"  # how YAML reads a bare OFF
        _size_from_shape(out, "train_size", where=f"{where}: Train")
    if section == "Export":
        _size_from_shape(out, "input_size", where=f"{where}: Export")
    return out


def _size_from_shape(values: dict[str, Any], name: str, *, where: str) -> None:
    """PaddleX's input_shape [n, 3, height, width] becomes [height, width] under our name."""
    shape = values.pop("input_shape", None)
    if shape is None:
        return
    if not isinstance(shape, (list, tuple)) or len(shape) != 4 or shape[1] != 3:
        raise ConfigError(f"{where}.input_shape {shape!r}: expected [images, 3, height, width]")
    size = list(shape[2:])
    given = values.get(name)
    if given is not None and list(given) != size:
        raise ConfigError(f"{where}.input_shape {shape} contradicts {name} {list(given)}; give one of them")
    values[name] = size
