"""What the workers of a run reserve on a cluster, checked on the driver before any of them starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rayseg.config.train import Settings
from rayseg.errors import ConfigError


@dataclass(frozen=True)
class Resources:
    """Of one run.

    Attributes:
        least, most: workers; Ray chooses between them by what there is room for.
        use_gpu: each worker trains on a GPU.
        cpus, gpus: reserved for each worker.
    """

    least: int
    most: int
    use_gpu: bool
    cpus: float
    gpus: float

    @property
    def each(self) -> dict[str, float]:
        """As Ray takes it."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.use_gpu else {})


def plan_resources(settings: Settings, nodes: Iterable[Mapping[str, float]]) -> Resources:
    """The reservation of a run.

    Args:
        nodes: what each living node has, such as {"CPU": 8.0, "GPU": 1.0}.

    Raises:
        ConfigError: there is no room for the least number of workers, or workers would share a GPU that NCCL cannot share.
    """
    nodes = [dict(node) for node in nodes]
    least, most = settings.worker_range()
    wish = settings.wants_gpu()
    use_gpu = any(node.get("GPU", 0) > 0 for node in nodes) if wish is None else wish
    cluster = settings.cluster
    found = Resources(least, most, use_gpu, cluster.cpus_per_worker, cluster.gpus_per_worker if use_gpu else 0.0)
    if use_gpu and most > 1 and found.gpus < 1:
        raise ConfigError(
            f"Cluster.gpus_per_worker is {found.gpus:g} with up to {most} workers; workers that share a GPU cannot talk over "
            "NCCL. Use one worker, or a GPU for each"
        )
    if found.gpus > 1:
        raise ConfigError(f"Cluster.gpus_per_worker is {found.gpus:g}, but a worker trains on one; take more workers instead")
    room = sum(_room(node, found.each) for node in nodes)
    if room < least:
        each = " and ".join(f"{value:g} {name}" for name, value in found.each.items())
        has = ", ".join(" and ".join(f"{node.get(name, 0):g} {name}" for name in found.each) for node in nodes)
        raise ConfigError(
            f"{least} workers with {each} each do not fit the cluster, which has room for {room} (nodes: {has}). "
            "Lower Cluster.num_workers or Cluster.cpus_per_worker, or add nodes"
        )
    return found


def _room(node: Mapping[str, float], each: Mapping[str, float]) -> int:
    return min(int(node.get(name, 0.0) / wanted + 1e-6) for name, wanted in each.items())
