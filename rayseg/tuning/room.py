"""How many trials run at the same time, from what the nodes of the cluster have. Never more than fit: a trial of several workers
holds nothing itself while its workers wait for room, so that too many of them would wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rayseg.config.train import Settings
from rayseg.distributed.resources import Resources, plan_resources

HEAD = "node:__internal_head__"
"""A resource that the head node of every cluster has; a driver that asks for a crumb of it takes no CPU from workers."""
CRUMB = 0.001


@dataclass(frozen=True)
class Room:
    """What trials reserve."""

    resources: Resources
    """Of one trial."""
    direct: bool
    """One worker, which is the trial's own process; else the trial is a light driver that starts workers."""
    at_once: int
    """Trials that run at the same time."""

    @property
    def reserved(self) -> dict[str, float]:
        """For the trial's own process, as Ray takes it."""
        return self.resources.each if self.direct else {"CPU": 0, HEAD: CRUMB}


def plan_room(settings: Settings, nodes: Iterable[Mapping[str, float]]) -> Room:
    """Room for the trials of a search.

    Args:
        nodes: what each living node has, such as {"CPU": 8.0, "GPU": 1.0}.

    Raises:
        ConfigError: there is not enough for one trial.
    """
    nodes = [dict(node) for node in nodes]
    resources = plan_resources(settings, nodes)
    workers = sum(slots(node, resources.each) for node in nodes)
    fitting = max(1, workers // resources.most)
    wished = settings.search.max_concurrent_trials
    direct = resources.most == 1 and settings.cluster.max_failures == 0
    return Room(resources, direct, min(fitting, wished) if wished else fitting)


def slots(node: Mapping[str, float], each: Mapping[str, float]) -> int:
    """Workers that fit a node. A fraction of a GPU never lies on two of them."""
    found = []
    for name, wanted in each.items():
        has = node.get(name, 0.0)
        fits = int(1 / wanted + 1e-6) * int(has) if name == "GPU" and wanted < 1 else int(has / wanted + 1e-6)
        found.append(fits)
    return min(found)
