"""Doing what is left of a plan with Ray Data, and checking it: what jobs of images and of scenes have in common.

    plan - ledger -> fetch + decode -> predict -> encode + commit

What a stage does to a unit is handed in; whoever calls has planned, holds the lock and knows what comes after.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.exceptions
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from rayseg.errors import OutputError, RaysegError, TooManyFailures
from rayseg.pipeline import ledger, metrics, planner
from rayseg.pipeline.board import Tally
from rayseg.pipeline.budget import Budget
from rayseg.pipeline.machine import Machine, fit_to_work
from rayseg.pipeline.parcel import SCHEMA, pack
from rayseg.pipeline.plan import Plan, chunks, cuts, read_shard
from rayseg.pipeline.progress import Progress, watch
from rayseg.pipeline.stages import Context, PredictStage, encode_and_commit, fetch_and_decode
from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import Findings, against_plan, check_shard, merge_findings

log = logging.getLogger(__name__)

# Ray Data waits this long without any progress before it gives up; a model may take minutes to load and to run its first batch.
_NO_PROGRESS_S = 1800

Stage = Callable[[pa.Table, Any], pa.Table]


@dataclass(frozen=True)
class Stages:
    """What is done to a chunk before and after the network; both take (parcel, context)."""

    fetch: Stage = fetch_and_decode
    encode: Stage = encode_and_commit


IMAGE_STAGES = Stages()


def do_what_is_left(
    context: Context,
    plan: Plan,
    machine: Machine,
    progress: Progress,
    *,
    stages: Stages = IMAGE_STAGES,
    look: Callable[[], object] = bool,
) -> None:
    """Run the units that are not in the ledger.

    Args:
        look: called first, and not when nothing is left.

    Raises:
        TooManyFailures: more units failed than the settings allow; what is done stays.
        RaysegError: what a stage raises.
    """
    started, settings, store = time.time(), context.settings, context.store
    left = left_over(store, plan, machine.budget)
    limit = settings.failure_limit(plan.units)
    failed, done = left.failed, plan.units - left.units
    progress.resumed(done, failed)
    if left.units:
        look()
        machine = fit_to_work(context, plan, stages, machine, units=left.units, chunks=left.chunks, progress=progress)
        progress.expects(machine.budget, machine.expected, cpus=machine.cpus)
    job = metrics.job_tag(settings.out)
    metrics.ledger(job, planned=plan.units, done=done, failed=failed)
    try:
        with watch(context.board, progress):
            for commit in _run(context, plan, left, machine.budget, stages) if left.units else ():
                failed, done = failed + commit["failed"], done + commit["ok"] + commit["failed"]
                progress.committed(done, failed)
                metrics.ledger(job, planned=plan.units, done=done, failed=failed)
                for failure in commit["failures"]:
                    progress.failed_unit(commit["chunk"], failure)
                if limit is not None and failed > limit:
                    raise TooManyFailures(
                        f"{failed} {progress.noun} failed, --max-failures allows {settings.max_failures} of {plan.units}. "
                        f"`rayseg report {settings.out}` says why; what is done stays."
                    )
    finally:
        _note_run(store, started, context.board, machine)
        ray.kill(context.board)  # handles that Ray Data keeps would let its process live on
    ledger.sweep_temporaries(store)


def check_all(store: Store, plan: Plan, budget: Budget) -> Findings:
    """Join plan, ledger and objects in tasks, shard by shard."""
    committed = ray.put(ledger.names(store))
    check = task(budget, check_shard)
    running = [check.remote(store, shard, committed) for shard in plan.shards]
    return against_plan(merge_findings(ray.get(running)), plan)


def task(budget: Budget, function: Callable[..., Any]) -> Any:
    """A Ray task for work on tables."""
    return ray.remote(num_cpus=budget.task_cpus)(function)


def data_context() -> DataContext:
    """Ray Data's settings for our pipeline, leaving those of the process alone."""
    data = DataContext.get_current().copy()
    data.enable_progress_bars = False
    data.print_on_execution_start = False
    data.execution_no_progress_timeout_s = _NO_PROGRESS_S
    data.raise_original_map_exception = True  # else ours is wrapped in one of Ray's, which loses it on the way here
    data.target_max_block_size = 1  # a block is closed after each row, so that each chunk is its own task
    return data


@contextmanager
def unwrapped() -> Iterator[None]:
    """An error of ours that a task raised leaves the block as the task raised it, without Ray's wrapping."""
    try:
        yield
    except Exception as error:
        ours = _cause(error)
        if ours is None or ours is error:
            raise
        # Ray Data adds advice on its own settings to the message of what a stage raises.
        raise type(ours)(str(ours).partition("\nFailed to apply UDF transform")[0]) from error


