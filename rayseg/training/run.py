"""Fine-tuning a model of the zoo from settings: network, weights, data and scores for the loop, and what the run leaves.

One process calls `train`, and so does every worker of a cluster; rayseg/distributed brings the world, and may bring the
batches.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle

from rayseg.config.sections import SCRATCH
from rayseg.config.train import Settings
from rayseg.datasets.coco import CocoInstances
from rayseg.evaluation.in_training import Evaluator
from rayseg.geometry import Size
from rayseg.models.network import InstanceNetwork, SemanticNetwork
from rayseg.models.weights import load_weights
from rayseg.models.zoo import ZooModel, find_model
from rayseg.predict.export import export_model
from rayseg.training import checkpoint as store
from rayseg.training.data.build import make_batches
from rayseg.training.data.loader import Batches
from rayseg.training.data.work import instance_work, semantic_work
from rayseg.training.loop import Evaluate, FitResult, Report, fit, no_report
from rayseg.training.plan import Plan, plan_from
from rayseg.training.seeds import seed_all
from rayseg.training.sets import Sets, open_sets
from rayseg.training.source import BatchSource
from rayseg.training.world import ALONE, World

log = logging.getLogger(__name__)
Network = InstanceNetwork | SemanticNetwork
CONFIG, RESULT, INFERENCE = "config.yaml", "train_result.json", "inference"


@dataclass(frozen=True)
class Job:
    """What one worker trains with; see `prepare`."""

    row: ZooModel
    plan: Plan
    sets: Sets
    folder: Path
    stem: str
    """What the files of best_model are called, as PaddleX calls them."""


def train(
    settings: Settings,
    *,
    world: World = ALONE,
    report: Report = no_report,
    resume: Path | None = None,
    batches: Callable[[Job], BatchSource] | None = None,
    evaluate: Callable[[Job], Evaluate] | None = None,
) -> FitResult:
    """Train as effective settings say, into `Global.output`. Every worker calls it alike, on its device.

    Args:
        settings: from `rayseg.models.defaults.effective`.
        report: see `rayseg.training.loop.fit`.
        resume: checkpoint to go on from, before any that settings or the folder have.
        batches: makes this worker's batches in place of reading the data itself.
        evaluate: makes the function that scores, in place of `rayseg.evaluation`.

    Raises:
        RaysegError: see `fit`, `open_sets` and `load_weights`.
    """
    if world is ALONE:
        paddle.set_device(device_of(settings))
    job = prepare(settings)
    folder, plan = job.folder, job.plan
    origin = resume or _origin(settings, folder, world)
    seed_all(plan.seed)
    network = job.row.build(len(job.sets.labels))
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / CONFIG, settings.to_yaml())
        pretrained = settings.train.pretrain_weight_path
        if origin is None and pretrained not in (None, SCRATCH):
            load_weights(network, str(pretrained))  # the other workers get them from rank 0
    source = batches(job) if batches else own_batches(settings, job, world, workers=settings.train.workers)
    try:
        result = fit(
            network,
            plan,
            batches=source,
            folder=folder,
            evaluate=(evaluate or _own_evaluate(settings, world))(job),
            world=world,
            report=report,
            resume=origin,
            stem=job.stem,
            settings=settings.to_mapping(),
        )
    finally:
        getattr(source, "close", lambda: None)()
    if world.rank == 0:
        export_best(job, network)
        _write(folder / RESULT, json.dumps(train_result(settings, result), indent=2) + "\n")
    world.barrier()
    return result


def prepare(settings: Settings) -> Job:
    """What settings say, opened and checked; nothing large is read yet."""
    row = find_model(settings.general.model)
    stem = "best_model" if row.task == "instance" else "model"
    return Job(row, plan_from(settings), open_sets(settings), Path(settings.general.output), stem)


def own_batches(settings: Settings, job: Job, world: World, *, workers: int) -> Batches:
    """This worker's share of the training set, prepared by so many processes; 0 prepares in this one."""
    train_set = job.sets.train
    height, width = settings.train.train_size or job.row.typical_input.hw
    return make_batches(
        job.row,
        instance_work(train_set) if isinstance(train_set, CocoInstances) else semantic_work(train_set),
        batch_size=job.plan.batch_size,
        train_size=Size(height, width),
        seed=job.plan.seed,
        augment=settings.train.augment,
        rank=world.rank,
        size=world.size,
        workers=workers,
    )


