"""`rayseg evaluate -c FILE`: weights or a model directory scored on the validation images, in this process or over a cluster.

Workers are tasks: each loads the model, takes every n-th image and returns partial scores, which add up to what one process
would have found. A task that is lost runs again. How an image is scored is evaluation/'s.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from rayseg.config.train import Settings
from rayseg.errors import ConfigError
from rayseg.evaluation.model import Truth, score_images, scoring_for
from rayseg.evaluation.result import Evaluation
from rayseg.evaluation.scoring import Partial, Scoring, finish_evaluation
from rayseg.evaluation.source import ModelSource
from rayseg.metrics.coco_ap import limits_up_to
from rayseg.predict.predictor import Predictor
from rayseg.predict.spec import ModelSpec
from rayseg.training.sets import open_sets
from rayseg.training.trained import labels_of

log = logging.getLogger(__name__)


def evaluate(settings: Settings) -> dict[str, Any]:
    """Score `Evaluate.weight_path` on the validation images of `Global.dataset_dir`.

    Args:
        settings: effective ones. With more workers than one, Ray must be running (`runtime.connected`).

    Returns:
        As `Evaluation.to_json`, with `model` and `seconds`.

    Raises:
        RaysegError: settings, data or weights that cannot be used.
    """
    started = time.monotonic()
    weights = settings.evaluate.weight_path
    if weights is None:
        raise ConfigError("Evaluate.weight_path is not set; name .pdparams, or an inference model directory")
    labels = None if Path(weights).is_dir() else labels_of(settings, weights)
    source = ModelSource(weights, settings.general.model, labels)
    truth = open_sets(settings).val
    found = evaluate_here(settings, source, truth) if settings.in_process() else evaluate_on_ray(settings, source, truth)
    log.info("%s", found.to_text())
    return found.to_json() | {"model": weights, "seconds": round(time.monotonic() - started, 1)}


def evaluate_here(settings: Settings, source: ModelSource, truth: Truth) -> Evaluation:
    """In this process."""
    from rayseg.training.run import device_of

    predictor = source.open(device_of(settings))
    scoring = scoring_for(predictor.spec, truth, max_dets=limits_up_to(settings.evaluate.max_detections))
    return finish_evaluation(scoring, [_score_share(settings, predictor, truth, scoring, 0, 1)])


def evaluate_on_ray(settings: Settings, source: ModelSource, truth: Truth) -> Evaluation:
    """On the workers that the section Cluster asks for, one task each."""
    import ray

    cluster, workers = settings.cluster, min(settings.worker_range()[1], len(truth))
    wants_gpu = settings.wants_gpu()
    use_gpu = ray.cluster_resources().get("GPU", 0) > 0 if wants_gpu is None else wants_gpu
    gpus = cluster.gpus_per_worker if use_gpu else 0

    @ray.remote(num_cpus=cluster.cpus_per_worker, num_gpus=gpus)
    def task(settings: Settings, source: ModelSource, truth: Truth, rank: int) -> tuple[ModelSpec, Partial]:
        predictor = source.open("gpu:0" if use_gpu else "cpu")
        scoring = scoring_for(predictor.spec, truth, max_dets=limits_up_to(settings.evaluate.max_detections))
        return predictor.spec, _score_share(settings, predictor, truth, scoring, rank, workers)

    shared = ray.put(truth)
    try:
        found = ray.get([task.remote(settings, source, shared, rank) for rank in range(workers)])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # as the task raised it, without Ray's traceback
    scoring = scoring_for(found[0][0], truth, max_dets=limits_up_to(settings.evaluate.max_detections))
    return finish_evaluation(scoring, [part for _, part in found])


def _score_share(settings: Settings, predictor: Predictor, truth: Truth, scoring: Scoring, rank: int, size: int) -> Partial:
    every = settings.evaluate.log_interval * settings.evaluate.batch_size

    def report(done: int, total: int) -> None:
        if done % every < settings.evaluate.batch_size or done == total:
            log.info("evaluated %d of %d images%s", done, total, f" (worker {rank} of {size})" if size > 1 else "")

    images = range(rank, len(truth), size)
    return score_images(predictor, truth, images, scoring, batch_size=settings.evaluate.batch_size, report=report)