def _cause(error: BaseException | None) -> RaysegError | None:
    """The error of ours that Ray wrapped, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, RaysegError) and not isinstance(error, ray.exceptions.RayTaskError):
            return error
        inner = getattr(error, "cause", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__
    return None


@dataclass(frozen=True)
class LeftOver:
    """What a run starts from.

    Attributes:
        units: planned units without a ledger row, in so many chunks.
        failed: failed rows so far.
        shards: those with something left.
        snapshot: reference to {shard: names of its commits}; tasks read these and no later ones, so that a task
            repeated after the loss of a node gives the same rows again.
    """

    units: int
    chunks: int
    failed: int
    shards: tuple[str, ...]
    snapshot: ray.ObjectRef


def left_over(store: Store, plan: Plan, budget: Budget) -> LeftOver:
    """Sweep what killed tasks left and count what is left to do, shard by shard."""
    snapshot = ray.put(ledger.sweep(store))
    count = task(budget, _count_left)
    counts = ray.get([count.remote(store, plan, shard, snapshot) for shard in plan.shards])
    shards = tuple(shard for shard, (left, *_) in zip(plan.shards, counts, strict=True) if left)
    units, chunks_left, failed = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
    return LeftOver(units, chunks_left, failed, shards, snapshot)


def _count_left(store: Store, plan: Plan, shard: str, committed: dict[str, list[str]]) -> tuple[int, int, int]:
    """Units and chunks that are left of a shard, and failed units of it."""
    done, failed = ledger.finished(store, committed.get(shard, []))
    table = read_shard(store, shard)
    left = ~np.isin(table["unit_id"].to_numpy(), done)
    return int(left.sum()), sum(bool(left[start:stop].any()) for start, stop in cuts(table, plan)), failed


def _pipeline(context: Context, plan: Plan, left: LeftOver, budget: Budget, stages: Stages) -> Dataset:
    """The four operators. One row is one chunk from end to end, so a commit never depends on how Ray cuts blocks."""
    chunk_by_chunk = {"batch_size": 1, "batch_format": "pyarrow"}
    rows = ray.data.read_datasource(
        _LeftChunks(context.store, plan, left), override_num_blocks=len(left.shards), num_cpus=budget.list_cpus
    )
    decoded = rows.map_batches(stages.fetch, fn_kwargs={"context": context}, num_cpus=budget.task_cpus, **chunk_by_chunk)
    predicted = decoded.map_batches(
        PredictStage,
        fn_constructor_args=(context,),
        fn_constructor_kwargs={"device": budget.device, "threads": budget.threads},
        # All load at once, while the tasks before them fetch and decode.
        compute=ActorPoolStrategy(
            min_size=budget.min_predictors, max_size=budget.max_predictors, initial_size=budget.initial_predictors
        ),
        num_cpus=budget.predictor_cpus,
        num_gpus=budget.predictor_gpus or None,
        **({"resources": budget.predictor_resources} if budget.predictor_resources else {}),
        **chunk_by_chunk,
    )
    return predicted.map_batches(stages.encode, fn_kwargs={"context": context}, num_cpus=budget.task_cpus, **chunk_by_chunk)


def _run(context: Context, plan: Plan, left: LeftOver, budget: Budget, stages: Stages) -> Iterator[dict[str, Any]]:
    """Execute the pipeline; yields a row of `stages.STATS` for each commit as it happens."""
    with DataContext.current(data_context()):
        pipeline = _pipeline(context, plan, left, budget, stages)
    for batch in pipeline.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from batch.to_pylist()


class _LeftChunks(Datasource):
    """Reads the chunks that are left, one task a shard; each row is a parcel of units."""

    def __init__(self, store: Store, plan: Plan, left: LeftOver) -> None:
        super().__init__()
        self._store, self._plan, self._left = store, plan, left

    def get_name(self) -> str:
        return "Plan"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._reader(shard), unknown, schema=SCHEMA) for shard in self._left.shards]

    def _reader(self, shard: str) -> Callable[[], Iterator[pa.Table]]:
        store, snapshot, plan = self._store, self._left.snapshot, self._plan

        def read() -> Iterator[pa.Table]:
            done, _ = ledger.finished(store, ray.get(snapshot).get(shard, []))
            for chunk in chunks(plan, shard, read_shard(store, shard), done):
                yield pack(chunk.name, chunk.units)

        return read


def _note_run(store: Store, started: float, board: Any, machine: Machine) -> None:
    """Leave a note of this run for the report. A run that is killed leaves none; nothing depends on it."""
    try:
        (tallies, backends), predictors = ray.get([board.read.remote(), board.predictors.remote()])
    except ray.exceptions.RayError as error:
        log.warning("no note of this run: its board is gone (%s)", error)
        return
    seconds = {name: value for tally in tallies.values() for name, value in tally.seconds.items()}
    written = tallies.get("encode", Tally())
    costs = planner.Costs.of_tallies(tallies)
    found = planner.expected(costs, machine.budget, cpus=machine.cpus) if costs else None
    note = {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.time() - started, 3),
        "done": written.images,
        "failed": sum(tally.failed for tally in tallies.values()),
        "objects": written.objects,
        "stage_seconds": {name: round(value, 3) for name, value in seconds.items()},
        "predictor_seconds": {state: round(value, 3) for state, value in predictors.items()},
        "cluster": {"cpus": machine.resources.get("CPU", 0), "gpus": machine.resources.get("GPU", 0), "nodes": len(ray.nodes())},
        "predictors": machine.budget.max_predictors,
        "threads": machine.budget.threads,
        "backend": ", ".join(backends),
        "expected": asdict(machine.expected) if machine.expected else None,
        "found": asdict(found) if found else None,
    }
    name = datetime.fromtimestamp(started, UTC).strftime("%Y%m%dT%H%M%S") + f"-{os.getpid()}"
    try:
        store.write(f"runs/{name}.json", json.dumps(note, indent=2).encode())
    except OutputError as error:  # must not hide what ended the run, which may be the same full disk
        log.warning("no note of this run: %s", error)
