"""How many predictors a job runs and what each reserves, so that it fills the machine and never waits for itself.

Ray Data stops for ever when actors hold all logical CPUs and a task upstream needs one (ray-project/ray#44687). So
tasks and predictors on CPUs reserve fractions that always leave room for one task. Reservations are accounting: the
operating system shares the real cores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayseg.config.device import RESOURCES
from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """Reservations of one job.

    Attributes:
        min_predictors, max_predictors: size of the actor pool.
        predictor_cpus, predictor_gpus: reserved by each predictor.
        threads: of each CPU predictor.
        task_cpus: reserved by each decode or encode task; list_cpus by each reading task (unequal, so that Ray keeps them apart).
        device: kind of device, as `rayseg.config.device` names it.
        predictor_resources: reserved by each predictor beside CPUs and GPUs, such as {"NPU": 1}.
        grows: the pool starts small and grows while there is work for more, as a MIN:MAX of the user asks.
    """

    min_predictors: int
    max_predictors: int
    predictor_cpus: float
    predictor_gpus: float
    threads: int
    task_cpus: float
    list_cpus: float
    device: str
    predictor_resources: dict[str, float] = field(default_factory=dict)
    grows: bool = False

    @property
    def initial_predictors(self) -> int:
        """Those that are started together at the beginning."""
        return self.min_predictors if self.grows else self.max_predictors


def plan_budget(
    settings: SegmentSettings,
    *,
    cpus: float,
    gpus: float,
    node_cpus: float | None = None,
    others: Mapping[str, float] | None = None,
) -> Budget:
    """Budget for a cluster with so many logical CPUs and GPUs.

    Args:
        node_cpus: of its smallest node; None where there is but one. All predictors and a task fit on it together:
            after the loss of nodes Ray starts every predictor again wherever there is room, and leaves none for tasks
            if it can.
        others: what else the cluster has, by Ray's names, such as {"NPU": 8}.

    Raises:
        ConfigError: devices are asked for and there are none, or fewer than the smallest pool needs.
    """
    if cpus < 1:
        raise ConfigError(
            f"the cluster has {cpus:g} CPUs; a job needs at least one. `rayseg submit --await-cpus N` makes one grow that can."
        )
    choice = settings.accelerator()
    kind = _kind(settings, gpus)
    there = gpus if RESOURCES.get(kind) == "GPU" else (others or {}).get(RESOURCES.get(kind, ""), 0.0)
    per = _per_predictor(settings, kind)
    name = "GPU" if RESOURCES.get(kind) == "GPU" else kind
    if kind != "cpu" and there <= 0:
        raise ConfigError(f"a {name} is asked for, but the cluster has none. Use --device cpu, or check `ray status`.")
    room = max(1, int(there / per + 1e-9)) if per else max(1, int(cpus))
    named = (len(choice.indices),) * 2 if choice and choice.indices else None
    low, high = settings.predictor_range() or named or (1 if per else room, room)
    if low * per > there + 1e-9:
        raise ConfigError(
            f"{low} predictors with {per:g} {name}s each need {low * per:g} {name}s, the cluster has {there:g}. "
            "Lower --predictors or --gpus-per-predictor."
        )
    node_cpus = min(cpus, node_cpus or cpus)
    task_cpus = 1.0 if node_cpus >= 8 else 0.5
    share = min(0.4, (node_cpus - task_cpus) / high)
    predictor_cpus = max(1, math.floor(1e4 * share)) / 1e4  # Ray counts in ten-thousandths
    threads = settings.threads_per_predictor or max(1, min(int(cpus) // high, int(node_cpus)))
    is_gpu = RESOURCES.get(kind) == "GPU"
    extra = {RESOURCES[kind]: per} if per and not is_gpu else {}
    grows = settings.predictor_range() is not None
    return Budget(low, high, predictor_cpus, per if is_gpu else 0.0, threads, task_cpus, task_cpus / 2, kind, extra, grows)


def _kind(settings: SegmentSettings, gpus: float) -> str:
    """Kind of device that predictors run on."""
    choice = settings.accelerator()
    if choice is not None:
        return choice.kind
    wanted = bool(settings.gpus_per_predictor) or (gpus > 0 and settings.gpus_per_predictor != 0)
    return "gpu" if wanted else "cpu"


def _per_predictor(settings: SegmentSettings, kind: str) -> float:
    """Devices that one predictor reserves."""
    if kind == "cpu":
        return 0.0
    per = 1.0 if settings.gpus_per_predictor is None else settings.gpus_per_predictor
    if per == 0:
        raise ConfigError(
            f"--device {kind} with --gpus-per-predictor 0 would run without a GPU; give a share above 0, or --device cpu"
        )
    if per > 1 and per != int(per):
        raise ConfigError(f"gpus_per_predictor {per:g}: above one only whole GPUs can be reserved")
    return per
