"""`tune(settings)`: a search from beginning to end, to be read from top to bottom.

    stages, one after another:   points -> records on disk -> Ray Tune runs what is left -> the best of the stage
    OUT/tune.json                what was asked; another search refuses to share OUT
    OUT/trials/<id>/             each trial, as `rayseg train` leaves its output, and trial.json
    OUT/best_model/, config.yaml weights, inference model and settings of the best trial
    OUT/tune_result.json, trials.csv, tune.html

A search whose driver was killed goes on when it is started again: trials that have ended, well or badly, are not run again, the
others go on from their own checkpoints. To have a trial run anew, remove its folder.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.schedulers import TrialScheduler

from rayseg.config.train import Settings
from rayseg.distributed.trainer import visible_gpus
from rayseg.errors import ConfigError, RaysegError
from rayseg.pipeline.lock import locked
from rayseg.pipeline.runtime import connected
from rayseg.pipeline.storage import Store
from rayseg.tuning.best import keep_best
from rayseg.tuning.handing import Handing, OptunaLearner
from rayseg.tuning.page import write_page
from rayseg.tuning.points import (
    Parameters,
    Point,
    Space,
    check_stopping,
    list_points,
    most_evaluations,
    name_of,
    trial_settings,
    value_of,
)
from rayseg.tuning.records import Record, begun, claim, folder_of, read_record, read_stage, taken_over, with_history, write_record
from rayseg.tuning.result import TuneResult, best_record, write_tables
from rayseg.tuning.room import Room, plan_room
from rayseg.tuning.stopping import scheduler
from rayseg.tuning.trial import Train, run_trial
from rayseg.tuning.watching import Report, Watching, nobody

ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in settings mean what they mean to `rayseg train`
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials have logs of their own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output cannot be silenced
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # Ray's state is never read again
}


def tune(settings: Settings, *, report: Report | None = None, train: Train | None = None) -> TuneResult:
    """Search as the section Search says, into `Global.output`.

    Args:
        settings: as the file has them, so that what is left open follows each trial's parameters.
        report: called in this process with each event of a trial; see `Watching`.
        train: trains one trial, in its process, in place of `rayseg.training.run.train` and `train_on_ray`; importable there.

    Raises:
        ConfigError: nothing to search, no room for one trial, or settings that contradict each other.
        JobMismatch: the folder belongs to another search.
        OutputError: another driver searches into the folder.
        RaysegError: no trial of a stage has a score.
    """
    from rayseg.models.defaults import effective

    out, full = Path(settings.general.output).absolute(), effective(settings)
    _check(settings, full)
    started = time.monotonic()
    with visible_gpus(settings), connected(settings.cluster.address, num_cpus=settings.cluster.num_cpus):
        room = plan_room(full, (node["Resources"] for node in ray.nodes() if node["Alive"]))
        with locked(Store(str(out))), _environment():
            claim(out, full)
            search = _Search(settings, full, out, room, train, report or nobody)
            chosen: Parameters = {}
            stages: list[list[Record]] = []
            for number, space in enumerate(settings.search.space, start=1):
                records = _run_stage(search, space, number, chosen)
                stages.append(records)
                best = best_record(records, full.search.mode)
                if best is None:
                    why = "; ".join(f"{record.id}: {record.reason}" for record in records)
                    raise RaysegError(f"no trial of stage {number} has a score ({why}). Their logs are below {out / 'trials'}")
                chosen = best.parameters
            result = _finish(search, stages, wall=time.monotonic() - started)
            shutil.rmtree(out / "ray", ignore_errors=True)
    return result


@dataclass(frozen=True)
class _Search:
    """What all parts of a search are told."""

    settings: Settings
    full: Settings
    """With what was left open filled in, for what all trials have in common."""
    out: Path
    room: Room
    train: Train | None
    report: Report

    @property
    def metric(self) -> str:
        return str(self.full.search.metric)

    def trial(self, parameters: Mapping[str, Any]) -> Settings:
        """The settings of a trial but for its folder."""
        return trial_settings(self.settings, parameters, folder=Path("trial"), resources=self.room.resources)


def _check(settings: Settings, full: Settings) -> None:
    """What would fail every trial fails here, before any starts.

    Raises:
        RaysegError: see `tune`; or the data set cannot be opened.
    """
    from rayseg.training.sets import open_sets

    if not settings.search.space:
        raise ConfigError("Search.space is empty; name settings and their values, such as {Train.learning_rate: [1e-3, 1e-2]}")
    if settings.train.resume_path is not None:
        raise ConfigError("Train.resume_path goes on with one run; trials of a search start from Train.pretrain_weight_path")
    for space in settings.search.space:
        check_stopping(full.search, most_evaluations(settings, space))
    if settings.search.searcher == "optuna":
        OptunaLearner({}, mode=full.search.mode, seed=0)
    open_sets(full)


def _run_stage(search: _Search, space: Space, stage: int, chosen: Parameters) -> list[Record]:
    """Run what is left of a stage; returns the records of all its trials."""
    out, asked, learner, more = search.out, search.full.search, None, 0
    if asked.searcher == "optuna":
        known = read_stage(out, stage)
        points = [Point(record.id, stage, {**record.parameters, **chosen}) for record in known]
        more = max(0, asked.num_samples - len(known))
    else:
        points = list_points(space, asked, stage=stage, chosen=chosen, seed=search.settings.train.seed)
        _take_over(search, points)
    records = [begun(out, point) for point in points]
    over = [record for record in records if record.status != "running"]
    if asked.searcher == "optuna":
        learner = OptunaLearner(space, mode=asked.mode, seed=asked.seed, told=len(records))
        for record in over:
            learner.tell({key: record.parameters[key] for key in space}, record.best_score)
    waiting = [point for point, record in zip(points, records, strict=True) if record.status == "running"]
    if waiting or more:
        rule = scheduler(
            asked,
            evaluations=most_evaluations(search.settings.with_values(chosen), space),
            past={record.id: with_history(out, record, metric=search.metric).scores for record in records},
            over=[record.id for record in over],
        )
        _fit(search, Handing(out, waiting, more=more, learner=learner, stage=stage, chosen=chosen, number=len(points) + 1), rule)
    names = [point.id for point in points] + [name_of(stage, len(points) + 1 + extra) for extra in range(more)]
    return [_ended(search, name) for name in names]


def _fit(search: _Search, handing: Handing, rule: TrialScheduler) -> None:
    """Let Ray Tune run trials. Its own notes go below OUT/ray and are not read again."""
    out, room, asked = search.out, search.room, search.full.search
    trainable = partial(run_trial, base=search.settings.to_mapping(), out=str(out), room=room, train=search.train)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(_named(trainable), room.reserved),
        param_space={},
        tune_config=ray_tune.TuneConfig(
            metric="score",
            mode=asked.mode,
            num_samples=handing.total,
            max_concurrent_trials=room.at_once,
            search_alg=handing,
            scheduler=rule,
            trial_name_creator=_id,
            trial_dirname_creator=_id,
        ),
        run_config=ray_tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:12]}",
            storage_path=str(out / "ray"),
            failure_config=ray_tune.FailureConfig(max_failures=asked.max_failures),
            callbacks=[Watching(out, metric=search.metric, report=search.report)],
            verbose=0,
        ),
    )
    with _silent():
        tuner.fit()


def _take_over(search: _Search, points: list[Point]) -> None:
    """A point with the very settings of a trial that has ended well is not run: its outcome is that trial's.

    So the second stage of a search may list a value that the first one had.
    """
    earlier = [record for stage in range(1, points[0].stage) for record in read_stage(search.out, stage)]
    known = [(record, search.trial(record.parameters)) for record in earlier if record.status == "done" and not record.same_as]
    for point in points:
        if folder_of(search.out, point.id).exists():
            continue
        try:
            wanted = search.trial(point.parameters)
        except RaysegError:
            continue  # the trial itself says what is wrong with it
        former = next((record for record, settings in known if settings == wanted), None)
        if former is not None:
            write_record(search.out, taken_over(former, point))


def _ended(search: _Search, name: str) -> Record:
    """The record of a trial that Ray has done with."""
    found, resources = read_record(search.out, name), search.room.resources
    if found is None or found.status == "running":
        raise RaysegError(
            f"{folder_of(search.out, name)}: Ray Tune ended without an outcome of this trial. On a cluster Global.output must be "
            "a folder that all machines share; else start again, and the search goes on"
        )
    return replace(found, workers=resources.most, gpus=resources.gpus)


def _finish(search: _Search, stages: list[list[Record]], *, wall: float) -> TuneResult:
    """The best trial's weights, the tables and the page."""
    out, full = search.out, search.full
    everything = [record for records in stages for record in records]
    best = best_record(everything, full.search.mode)
    assert best is not None, "each stage has one"
    keys = list(dict.fromkeys(key for space in full.search.space for key in space))
    result = TuneResult(
        folder=out,
        model=full.general.model,
        metric=search.metric,
        mode=full.search.mode,
        keys=keys,
        stages=stages,
        shown={record.id: _shown(search, record, keys) for record in everything},
        best=best,
        best_model=keep_best(out, folder_of(out, best.same_as or best.id)),
        seconds=round(wall, 1),
        at_once=search.room.at_once,
    )
    for record in everything:  # Ray Train's copies of checkpoints, which runs that did not end well leave for another try
        if record.status != "done":
            shutil.rmtree(folder_of(out, record.id) / "ray", ignore_errors=True)
    write_tables(result)
    write_page(result, settings=full)
    return result


def _shown(search: _Search, record: Record, keys: list[str]) -> Parameters:
    """What a trial had of everything that was searched in any stage."""
    try:
        found = search.trial(record.parameters)
    except RaysegError:
        return {key: record.parameters.get(key) for key in keys}
    return {key: value_of(found, key) for key in keys}


def _named(trainable: Any) -> Any:
    """Ray asks a function for its name."""

    def trial(config: dict[str, Any]) -> None:
        trainable(config)

    return trial


def _id(trial: Any) -> str:
    return str(trial.config["id"])


@contextmanager
def _silent() -> Iterator[None]:
    """What ends a trial is in its record, and told by `report`; Ray Tune would print its traceback as well."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _environment() -> Iterator[None]:
    before = {key: os.environ.get(key) for key in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