def device_of(settings: Settings) -> str:
    """Paddle's name of the device one process trains on."""
    ids = settings.general.device_ids()
    if settings.general.device == "cpu":
        return "cpu"
    if settings.general.device == "auto" and not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()):
        return "cpu"
    return f"gpu:{ids[0] if ids else 0}"


def export_best(job: Job, network: Network) -> Path:
    """Write `best_model/inference` from the best weights, which the network has afterwards."""
    best = job.folder / store.BEST
    load_weights(network, best / f"{job.stem}.pdparams")
    network.eval()
    return export_model(network, best / INFERENCE, name=job.row.name, labels=job.sets.labels, overwrite=True)


def train_result(settings: Settings, result: FitResult) -> dict[str, Any]:
    """The content of train_result.json: PaddleX's fields, paths relative to the output folder, and ours under `rayseg`."""
    folder = result.folder
    models = {}
    for index, place in enumerate(reversed(store.checkpoints(folder)), start=1):
        models[f"last_{index}"] = _files(place, folder, store.read_states(place).scores.get(settings.search.metric or ""))
    if result.best is not None:
        models["best"] = _files(result.best, folder, result.best_score)
    own = {
        "best_epoch": result.best_epoch,
        "best_step": result.best_step,
        "epochs": result.epoch,
        "steps": result.step,
        "seconds": round(result.seconds, 1),
        "scores": result.scores,
        "metric": settings.search.metric,
        "first_rate": result.first_rate,
        "highest_rate": result.highest_rate,
        "resumed_from": str(result.resumed_from) if result.resumed_from else None,
    }
    return {
        "model_name": settings.general.model,
        "label_dict": "",
        "train_log": "train.log",
        "visualdl_log": "",
        "config": CONFIG,
        "done_flag": True,
        "models": models,
        "rayseg": own,
    }


def _origin(settings: Settings, folder: Path, world: World) -> Path | None:
    """The checkpoint to go on from: the run's own after a stop, else `Train.resume_path`.

    A resume path inside the run's own folder is a wish to go back to it, and comes first.
    """
    wished = settings.train.resume_path
    if wished is not None and Path(wished).resolve().is_relative_to(folder.resolve()):
        return store.find_checkpoint(Path(wished))
    newest = world.agree(str(store.latest(folder) or ""))
    if newest:
        return Path(str(newest))
    return store.find_checkpoint(Path(wished)) if wished is not None else None


def _own_evaluate(settings: Settings, world: World) -> Callable[[Job], Evaluate]:
    def make(job: Job) -> Evaluate:
        found: Evaluate = Evaluator(
            job.sets.val,
            labels=job.sets.labels,
            batch_size=settings.evaluate.batch_size,
            max_dets=(1, 10, settings.evaluate.max_detections),
            rank=world.rank,
            size=world.size,
            gather=world.gather,
        )
        return found

    return make


def _files(place: Path, folder: Path, score: float | None) -> dict[str, Any]:
    found = {file.suffix[1:]: str(file.relative_to(folder)) for file in sorted(place.iterdir()) if file.is_file()}
    inference = place / INFERENCE
    names = {"inference_config": "inference.yml", "pdmodel": "inference.json", "pdiparams": "inference.pdiparams"}
    exported = {key: str((inference / name).relative_to(folder)) if inference.exists() else "" for key, name in names.items()}
    return {"score": score, **found, **exported, "pdiparams.info": ""}


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
