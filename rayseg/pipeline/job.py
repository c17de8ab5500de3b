"""The main job on one page: images in, a table of masks out, each unit exactly once.

    list -> plan -> (plan - ledger) -> fetch + decode -> predict -> encode + commit

The output folder is the only memory. A run reads from it what is left, does that, and checks at the end that every
planned unit is there once; so starting, resuming and finishing are the same call. What stages do is in `stages.py`, the
files in `plan.py` and `ledger.py`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.exceptions
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError, OutputError, RaysegError, TooManyFailures
from rayseg.pipeline import identity, ledger
from rayseg.pipeline.board import Board, Tally
from rayseg.pipeline.budget import Budget, plan_budget
from rayseg.pipeline.lock import locked
from rayseg.pipeline.parcel import SCHEMA, pack
from rayseg.pipeline.plan import Plan, chunks, read_shard, write_plan
from rayseg.pipeline.progress import Progress, watch
from rayseg.pipeline.sources import open_source
from rayseg.pipeline.stages import Context, PredictStage, encode_and_commit, fetch_and_decode
from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import Findings, against_plan, check_shard, merge_findings
from rayseg.predict.model_dir import ModelSpec, load_model_dir

log = logging.getLogger(__name__)

# Most bytes of files in one chunk. Where the network's input has a fixed size, images are small once they are prepared;
# where they stay as they are, a JPEG grows about tenfold, and several chunks are on their way at any time.
CHUNK_BYTES, CHUNK_BYTES_NATIVE = 256 * 2**20, 24 * 2**20

# Ray Data waits this long without any progress before it gives up; a model may take minutes to load and to run its first batch.
_NO_PROGRESS_S = 1800


@dataclass(frozen=True)
class JobResult:
    """How a run ended. `findings` counts the whole output, not only this run."""

    findings: Findings
    seconds: float
    within_limit: bool

    @property
    def complete(self) -> bool:
        """True when every planned unit is in the ledger once and nothing else is wrong."""
        return self.findings.ok


def run_job(settings: SegmentSettings, *, progress: Progress) -> JobResult:
    """Do what is left of a job; Ray must be running (`runtime.connected`).

    Raises:
        RaysegError: the job cannot start or go on: ConfigError, ModelError, SourceError, OutputError and its kinds. What was
            committed stays.
    """
    started = time.time()
    spec = load_model_dir(settings.model)
    if settings.save_label_maps and spec.task != "semantic":
        raise ConfigError(f"save_label_maps needs a semantic model; {spec.name} finds instances")
    cluster = ray.cluster_resources()
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    smallest = min((cpus for cpus in nodes if cpus >= 1), default=None)
    budget = plan_budget(settings, cpus=cluster.get("CPU", 0), gpus=cluster.get("GPU", 0), node_cpus=smallest)
    store = open_store(settings)
    with locked(store), _unwrapped():
        plan = _plan(settings, spec, store, progress, parallelism=max(2, int(cluster.get("CPU", 1)) * 2))
        progress.planned(plan.units, budget)
        left = _left_over(store, plan, budget)
        board = _board()
        context = Context(settings, spec, store, board)
        limit = settings.failure_limit(plan.units)
        failed, done = left.failed, plan.units - left.units
        progress.resumed(done, failed)
        try:
            with watch(board, progress):
                for ok, bad in _run(context, plan, left, budget) if left.units else ():
                    failed, done = failed + bad, done + ok + bad
                    progress.committed(done, failed)
                    if limit is not None and failed > limit:
                        raise TooManyFailures(
                            f"{failed} images failed, --max-failures allows {settings.max_failures} of {plan.units}. "
                            f"`rayseg report {settings.out}` says why; what is done stays."
                        )
        finally:
            _note_run(store, started, board, budget, cluster)
            ray.kill(board)  # handles that Ray Data keeps would let its process live on
        ledger.sweep_temporaries(store)
        findings = check_all(store, plan, budget)
    within = limit is None or findings.failed <= limit
    progress.finished(findings)
    return JobResult(findings, time.time() - started, within)


def open_store(settings: SegmentSettings) -> Store:
    """The output; it takes the source's options when it has none of its own and speaks the same protocol."""
    options = settings.out_options
    if options is None:
        same = settings.source.partition("://")[0] == settings.out.partition("://")[0]
        options = settings.source_options if same and "://" in settings.out else {}
    return Store(settings.out, dict(options))


def check_all(store: Store, plan: Plan, budget: Budget) -> Findings:
    """Join plan, ledger and objects in tasks, shard by shard."""
    committed = ray.put(ledger.names(store))
    task = _task(budget, check_shard)
    running = [task.remote(store, shard, committed) for shard in plan.shards]
    return against_plan(merge_findings(ray.get(running)), plan)


def _plan(settings: SegmentSettings, spec: ModelSpec, store: Store, progress: Progress, *, parallelism: int) -> Plan:
    """The plan of this output: the one it has, if it was made for the same job, or a new one."""
    wanted = identity.of(settings, spec)
    found = identity.read(store)
    if found is not None:
        identity.check_same(found, wanted, store.url)
        plan = identity.plan(found)
        if settings.chunk_images not in (None, plan.chunk_images):
            raise ConfigError(
                f"chunk_images {settings.chunk_images}: {store.url} was planned with {plan.chunk_images} images a file, "
                "and files that are there cannot be cut again. Leave it out, or give another output folder."
            )
        return plan
    identity.check_fresh(store)
    source = open_source(
        settings.source,
        column=settings.manifest_column,
        options=settings.source_options,
        out=settings.out,
        attempts=settings.fetch_attempts,
    )
    plan = write_plan(
        source,
        store,
        chunk_images=settings.chunk_images,
        chunk_bytes=CHUNK_BYTES if spec.fixed_input else CHUNK_BYTES_NATIVE,
        parallelism=parallelism,
        report=progress.listed,
    )
    identity.write(store, settings, spec, wanted, plan)
    return plan


