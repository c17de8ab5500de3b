"""The main job on one page: images in, a table of masks out, each unit exactly once.

    list -> plan -> (plan - ledger) -> fetch + decode -> predict -> encode + commit

The output folder is the only memory. A run reads from it what is left, does that, and checks at the end that every
planned unit is there once; so starting, resuming and finishing are the same call. What is done with a plan stands in
`execute.py`, what stages do in `stages.py`, the files in `plan.py` and `ledger.py`; jobs of scenes in `scenes/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError
from rayseg.logs import about
from rayseg.pipeline import identity, incremental
from rayseg.pipeline.board import new_board
from rayseg.pipeline.engine import settled
from rayseg.pipeline.execute import IMAGE_STAGES, check_all, do_what_is_left, unwrapped
from rayseg.pipeline.forecast import Forecast, forecast, said_of
from rayseg.pipeline.lock import locked
from rayseg.pipeline.machine import Machine
from rayseg.pipeline.metrics import job_tag
from rayseg.pipeline.plan import Plan, write_plan
from rayseg.pipeline.preflight import SAMPLE, Peek, check_disk, check_nodes, check_output, peek
from rayseg.pipeline.progress import Progress
from rayseg.pipeline.sample import draw
from rayseg.pipeline.sources import Source, open_source
from rayseg.pipeline.stages import Context
from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import Findings
from rayseg.predict.model_dir import ModelSpec, load_model_dir
from rayseg.predict.prepare import resizes_first

# Most bytes of files in one chunk. Where the network's input has a fixed size, images are small once they are prepared;
# where they stay as they are, a JPEG grows about tenfold, and several chunks are on their way at any time.
CHUNK_BYTES, CHUNK_BYTES_NATIVE = 256 * 2**20, 24 * 2**20


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


def run_job(settings: SegmentSettings, *, progress: Progress, update: bool = False) -> JobResult:
    """Do what is left of a job; Ray must be running (`runtime.connected`).

    Args:
        update: list the source again first, and do what is new or changed in it too; without, a job keeps the plan it has.

    Raises:
        RaysegError: the job cannot start or go on: ConfigError, ModelError, SourceError, OutputError and its kinds. What was
            committed stays.
    """
    started = time.time()
    with _begun(settings, update=update) as (spec, store):
        if settings.scenes is not None:
            from rayseg.pipeline.scenes.job import run_scenes  # needs the extra `geo`

            findings = run_scenes(settings, spec, store, progress)
            limit = settings.failure_limit(findings.planned)
            return JobResult(findings, time.time() - started, limit is None or findings.failed <= limit)
        machine = Machine.look(settings)
        plan = _plan(settings, spec, store, progress, parallelism=machine.parallelism, update=update)
        progress.planned(plan.units, machine.budget)
        context = settled(Context(settings, spec, store, None), plan, machine.budget, IMAGE_STAGES, progress)
        context = replace(context, board=new_board(job_tag(settings.out)))
        do_what_is_left(context, plan, machine, progress, look=lambda: _look_at_some(settings, store, plan, progress))
        findings = check_all(store, plan, machine.budget)
        progress.finished(findings)
    limit = settings.failure_limit(plan.units)
    return JobResult(findings, time.time() - started, limit is None or findings.failed <= limit)


def forecast_job(settings: SegmentSettings, *, progress: Progress, update: bool = False) -> Forecast:
    """Plan a job as `run_job` would, keep the plan for it, and say what it will take, from a sample; Ray must be running.

    Raises:
        RaysegError: as `run_job`.
    """
    with _begun(settings, update=update) as (spec, store):
        if settings.scenes is not None:
            from rayseg.pipeline.scenes.job import forecast_scenes  # needs the extra `geo`

            return forecast_scenes(settings, spec, store, progress)
        machine = Machine.look(settings)
        plan = _plan(settings, spec, store, progress, parallelism=machine.parallelism, update=update)
        found = _look_at_some(settings, store, plan, progress)
        context = settled(Context(settings, spec, store, None), plan, machine.budget, IMAGE_STAGES, progress)
        return forecast(context, plan, machine, notes=[("formats", said_of(found))])


@contextmanager
def _begun(settings: SegmentSettings, *, update: bool) -> Iterator[tuple[ModelSpec, Store]]:
    """The model and the output of a job, both looked at and the latter locked."""
    spec = load_model_dir(settings.model)
    store = open_store(settings)
    if settings.scenes is not None and update:
        raise ConfigError("--update lists images again; scenes are planned once. Give another output folder for a grown source.")
    if settings.save_label_maps and spec.task != "semantic":
        raise ConfigError(f"save_label_maps needs a semantic model; {spec.name} finds instances. Leave it out")
    if settings.scaled_decode and not resizes_first(spec):
        raise ConfigError(
            f"scaled_decode is for models that begin by resizing images to their input; {spec.name} does not. Leave it out"
        )
    with about(job=job_tag(settings.out)), locked(store), unwrapped():
        check_output(store)
        check_nodes(settings, spec, store)
        yield spec, store


def _look_at_some(settings: SegmentSettings, store: Store, plan: Plan, progress: Progress) -> Peek:
    """Open some of the images, and say so when some cannot be read."""
    check_disk(store, plan.units)
    found = peek([one.unit for one in draw(store, plan, SAMPLE)], settings)
    if found.failures:
        uri, kind, reason = found.failures[0]
        bad, total = len(found.failures), len(found.failures) + len(found.megapixels)
        progress.say(
            f"{bad} of {total} images looked at cannot be read, and end as failed rows unless they are done already. "
            f"The first is {uri}: {kind}: {reason}"
        )
    return found


def open_store(settings: SegmentSettings) -> Store:
    """The output; it takes the source's options when it has none of its own and speaks the same protocol."""
    options = settings.out_options
    if options is None:
        same = settings.source.partition("://")[0] == settings.out.partition("://")[0]
        options = settings.source_options if same and "://" in settings.out else {}
    return Store(settings.out, dict(options))


def _plan(
    settings: SegmentSettings, spec: ModelSpec, store: Store, progress: Progress, *, parallelism: int, update: bool
) -> Plan:
    """The plan of this output: the one it has, if it was made for the same job, or a new one; brought up to date if asked."""
    wanted = identity.of(settings, spec)
    found = identity.read(store)
    if found is not None:
        identity.check_same(found, wanted, store.url)
        found = incremental.finish(store, found)
        plan = identity.plan(found)
        if settings.chunk_images not in (None, plan.chunk_images):
            raise ConfigError(
                f"chunk_images {settings.chunk_images}: {store.url} was planned with {plan.chunk_images} images a file, "
                "and files that are there cannot be cut again. Leave it out, or give another output folder."
            )
        if update:
            source = _source(settings)
            if source.kind == "manifest":
                progress.say(
                    "a manifest tells neither sizes nor times: lines that are new or gone are found, replaced files are not"
                )
            found, changes = incremental.update(source, store, found, parallelism=parallelism, report=progress.listed)
            plan = identity.plan(found)
            progress.say(f"source listed again: {changes}")
        return plan
    identity.check_fresh(store)
    plan = write_plan(
        _source(settings),
        store,
        chunk_images=settings.chunk_images,
        chunk_bytes=CHUNK_BYTES if spec.fixed_input else CHUNK_BYTES_NATIVE,
        parallelism=parallelism,
        report=progress.listed,
    )
    identity.write(store, settings, spec, wanted, plan)
    return plan


def _source(settings: SegmentSettings) -> Source:
    return open_source(
        settings.source,
        column=settings.manifest_column,
        options=settings.source_options,
        out=settings.out,
        attempts=settings.fetch_attempts,
    )
