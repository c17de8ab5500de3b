"""What every worker of a cluster runs: the training of one process, told who else is there.

Rank 0 writes the output folder. Its checkpoints are also handed to Ray Train, which keeps a copy of the newest in its storage:
a worker that starts on another machine after a loss finds it there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint

from rayseg.config.train import Settings
from rayseg.distributed.tasks import TaskBatches, task_cpus
from rayseg.distributed.world import current_world
from rayseg.errors import OutputError
from rayseg.training.checkpoint import latest, read_states
from rayseg.training.loop import Event, FitResult, Report
from rayseg.training.run import Job, own_batches, train
from rayseg.training.source import BatchSource
from rayseg.training.world import World

log = logging.getLogger(__name__)


def train_worker(config: dict[str, Any]) -> FitResult:
    """One worker of a group, from `trainer.py`.

    Args:
        config: "settings", effective ones as a mapping; "events", a queue for rank 0's events, or None.
    """
    settings = Settings.from_mapping(config["settings"])
    world = current_world()
    tell = reporting(world, config.get("events"))
    with kept_checkpoint(Path(settings.general.output), world) as resume:
        batches = _from_tasks(settings, world) if settings.train.workers else None
        return train(settings, world=world, report=tell, resume=resume, batches=batches)


def reporting(world: World, events: Any = None) -> Report:
    """The loop's `report` for a worker of Ray Train, which wants to hear of each checkpoint from every worker.

    Args:
        events: a `ray.util.queue.Queue` that rank 0's events go to.
    """

    def tell(event: Event) -> None:
        if events is not None and world.rank == 0:
            events.put_nowait(event)
        if event["event"] == "saved":
            metrics = {**event["metrics"], "epoch": event["epoch"], "step": event["step"], "best": event["best"]}
            checkpoint = Checkpoint.from_directory(event["path"]) if world.rank == 0 else None
            ray.train.report(metrics, checkpoint=checkpoint)

    return tell


@contextmanager
def kept_checkpoint(folder: Path, world: World) -> Iterator[Path | None]:
    """The checkpoint a group that was started again goes on from; None where the loop should look for itself.

    The run's folder and Ray's storage may both have one. A crash can come before Ray has heard of the folder's newest, and a
    machine can be lost with the folder on it; the one that is further counts.

    Raises:
        OutputError: only rank 0 sees the newest checkpoint.
    """
    kept = ray.train.get_checkpoint()
    if kept is None:
        yield None
        return
    with kept.as_directory() as place:
        own = latest(folder)
        ahead = own is not None and read_states(own).standing.step >= read_states(Path(place)).standing.step
        newest = world.agree(str(own) if ahead else None)
        if newest is None:
            yield Path(place)
            return
        if not all(world.gather(Path(str(newest)).is_dir())):
            # Ray's copy is older: what the folder has beyond it is lost with rank 0 still knowing it
            log.warning("%s is not on every machine; going on from Ray's copy", newest)
            newest = place
        if not Path(str(newest)).is_dir():
            raise OutputError(f"{newest} is not on this machine; give Global.output on a folder that all machines share")
        yield Path(str(newest))


def _from_tasks(settings: Settings, world: World) -> Any:
    def make(job: Job) -> BatchSource:
        recipe = own_batches(settings, job, world, workers=0)
        tasks = settings.train.workers
        share: Any = world.agree(task_cpus(tasks * world.size))
        log.info("each of %d workers has images prepared by %d tasks with %g CPUs each", world.size, tasks, share)
        return TaskBatches(recipe, tasks=tasks, cpus=float(share))

    return make
