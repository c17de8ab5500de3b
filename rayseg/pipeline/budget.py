"""How many predictors a job runs and what each reserves, so that it fills the machine and never waits for itself.

Ray Data stops for ever when actors hold all logical CPUs and a task upstream needs one (ray-project/ray#44687). So
tasks and predictors on CPUs reserve fractions that always leave room for one task. Reservations are accounting: the
operating system shares the real cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        device: "cpu" or "gpu".
    """

    min_predictors: int
    max_predictors: int
    predictor_cpus: float
    predictor_gpus: float
    threads: int
    task_cpus: float
    list_cpus: float
    device: str


def plan_budget(settings: SegmentSettings, *, cpus: float, gpus: float, node_cpus: float | None = None) -> Budget:
    """Budget for a cluster with so many logical CPUs and GPUs.

    Args:
        node_cpus: of its smallest node; None where there is but one. All predictors and a task fit on it together:
            after the loss of nodes Ray starts every predictor again wherever there is room, and leaves none for tasks
            if it can.

    Raises:
        ConfigError: GPUs are asked for and there are none, or fewer than the smallest pool needs.
    """
    if cpus < 1:
        raise ConfigError(
            f"the cluster has {cpus:g} CPUs; a job needs at least one. `rayseg submit --await-cpus N` makes one grow that can."
        )
    wants_gpu = settings.device == "gpu" or bool(settings.gpus_per_predictor)
    if wants_gpu and gpus <= 0:
        raise ConfigError("a GPU is asked for, but the cluster has none. Use --device cpu, or check `ray status`.")
    use_gpu = wants_gpu or (settings.device == "auto" and gpus > 0 and settings.gpus_per_predictor != 0)
    per = (settings.gpus_per_predictor if settings.gpus_per_predictor is not None else 1.0) if use_gpu else 0.0
    if use_gpu and per == 0:
        raise ConfigError(
            "--device gpu with --gpus-per-predictor 0 would run without a GPU; give a share above 0, or --device cpu"
        )
    if per > 1 and per != int(per):
        raise ConfigError(f"gpus_per_predictor {per:g}: above one only whole GPUs can be reserved")
    room = max(1, int(gpus / per + 1e-9)) if use_gpu else max(1, int(cpus))
    low, high = settings.predictor_range() or (1 if use_gpu else room, room)
    if use_gpu and low * per > gpus + 1e-9:
        raise ConfigError(
            f"{low} predictors with {per:g} GPUs each need {low * per:g} GPUs, the cluster has {gpus:g}. "
            "Lower --predictors or --gpus-per-predictor."
        )
    node_cpus = min(cpus, node_cpus or cpus)
    task_cpus = 1.0 if node_cpus >= 8 else 0.5
    share = min(0.4, (node_cpus - task_cpus) / high)
    predictor_cpus = max(1, math.floor(1e4 * share)) / 1e4  # Ray counts in ten-thousandths
    threads = settings.threads_per_predictor or max(1, min(int(cpus) // high, int(node_cpus)))
    return Budget(low, high, predictor_cpus, per, threads, task_cpus, task_cpus / 2, "gpu" if use_gpu else "cpu")
