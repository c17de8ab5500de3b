"""What trials a search consists of, and the settings each trains with. Nothing here runs anything.

A trial is known by its stage and number, such as 1-003. Grids and draws are listed from the seed alone, so that a search that
is started again has the same trials under the same names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from rayseg.config.search import Dimension, SearchSettings
from rayseg.config.train import Settings
from rayseg.distributed.resources import Resources
from rayseg.errors import ConfigError

Space = Mapping[str, Dimension]
Parameters = dict[str, Any]
"""Plain values by `Section.key`."""
SEED = "Train.seed"


@dataclass(frozen=True)
class Point:
    """One trial to be run."""

    id: str
    stage: int
    """From 1."""
    parameters: Parameters
    """All that the search has decided for it: what earlier stages found, and its own."""


def name_of(stage: int, number: int) -> str:
    """Of a trial and its folder; both count from 1."""
    return f"{stage}-{number:03d}"


def list_points(space: Space, search: SearchSettings, *, stage: int, chosen: Parameters, seed: int) -> list[Point]:
    """The trials of a stage without a searcher that learns: grids crossed, the rest drawn, all that so many times.

    Repeats of a point that has nothing drawn get a `Train.seed` of their own, else they would all be the same run.

    Args:
        chosen: what earlier stages found.
        seed: Train.seed of the search.
    """
    rng = np.random.default_rng([search.seed, stage])
    repeated = all(dimension.kind == "grid" for dimension in space.values()) and SEED not in {*space, *chosen}
    numbers, out = count(1), []
    for sample in range(search.num_samples):
        for own in _variants(space, rng):
            extra = {SEED: seed + sample} if repeated and sample else {}
            out.append(Point(name_of(stage, next(numbers)), stage, {**chosen, **own, **extra}))
    return out


def trial_settings(base: Settings, parameters: Mapping[str, Any], *, folder: Path, resources: Resources) -> Settings:
    """The effective settings a trial trains with: those given, the trial's parameters, and its own folder.

    What was left open follows the parameters, as Train.eval_interval follows Train.epochs_iters. The device and the number of
    workers are those the cluster was asked for.

    Raises:
        ConfigError: the parameters do not go together.
    """
    from rayseg.models.defaults import effective

    least, most = resources.least, resources.most
    fixed = {
        "Global.output": str(folder),
        "Global.mode": "train",
        "Global.device": "gpu" if resources.use_gpu else "cpu",
        "Cluster.num_workers": least if least == most else [least, most],
        "Cluster.use_gpu": None,
        "Cluster.address": None,
        "Cluster.num_cpus": None,
        "Search.space": [],
    }
    return effective(base.with_values({**parameters, **fixed}))


def value_of(settings: Settings, key: str) -> Any:
    """One plain value, by `Section.key`."""
    section, _, name = key.partition(".")
    return settings.to_mapping()[section][name]


def most_evaluations(base: Settings, space: Space) -> int:
    """How often the longest trial of a stage is evaluated."""
    from rayseg.models.defaults import effective

    lengths = space["Train.epochs_iters"].probes() if "Train.epochs_iters" in space else (base.train.epochs_iters,)
    intervals = space["Train.eval_interval"].probes() if "Train.eval_interval" in space else (base.train.eval_interval,)
    most = 0
    for length in lengths:
        for interval in intervals:
            train = effective(base.with_values({"Train.epochs_iters": length, "Train.eval_interval": interval})).train
            most = max(most, math.ceil((train.epochs_iters or 1) / (train.eval_interval or 1)))
    return most


def check_stopping(search: SearchSettings, evaluations: int) -> None:
    """A scheduler must have something to decide.

    Raises:
        ConfigError: trials end before one could be stopped.
    """
    if search.scheduler != "none" and evaluations <= search.grace_period:
        raise ConfigError(
            f"Search.scheduler {search.scheduler} looks at trials after {search.grace_period} evaluations (Search.grace_period), "
            f"but the longest has {evaluations}; lower Train.eval_interval or the grace period, or use `scheduler: none`"
        )


def _variants(space: Space, rng: np.random.Generator) -> Iterator[Parameters]:
    """The grid crossed once; by Ray's own generator, which draws anew for each cell of the grid."""
    asked = {key: _for_ray(dimension) for key, dimension in space.items()}
    for _, spec in generate_variants({"config": asked}, random_state=rng):
        yield {key: _plain(spec["config"][key], space[key]) for key in space}


def _for_ray(dimension: Dimension) -> Any:
    """Values of lists are asked for by their place: Ray would take lists apart and mix their types."""
    if dimension.kind == "grid":
        return tune.grid_search(list(range(len(dimension.values))))
    if dimension.kind == "choice":
        return tune.randint(0, len(dimension.values))
    return getattr(tune, dimension.kind)(*dimension.values)


def _plain(drawn: Any, dimension: Dimension) -> Any:
    if dimension.kind in ("grid", "choice"):
        return plain_value(dimension.values[int(drawn)])
    return int(drawn) if dimension.kind == "randint" else float(drawn)


def plain_value(value: Any) -> Any:
    """As YAML and JSON have it."""
    return [plain_value(inner) for inner in value] if isinstance(value, (list, tuple)) else value
