"""Training on a cluster, seen from the driver: reserve, start workers through Ray Train, wait, and say what went wrong.

    train_on_ray -> DataParallelTrainer(PaddleConfig) -> train_worker on each worker -> rayseg.training.run.train

Ray starts the group again after a loss (`Cluster.max_failures`) and, with `num_workers: [least, most]`, when machines come or go.
A run whose driver was killed goes on when it is started again with the same output folder, on any number of workers.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.queue import Empty, Queue

from rayseg.config.train import Settings
from rayseg.distributed.backend import PaddleConfig
from rayseg.distributed.resources import Resources, plan_resources
from rayseg.distributed.worker import train_worker
from rayseg.errors import ConfigError, RaysegError
from rayseg.pipeline.lock import locked
from rayseg.pipeline.runtime import connected
from rayseg.pipeline.storage import Store
from rayseg.training.loop import Event, FitResult, Report

log = logging.getLogger(__name__)
WorkerFunction = Callable[[dict[str, Any]], Any]
MARK = ".ray_run"
"""File in the output folder with the name of the Ray run that has not ended; a run that is started again takes it up."""
RESIZE_S = 60.0
"""How often an elastic run looks for machines that came."""


def train_on_ray(
    settings: Settings,
    *,
    report: Report | None = None,
    callbacks: Sequence[UserCallback] = (),
    backend: PaddleConfig | None = None,
) -> FitResult:
    """Train on the workers that `Cluster` asks for, into `Global.output`.

    Args:
        settings: from `rayseg.models.defaults.effective`.
        report: called in this process with each of rank 0's events (see `rayseg.training.loop.fit`), a moment later. It cannot
            stop the run.
        callbacks: for Ray Train, such as the one that reports to Ray Tune.

    Raises:
        ConfigError: the cluster cannot be reached or has no room for the workers.
        OutputError: another driver trains into the folder.
        RaysegError: what a worker raised; or workers were lost more than `Cluster.max_failures` times.
    """
    with visible_gpus(settings), connected(settings.cluster.address, num_cpus=settings.cluster.num_cpus):
        resources = plan_resources(settings, (node["Resources"] for node in ray.nodes() if node["Alive"]))
        folder = Path(settings.general.output).absolute()
        # One folder for all workers, whatever directory they start in
        settings = settings.with_values({"Global.output": str(folder)})
        with locked(Store(str(folder))), _events(report) as events:
            result: FitResult = run_workers(
                train_worker,
                {"settings": settings.to_mapping(), "events": events},
                resources,
                folder=folder,
                storage=settings.cluster.storage_path,
                max_failures=settings.cluster.max_failures,
                afresh=settings.train.resume_path is not None,
                callbacks=callbacks,
                backend=backend,
            )
    return result


def run_workers(
    function: WorkerFunction,
    config: dict[str, Any],
    resources: Resources,
    *,
    folder: Path,
    storage: str | None = None,
    max_failures: int = 0,
    afresh: bool = False,
    callbacks: Sequence[UserCallback] = (),
    backend: PaddleConfig | None = None,
    resize_s: float = RESIZE_S,
) -> Any:
    """Run a function on every worker of a Paddle process group; Ray is connected. Returns what rank 0 returned.

    Args:
        config: what the function is called with.
        folder: of the run, on this machine.
        storage: folder or URL for Ray's copies of checkpoints; None: below `folder`, and gone once the run has ended well.
        afresh: forget Ray's copies of a run that was stopped here.

    Raises:
        RaysegError: see `train_on_ray`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark, own_storage = folder / MARK, folder / "ray"
    if afresh:
        mark.unlink(missing_ok=True)
    name = mark.read_text(encoding="utf-8").strip() if mark.exists() else f"train-{uuid.uuid4().hex[:12]}"
    mark.write_text(name, encoding="utf-8")
    trainer = DataParallelTrainer(
        function,
        train_loop_config=config,
        backend_config=backend or PaddleConfig(),
        scaling_config=ScalingConfig(
            num_workers=resources.least if resources.least == resources.most else (resources.least, resources.most),
            use_gpu=resources.use_gpu,
            resources_per_worker=resources.each,
            elastic_resize_monitor_interval_s=resize_s,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage or str(own_storage),
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),  # the run's folder keeps the rest
            callbacks=list(callbacks),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise _reason(error, max_failures) from error
    mark.unlink(missing_ok=True)
    if storage is None:
        shutil.rmtree(own_storage, ignore_errors=True)
    return result.return_value


def _reason(error: TrainingFailedError, max_failures: int) -> RaysegError:
    """Our own error where a worker raised one, else what was lost and what to do."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    causes = {rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()}
    for cause in causes.values():
        if isinstance(cause, RaysegError):
            return cause
    what = "; ".join(f"worker {rank}: {_first_line(cause)}" for rank, cause in sorted(causes.items())) or _first_line(error)
    return RaysegError(
        f"training stopped: {what}. The same command goes on from the last checkpoint; Cluster.max_failures (now {max_failures}) "
        "says how often Ray starts lost workers again by itself"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


@contextmanager
def _events(report: Report | None) -> Iterator[Queue | None]:
    """A queue whose events are passed on, in a thread of this process."""
    if report is None:
        yield None
        return
    queue, ended = Queue(actor_options={"num_cpus": 0}), threading.Event()

    def pass_on() -> None:
        while True:
            over = ended.is_set()  # asked first: what came before the end is still passed on
            try:
                event: Event = queue.get(timeout=0.5)
            except Empty:
                if over:
                    return
                continue
            report(event)

    thread = threading.Thread(target=pass_on, name="rayseg-events", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        ended.set()
        thread.join()
        queue.shutdown()


@contextmanager
def visible_gpus(settings: Settings) -> Iterator[None]:
    """Only the GPUs that `Global.device` numbers are seen by a Ray started inside.

    Raises:
        ConfigError: the Ray is not ours, so its GPUs are not ours to choose.
    """
    ids = settings.general.device_ids()
    if not ids:
        yield
        return
    if ray.is_initialized() or settings.cluster.address or os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            f"Global.device {settings.general.device} numbers GPUs, but a cluster hands out its own; write `device: gpu`"
        )
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(i) for i in ids)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
