"""Which engine a job runs on each kind of machine of its cluster: tried once, on images of the job, and kept in job.json.

    stored in job.json         taken, so that a job that is resumed goes on with the engine it began with
    results without a choice   what `auto` takes without a trial, for the same reason
    fewer than LEAST_UNITS     what larger jobs chose for this model, where the driver's machine remembers a choice; else the same
                               as above: a small job ends before a trial does
    else                       a task for each kind of machine, with what a predictor reserves: fetches and prepares a few images
                               with the stages of the job, takes the remembered choice of this machine, or tries all engines

A trial ends after the plain engine where the job is little work for it (`measure.WORTH_S`). Another precision than fp32 is always
tried, whatever the size of the job: its change of the results must be known. A trial that fails costs a line.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayseg.config.backends import PRECISIONS
from rayseg.config.device import RESOURCES
from rayseg.config.segment import SegmentSettings
from rayseg.errors import BackendError
from rayseg.pipeline import identity, ledger
from rayseg.pipeline.budget import Budget
from rayseg.pipeline.engines_here import Chosen
from rayseg.pipeline.plan import Plan
from rayseg.pipeline.progress import Progress
from rayseg.pipeline.sample import Drawn, draw, prepared
from rayseg.pipeline.stages import Context
from rayseg.pipeline.storage import Store
from rayseg.predict.backends import trial
from rayseg.predict.backends.choices import choice_file, choices_folder, remember, remembered, versions
from rayseg.predict.backends.choose import ENGINES, candidates, open_backend
from rayseg.predict.backends.measure import Opener
from rayseg.predict.backends.trial import Candidates, Choice, try_engines
from rayseg.predict.devices import Device
from rayseg.predict.machine import MachineKind, machine_kind
from rayseg.predict.spec import ModelSpec

log = logging.getLogger(__name__)

LEAST_UNITS = 64
"""Images or tiles of a job from which on engines are tried."""
_KIND_S = 60.0
C = TypeVar("C", bound=Context)


@dataclass(frozen=True)
class Tries:
    """How engines are tried; tests put scripted engines in.

    Attributes:
        known, opener, budget_s: as `try_engines` takes them.
        least_units: of a job.
        worth: whether a trial may end early where there is little to do.
        cache: folder that choices are remembered in; None is that of each machine.
    """

    known: Candidates = candidates
    opener: Opener = open_backend
    budget_s: float = trial.BUDGET_S
    least_units: int = LEAST_UNITS
    worth: bool = True
    cache: str | None = None


_REAL = Tries()


def settled(context: C, plan: Plan, budget: Budget, stages: Any, progress: Progress, *, tries: Tries = _REAL) -> C:
    """The context with the engines of the job, chosen and written to job.json if that was not done before.

    Args:
        context: of the job, whose job.json is written.
        budget: of its predictors.
        stages: `execute.Stages` of the job.

    Raises:
        BackendError: the backend that is named, or every engine of some machine, lacks the precision that is asked for.
    """
    settings, store = context.settings, context.store
    _check_precision(settings, context.spec, budget.device)
    if (context.spec.scripted and tries is _REAL) or budget.device not in ("cpu", "gpu"):
        return context
    stored = stored_choices(identity.require(store))
    if not stored:
        full = settings.precision == PRECISIONS[0]
        if full and (settings.backend != "auto" or any(ledger.names(store).values())):
            return context
        small = full and plan.units < tries.least_units
        stored = _remembered(context, budget, tries) if small else _try_all(context, plan, budget, stages, progress, tries)
        if stored:
            identity.save(store, {**identity.require(store), "engine": stored})
    return replace(context, engines=_chosen(stored))


def _check_precision(settings: SegmentSettings, spec: ModelSpec, device: str) -> None:
    """Refuse, by its name, what computes in fp32 only; before any worker starts."""
    asked, full = settings.precision, PRECISIONS[0]
    if asked == full:
        return
    if spec.scripted or device not in ("cpu", "gpu"):
        what = f"model {spec.name}" if spec.scripted else f"device {device}"
        raise BackendError(f"precision {asked}: {what} computes in {full} only here. Leave --precision out")
    able = [name for name, engine in ENGINES.items() if asked in engine.precisions.get(device, ())]
    if settings.backend != "auto" and settings.backend not in able:
        others = f"use backend {' or '.join(able)} or auto" if able else f"no backend does on {device}"
        raise BackendError(f"precision {asked}: backend {settings.backend} does not compute in it on {device}; {others}")
    if not able:
        raise BackendError(f"precision {asked}: no backend computes in it on {device}. Use --precision {full}")


def stored_choices(job: dict[str, Any]) -> dict[str, Any]:
    """What job.json has of engines: key of a machine kind -> its name, versions of packages, and the choice."""
    return dict(job.get("engine") or {})


def _chosen(stored: Mapping[str, Any]) -> dict[str, Chosen]:
    choices = {key: (Choice.from_json(entry["choice"]), entry["versions"]) for key, entry in stored.items()}
    return {key: Chosen(c.engine, c.precision, found) for key, (c, found) in choices.items() if c.engine is not None}


def _try_all(context: Context, plan: Plan, budget: Budget, stages: Any, progress: Progress, tries: Tries) -> dict[str, Any]:
    """A choice for each kind of machine."""
    drawn = draw(context.store, plan, trial.IMAGES)
    nodes = _one_of_each_kind(budget)
    if not drawn or not nodes:
        return {}
    progress.say(f"trying engines on {len(drawn)} {progress.noun}")
    left = plan.units / max(1, budget.max_predictors) if tries.worth else None
    own = replace(context, board=_NoBoard())
    running = {
        node: _on(node, budget, _try_here).remote(drawn, own, stages, budget.device, budget.threads, left, tries)
        for node in nodes
    }
    found: dict[str, Any] = {}
    for node, ref in running.items():
        try:
            kind, choice, their_versions = ray.get(ref)
        except ray.exceptions.RayError as error:
            said = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
            if context.settings.precision != PRECISIONS[0]:
                raise BackendError(f"precision {context.settings.precision}: no engine could be tried: {said}") from error
            progress.say(f"engines could not be tried on node {node[:8]}: {said}")
            continue
        _refuse_precision(context, kind, choice)
        progress.say(_said(kind, choice))
        found[kind.key] = _entry(kind, choice, their_versions)
    return found


def _entry(kind: MachineKind, choice: Choice, their_versions: Mapping[str, str]) -> dict[str, Any]:
    """As job.json has it."""
    return {"machine": kind.name, "versions": dict(their_versions), "choice": json.loads(json.dumps(choice.to_json()))}


def _remembered(context: Context, budget: Budget, tries: Tries) -> dict[str, Any]:
    """What machines of each kind remember of the model; nothing is asked where this one remembers nothing."""
    if not any(choices_folder(context.spec, folder=tries.cache).glob("choice-*.json")):
        return {}
    asked = [
        _on(node, budget, _remembered_here).remote(context.spec, context.settings, budget.device, budget.threads, tries)
        for node in _one_of_each_kind(budget)
    ]
    found: dict[str, Any] = {}
    for ref in asked:
        try:
            kind, choice, their_versions = ray.get(ref)
        except ray.exceptions.RayError as error:
            log.warning("a node does not say what it remembers: %s", error)
            continue
        if choice is not None and choice.engine is not None:
            found[kind.key] = _entry(kind, choice, their_versions)
    return found


def _remembered_here(
    spec: ModelSpec, settings: SegmentSettings, device: str, threads: int, tries: Tries
) -> tuple[MachineKind, Choice | None, dict[str, str]]:
    kind, path = _kind_and_file(spec, settings, device, threads, tries)
    return kind, remembered(path), versions()


def _kind_and_file(
    spec: ModelSpec, settings: SegmentSettings, device: str, threads: int, tries: Tries
) -> tuple[MachineKind, Path]:
    """This machine, and where it remembers a choice."""
    kind = machine_kind(str(Device(device)))
    return kind, choice_file(
        spec,
        kind,
        device=device,
        threads=threads,
        precision=settings.precision,
        threshold=settings.threshold,
        most=_most(settings),
        engines=_named(settings),
        folder=tries.cache,
    )


def _most(settings: SegmentSettings) -> int:
    """Images that may run together."""
    return settings.batch_size or max(trial.BATCHES)


def _named(settings: SegmentSettings) -> tuple[str, ...] | None:
    return None if settings.backend == "auto" else (settings.backend,)


def _try_here(
    drawn: Sequence[Drawn], context: Context, stages: Any, device: str, threads: int, left: float | None, tries: Tries
) -> tuple[MachineKind, Choice, dict[str, str]]:
    """The choice of this machine, remembered or made."""
    settings, spec = context.settings, context.spec
    kind, path = _kind_and_file(spec, settings, device, threads, tries)
    left = None if settings.precision != PRECISIONS[0] else left
    choice = remembered(path)
    if choice is None or not choice.serves(left):
        with tempfile.TemporaryDirectory(prefix="rayseg-trial-") as folder:
            images = prepared(drawn, replace(context, store=Store(folder), settings=replace(settings, out="")), stages)
        if not images:
            raise BackendError("none of the images drawn for a trial can be read")
        choice = try_engines(
            spec,
            images,
            device=str(Device(device)),
            threads=threads,
            precision=settings.precision,
            engines=_named(settings),
            threshold=settings.threshold,
            batches=[size for size in trial.BATCHES if size <= _most(settings)],
            images_left=left,
            budget_s=tries.budget_s,
            known=tries.known,
            opener=tries.opener,
        )
        remember(path, choice)
    return kind, choice, versions()


def _refuse_precision(context: Context, kind: MachineKind, choice: Choice) -> None:
    asked = context.settings.precision
    if asked != PRECISIONS[0] and choice.engine is None:
        raise BackendError(
            f"precision {asked}: no engine on {kind.name} can be used. {choice.reason}. Use --precision {PRECISIONS[0]}"
        )


def _said(kind: MachineKind, choice: Choice) -> str:
    rows = ", ".join(
        f"{row.engine}{'' if row.precision == PRECISIONS[0] else ' ' + row.precision} "
        + (f"{row.ms_per_image:.0f} ms" if row.verdict in (trial.RIGHT, trial.CHANGED) and row.ms_per_image else row.verdict)
        for row in choice.trials
    )
    return f"{kind.name}: {f'engine {choice.engine}' if choice.engine else f'no choice ({choice.reason})'}; {rows}"


def _one_of_each_kind(budget: Budget) -> list[str]:
    """Ids of nodes that a predictor fits on, one of each kind of machine."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and _fits(budget, node["Resources"])]
    if len(nodes) < 2:
        return nodes
    asked = {node: _on(node, budget, machine_kind).remote(str(Device(budget.device))) for node in nodes}
    found: dict[MachineKind, str] = {}
    for node, ref in asked.items():
        try:
            found.setdefault(ray.get(ref, timeout=_KIND_S), node)
        except (ray.exceptions.RayError, TimeoutError) as error:
            log.warning("node %s does not say what it is: %s", node[:8], error)
    return list(found.values())


def _fits(budget: Budget, resources: Mapping[str, float]) -> bool:
    wanted = {"CPU": budget.predictor_cpus, RESOURCES["gpu"]: budget.predictor_gpus, **budget.predictor_resources}
    return all(resources.get(name, 0.0) >= n for name, n in wanted.items())


def _on(node: str, budget: Budget, function: Any) -> Any:
    """A task on one node that reserves what a predictor does."""
    return ray.remote(function).options(
        num_cpus=budget.predictor_cpus,
        num_gpus=budget.predictor_gpus or None,
        resources=budget.predictor_resources or None,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )


class _NoBoard:
    """Hears of what the stages did for a trial, and forgets it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def remote(self, *_: Any, **__: Any) -> None:
        return None
