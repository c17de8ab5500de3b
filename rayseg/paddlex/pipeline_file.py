"""A pipeline's YAML, as PaddleX writes it, read and checked; the two that ship are in pipelines/."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayseg.config.load import build, nearest, read_yaml
from rayseg.errors import ConfigError

_MODULES = {"instance_segmentation": "InstanceSegmentation", "semantic_segmentation": "SemanticSegmentation"}
_SHARED = ("use_hpip", "hpi_config", "engine", "engine_config")
_FOLDER = Path(__file__).parent / "pipelines"

NAMES = tuple(_MODULES)
"""Pipelines that have a name."""


@dataclass(frozen=True)
class PipelineFile:
    """One model and how it is run. Values are checked where they are used."""

    module_name: str
    model_name: str | None = None
    model_dir: str | None = None
    batch_size: int = 1
    threshold: float | None = None
    target_size: int | str | tuple[int, int] | None = None
    """None, a number, (width, height), or the text of one of them."""
    use_hpip: bool = False
    hpi_config: dict[str, Any] | None = None
    engine: str | None = None
    engine_config: dict[str, Any] = field(default_factory=dict)


def pipeline_text(name: str) -> str:
    """The YAML of a pipeline by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in _MODULES:
        raise ConfigError(f"pipeline {name!r} is unknown{nearest(name, NAMES)}")
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def read_pipeline(given: str | os.PathLike[str] | Mapping[str, Any]) -> PipelineFile:
    """A pipeline by its name, its YAML file or its content.

    `use_hpip`, `hpi_config`, `engine` and `engine_config` may stand at any level; the inner one wins, and engine_configs are
    merged.

    Raises:
        ConfigError: an unknown name, file, key or type.
    """
    values, where = _content(given)
    name = values.get("pipeline_name")
    if name not in _MODULES:
        raise ConfigError(f"{where}: pipeline_name {name!r} is unknown{nearest(str(name), NAMES)}")
    _check_keys(values, ("pipeline_name", "SubModules", *_SHARED), where)
    modules = _section(values, "SubModules", where)
    _check_keys(modules, (_MODULES[name], *_SHARED), f"{where}: SubModules")
    module = _section(modules, _MODULES[name], f"{where}: SubModules")
    where = f"{where}: SubModules.{_MODULES[name]}"
    module.setdefault("module_name", name)
    if module["module_name"] != name:
        raise ConfigError(f"{where}: module_name {module['module_name']!r} contradicts pipeline_name {name!r}")
    merged: dict[str, Any] = {}
    for level in (values, modules):
        for key in _SHARED:
            if level.get(key) is not None:
                merged[key] = {**(merged.get(key) or {}), **level[key]} if key == "engine_config" else level[key]
    if merged.get("engine_config") or module.get("engine_config"):
        module["engine_config"] = {**(merged.get("engine_config") or {}), **(module.get("engine_config") or {})}
    settled = {k: v for k, v in {**merged, **module}.items() if v is not None}
    return build(PipelineFile, settled, where=where)


def _content(given: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if isinstance(given, Mapping):
        return _without_none(given), "pipeline config"
    text = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if text in _MODULES:
        return _without_none(read_yaml(_FOLDER / f"{text}.yaml")), str(text)
    if text is None or not text.lower().endswith((".yml", ".yaml")):
        known = ", ".join(NAMES)
        raise ConfigError(f"pipeline {given!r} is unknown; give one of {known}, a .yaml file, or its content as a dict")
    return _without_none(read_yaml(text)), text


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which the text None, which PaddleX takes for no value, is no value."""
    out = {key: _without_none(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: None if isinstance(value, str) and value == "None" else value for key, value in out.items()}


def _section(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    found = values.get(key)
    if not isinstance(found, dict):
        raise ConfigError(
            f"{where}: {key} is missing or no mapping, got {found!r}; `rayseg --get_pipeline_config NAME` shows one"
        )
    return found


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown setting {key!r}{nearest(str(key), known)}")
