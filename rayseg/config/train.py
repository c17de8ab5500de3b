"""All settings of training, evaluation, export, checking and search, as one value made from one file.

The sections are in sections.py, cluster.py and search.py. Here: YAML and `-o Section.key=value` into them and back, and
what must fit between sections. Defaults that depend on the network are filled in by models/defaults.py.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayseg.config.cluster import ClusterSettings
from rayseg.config.load import build, nearest, parse_overrides, read_yaml, to_yaml
from rayseg.config.paddlex_yaml import translate
from rayseg.config.search import NOT_SEARCHED, SEARCHED_BESIDES_TRAIN, Dimension, SearchSettings, parse_space
from rayseg.config.sections import (
    CheckDatasetSettings,
    EvaluateSettings,
    ExportSettings,
    GlobalSettings,
    PredictSettings,
    TrainSettings,
)
from rayseg.errors import ConfigError

SECTIONS: dict[str, tuple[str, type[Any]]] = {
    "Global": ("general", GlobalSettings),
    "CheckDataset": ("check_dataset", CheckDatasetSettings),
    "Train": ("train", TrainSettings),
    "Evaluate": ("evaluate", EvaluateSettings),
    "Export": ("export", ExportSettings),
    "Predict": ("predict", PredictSettings),
    "Cluster": ("cluster", ClusterSettings),
    "Search": ("search", SearchSettings),
}
"""Name in a file -> attribute of Settings, class."""


@dataclass(frozen=True)
class Settings:
    """One file of settings. See the classes of the sections for what each means."""

    general: GlobalSettings
    check_dataset: CheckDatasetSettings = field(default_factory=CheckDatasetSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    predict: PredictSettings = field(default_factory=PredictSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    search: SearchSettings = field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        self._check_device()
        for stage in self.search.space:
            for key, dimension in stage.items():
                _check_dimension(self, key, dimension)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str = "settings") -> Settings:
        """Settings from sections as they stand in a file.

        Args:
            where: names the origin in messages.

        Raises:
            ConfigError: an unknown section or key (with the nearest known one), a value that cannot be, or a key of
                PaddleX that is not honoured (with the reason).
        """
        made = {}
        for section, given in values.items():
            if section not in SECTIONS:
                raise ConfigError(f"{where}: unknown section {section!r}{nearest(str(section), SECTIONS)}")
            if given is not None and not isinstance(given, Mapping):
                raise ConfigError(f"{where}: {section}: expected `key: value` lines, got {given!r}")
            attribute, kind = SECTIONS[section]
            plain = translate(section, given or {}, where=where)
            if section == "Search" and "space" in plain:
                plain["space"] = parse_space(plain["space"], where=f"{where}: Search.space")
            made[attribute] = build(kind, plain, where=f"{where}: {section}")
        if "general" not in made:
            raise ConfigError(f"{where}: the section Global is missing; it names the model and the data")
        return cls(**made)

    def to_mapping(self) -> dict[str, dict[str, Any]]:
        """Sections of plain values, every key there; `from_mapping` makes equal settings of it."""
        return {section: _plain(getattr(self, attribute)) for section, (attribute, _) in SECTIONS.items()}

    def to_yaml(self) -> str:
        """As a file that `load_settings` reads."""
        return to_yaml(self.to_mapping())

    def with_values(self, changes: Mapping[str, Any]) -> Settings:
        """Other settings, checked again.

        Args:
            changes: values by `Section.key`, such as {"Train.learning_rate": 1e-3}.

        Raises:
            ConfigError: see `from_mapping`.
        """
        values: dict[str, Any] = dict(self.to_mapping())
        for path, value in changes.items():
            _put(values, path, value)
        return Settings.from_mapping(values, where="settings")

    def worker_range(self) -> tuple[int, int]:
        """(least, most) workers of a training run."""
        given = self.cluster.num_workers
        if given is None:
            given = max(1, int(len(self.general.device_ids()) / self.cluster.gpus_per_worker))
        return given if isinstance(given, tuple) else (given, given)

    def wants_gpu(self) -> bool | None:
        """Whether workers get GPUs; None: where there are some."""
        if self.general.device == "auto":
            return self.cluster.use_gpu
        return self.general.device != "cpu"

    def in_process(self) -> bool:
        """Whether a run needs no Ray: one worker on this machine, which nothing starts again."""
        there = self.cluster.address is not None or bool(os.environ.get("RAY_ADDRESS"))
        return self.worker_range() == (1, 1) and not there and self.cluster.max_failures == 0

    def _check_device(self) -> None:
        device, use_gpu = self.general.device, self.cluster.use_gpu
        if (device == "cpu" and use_gpu) or (device.startswith("gpu") and use_gpu is False):
            raise ConfigError(f"Global.device {device} contradicts Cluster.use_gpu {str(use_gpu).lower()}; drop one of them")
        ids, needed = len(self.general.device_ids()), self.worker_range()[1] * self.cluster.gpus_per_worker
        if ids and needed > ids:
            raise ConfigError(
                f"Global.device {device} names {ids} GPUs, but Cluster asks for {needed:g} (num_workers x gpus_per_worker); "
                "write `device: gpu`, or name as many"
            )


def load_settings(path: str | Path, overrides: Iterable[str] = ()) -> Settings:
    """Settings from a YAML file, changed by `-o`.

    Args:
        overrides: `Section.key=value`; values are YAML, so that 1e-3 is a number and [1, 4] a list. The last one wins.

    Raises:
        ConfigError: see `read_yaml`, `parse_overrides` and `Settings.from_mapping`.
    """
    values: dict[str, Any] = read_yaml(path)
    for pair in overrides:
        for dotted, value in parse_overrides([pair]).items():
            _put(values, dotted, value)
    return Settings.from_mapping(values, where=str(path))


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one value inside nested mappings, none of which is changed itself."""
    section, dot, rest = dotted.partition(".")
    if not dot or not rest:
        raise ConfigError(f"{dotted!r}: expected Section.key, such as Train.learning_rate")
    if section not in SECTIONS:
        raise ConfigError(f"{dotted}: unknown section {section!r}{nearest(section, SECTIONS)}")
    *parents, last = [section, *rest.split(".")]
    inside = values
    for parent in parents:
        deeper = inside.get(parent)
        if deeper is not None and not isinstance(deeper, Mapping):
            raise ConfigError(f"{dotted}: {parent} holds {deeper!r}, which has no keys")
        inside[parent] = dict(deeper or {})
        inside = inside[parent]
    inside[last] = value


def _check_dimension(settings: Settings, key: str, dimension: Dimension) -> None:
    """A search may change what decides how well a network is trained; it must be a setting that takes every value."""
    section, _, name = key.partition(".")
    known = [f"Train.{f.name}" for f in dataclasses.fields(TrainSettings)] + [*SEARCHED_BESIDES_TRAIN]
    if key in NOT_SEARCHED:
        raise ConfigError(f"Search.space: {key} cannot be searched: {NOT_SEARCHED[key]}")
    if key not in known:
        raise ConfigError(
            f"Search.space: {key!r} cannot be searched; that can be any setting of Train, {' and '.join(SEARCHED_BESIDES_TRAIN)}"
            f"{nearest(key, known)}"
        )
    attribute, kind = SECTIONS[section]
    for value in dimension.probes():
        plain = translate(section, {name: value}, where="Search.space")
        build(kind, {**vars(getattr(settings, attribute)), **plain}, where=f"Search.space: {key}")


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and dimensions as YAML knows them."""
    if isinstance(value, Dimension):
        return value.to_plain()
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
