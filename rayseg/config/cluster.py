"""The section Cluster: how many workers train, on what, and what happens when one is lost."""

from __future__ import annotations

from dataclasses import dataclass

from rayseg.config.checks import above, at_least, no_none_in_words
from rayseg.errors import ConfigError


@dataclass(frozen=True)
class ClusterSettings:
    """Where and on how many workers a run trains."""

    num_workers: int | tuple[int, int] | None = None
    """A number, or [least, most] for as many as there is room for; None: one for each GPU that Global.device names, else one."""
    use_gpu: bool | None = None
    """None: as Global.device says; with auto, where there is one."""
    gpus_per_worker: float = 1.0
    """Where GPUs are used; a fraction shares one."""
    cpus_per_worker: float = 1.0
    address: str | None = None
    """Of a Ray cluster, such as auto; None: RAY_ADDRESS, else a Ray started for this run where one is needed."""
    num_cpus: int | None = None
    """Logical CPUs of a Ray started for this run; None: those of the machine."""
    max_failures: int = 0
    """How often the workers are started again from the last checkpoint after one was lost; -1: without end."""
    storage_path: str | None = None
    """Folder or URL that all machines see, for checkpoints; None: ray/ below Global.output."""

    def __post_init__(self) -> None:
        no_none_in_words("Cluster", self)
        least, most = self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers,) * 2
        if least is not None and most is not None and not 1 <= least <= most:
            raise ConfigError(
                f"Cluster.num_workers {_shown(self.num_workers)}: expected a number from 1, or [least, most] such as [1, 4]"
            )
        above("Cluster.gpus_per_worker", self.gpus_per_worker, 0)
        above("Cluster.cpus_per_worker", self.cpus_per_worker, 0)
        at_least("Cluster.num_cpus", self.num_cpus, 1)
        at_least("Cluster.max_failures", self.max_failures, -1)
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ConfigError(
                f"Cluster.gpus_per_worker {self.gpus_per_worker}: a fraction shares one GPU; above 1 only whole ones"
            )
        if self.address is not None and self.num_cpus is not None:
            raise ConfigError("Cluster.num_cpus counts the CPUs of a Ray started here; a cluster at Cluster.address has its own")


def _shown(value: int | tuple[int, int] | None) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
