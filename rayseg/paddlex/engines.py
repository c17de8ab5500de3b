"""PaddleX's `engine`, `engine_config` and `use_hpip` in terms of our backends, and its arguments we do not have."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rayseg.config.load import nearest
from rayseg.errors import ConfigError

_ENGINES = {
    None: "auto",
    "paddle": "auto",
    "paddle_static": "auto",
    "auto": "auto",
    "paddle-onednn": "paddle-onednn",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "eager": "eager",
}
_RUN_MODES = {"paddle": "paddle", "paddle_fp32": "paddle", "mkldnn": "paddle-onednn"}
_MOST_THREADS = 10  # PaddleX's own default
_REMEDIES = {
    "pp_option": 'PaddleX itself ignores it; say engine_config={"run_mode": "paddle", "cpu_threads": 4}',
    "kernel_option": 'PaddleX itself ignores it; say engine_config={"run_mode": "paddle", "cpu_threads": 4}',
    "hpi_config": "use_hpip=True takes the fastest engine of this machine that gives right results; leave it out",
    "genai_config": "it is for language models; a segmentation model has nothing to generate. Leave it out",
    "input": "it belongs to predict()",
    "on_error": "it belongs to predict()",
    "img_size": "use target_size",
}


@dataclass(frozen=True)
class Engine:
    """What a predictor is opened with."""

    backend: str
    """As `Predictor` takes it."""
    threads: int
    """Of a CPU engine."""


def choose_engine(name: str | None, config: Mapping[str, Any] | None) -> Engine:
    """The backend that PaddleX's words ask for.

    Args:
        name: None, paddle, paddle_static or auto let the fastest trusted one of Paddle's be chosen; paddle-onednn, eager, and
            onnxruntime and openvino, which are extras, are themselves.
        config: `run_mode` (paddle for the plain engine, mkldnn for oneDNN) and `cpu_threads`.

    Raises:
        ConfigError: anything else.
    """
    if name not in _ENGINES:
        raise ConfigError(f"engine {name!r} is not one we have; known: {', '.join(known for known in _ENGINES if known)}")
    backend, threads = _ENGINES[name], min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    for key, value in _mapping(config).items():
        if key == "run_mode" and value is not None:
            if value not in _RUN_MODES or backend not in ("auto", _RUN_MODES[value]):
                raise ConfigError(
                    f"engine_config.run_mode {value!r} with engine {name!r}: expected {', '.join(_RUN_MODES)}, and no engine"
                )
            backend = _RUN_MODES[value]
        elif key == "cpu_threads" and value is not None:
            threads = whole_number(value, "engine_config.cpu_threads")
        elif key not in ("run_mode", "cpu_threads"):
            raise ConfigError(f"engine_config.{key} is not honoured here; known are run_mode and cpu_threads. Leave it out")
    return Engine(backend, threads)


def refuse_unknown(given: Mapping[str, Any], known: Collection[str], *, call: str) -> None:
    """Raise ConfigError for an argument we do not have, with what to do instead; None and {} ask for nothing."""
    for name, value in given.items():
        if name in _REMEDIES and (value is None or value == {}):
            continue
        if name in _REMEDIES:
            raise ConfigError(f"{call}: {name}={value!r} is not honoured here: {_REMEDIES[name]}")
        raise ConfigError(f"{call} has no argument {name!r}{nearest(name, known)}")


def whole_number(value: Any, what: str) -> int:
    """A number of at least 1.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{what} must be a whole number of at least 1, got {value!r}")
    return value


def _mapping(config: Any) -> Mapping[str, Any]:
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise ConfigError(f"engine_config must be a mapping such as {{'cpu_threads': 4}}, got {config!r}")
    return config