@dataclass(frozen=True)
class LeftOver:
    """What a run starts from.

    Attributes:
        units: planned units without a ledger row.
        failed: failed rows so far.
        shards: those with something left.
        snapshot: reference to {shard: names of its commits}; tasks read these and no later ones, so that a task
            repeated after the loss of a node gives the same rows again.
    """

    units: int
    failed: int
    shards: tuple[str, ...]
    snapshot: ray.ObjectRef


def _left_over(store: Store, plan: Plan, budget: Budget) -> LeftOver:
    snapshot = ray.put(ledger.sweep(store))
    task = _task(budget, _count_left)
    counts = ray.get([task.remote(store, shard, snapshot) for shard in plan.shards])
    shards = tuple(shard for shard, (left, _) in zip(plan.shards, counts, strict=True) if left)
    return LeftOver(sum(left for left, _ in counts), sum(failed for _, failed in counts), shards, snapshot)


def _count_left(store: Store, shard: str, committed: dict[str, list[str]]) -> tuple[int, int]:
    done, failed = ledger.finished(store, committed.get(shard, []))
    return int((~np.isin(read_shard(store, shard)["unit_id"].to_numpy(), done)).sum()), failed


def _pipeline(context: Context, plan: Plan, left: LeftOver, budget: Budget) -> Dataset:
    """The four operators. One row is one chunk from end to end, so a commit never depends on how Ray cuts blocks."""
    chunk_by_chunk = {"batch_size": 1, "batch_format": "pyarrow"}
    rows = ray.data.read_datasource(
        _LeftChunks(context.store, plan, left), override_num_blocks=len(left.shards), num_cpus=budget.list_cpus
    )
    decoded = rows.map_batches(fetch_and_decode, fn_kwargs={"context": context}, num_cpus=budget.task_cpus, **chunk_by_chunk)
    predicted = decoded.map_batches(
        PredictStage,
        fn_constructor_args=(context,),
        fn_constructor_kwargs={"device": budget.device, "threads": budget.threads},
        compute=ActorPoolStrategy(min_size=budget.min_predictors, max_size=budget.max_predictors),
        num_cpus=budget.predictor_cpus,
        num_gpus=budget.predictor_gpus or None,
        **chunk_by_chunk,
    )
    return predicted.map_batches(encode_and_commit, fn_kwargs={"context": context}, num_cpus=budget.task_cpus, **chunk_by_chunk)


def _data_context() -> DataContext:
    """Ray Data's settings for our pipeline, leaving those of the process alone."""
    data = DataContext.get_current().copy()
    data.enable_progress_bars = False
    data.print_on_execution_start = False
    data.execution_no_progress_timeout_s = _NO_PROGRESS_S
    data.raise_original_map_exception = True  # else ours is wrapped in one of Ray's, which loses it on the way here
    data.target_max_block_size = 1  # a block is closed after each row, so that each chunk is its own task
    return data


def _run(context: Context, plan: Plan, left: LeftOver, budget: Budget) -> Iterator[tuple[int, int]]:
    """Execute the pipeline; yields (ok, failed) of each commit as it happens."""
    with DataContext.current(_data_context()):
        pipeline = _pipeline(context, plan, left, budget)
    for batch in pipeline.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.select(["ok", "failed"]).to_pylist():
            yield row["ok"], row["failed"]


@contextmanager
def _unwrapped() -> Iterator[None]:
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


def _task(budget: Budget, function: Callable[..., Any]) -> Any:
    """A Ray task for work on tables."""
    return ray.remote(num_cpus=budget.task_cpus)(function)


def _board() -> Any:
    """The board, on this node: it lives and dies with the driver. Should it alone die, an empty one takes its place."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Board.options(scheduling_strategy=here, max_restarts=-1, max_task_retries=-1).remote()


def _note_run(store: Store, started: float, board: Any, budget: Budget, cluster: dict[str, float]) -> None:
    """Leave a note of this run for the report. A run that is killed leaves none; nothing depends on it."""
    try:
        tallies, backends = ray.get(board.read.remote())
    except ray.exceptions.RayError as error:
        log.warning("no note of this run: its board is gone (%s)", error)
        return
    seconds = {name: value for tally in tallies.values() for name, value in tally.seconds.items()}
    written = tallies.get("encode", Tally())
    note = {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.time() - started, 3),
        "done": written.images,
        "failed": sum(tally.failed for tally in tallies.values()),
        "objects": written.objects,
        "stage_seconds": {name: round(value, 3) for name, value in seconds.items()},
        "cluster": {"cpus": cluster.get("CPU", 0), "gpus": cluster.get("GPU", 0), "nodes": len(ray.nodes())},
        "predictors": budget.max_predictors,
        "backend": ", ".join(backends),
    }
    name = datetime.fromtimestamp(started, UTC).strftime("%Y%m%dT%H%M%S") + f"-{os.getpid()}"
    try:
        store.write(f"runs/{name}.json", json.dumps(note, indent=2).encode())
    except OutputError as error:  # must not hide what ended the run, which may be the same full disk
        log.warning("no note of this run: %s", error)
