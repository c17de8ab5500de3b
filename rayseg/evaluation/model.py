"""Score a model on an annotated data set in this process, image by image.

The model may be an inference directory, a loaded predictor or a network in memory; all go through the predictor that a job
uses. A shard is any share of the images: score it with `score_images`, and `scoring.join` the shards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from rayseg.datasets.coco import CocoInstances
from rayseg.datasets.semantic import SemanticPairs
from rayseg.errors import ConfigError, DatasetError
from rayseg.evaluation.classes import match_classes
from rayseg.evaluation.network import predictor_of
from rayseg.evaluation.result import Evaluation
from rayseg.evaluation.scoring import InstanceScoring, Partial, Scoring, SemanticScoring, finish_evaluation, join
from rayseg.metrics.coco_ap import MAX_DETS
from rayseg.models.network import InstanceNetwork, SemanticNetwork
from rayseg.predict.families import finish
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.predict.prepare import Prepared, prepare
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances, SemanticMap

Truth = CocoInstances | SemanticPairs
Model = str | Path | Predictor | InstanceNetwork | SemanticNetwork
Progress = Callable[[int, int], None]
"""Gets images done and all images, after each batch."""
T = TypeVar("T")

_LOADERS = 2
_AHEAD = 4
"""Batches that are loaded before they are wanted."""


def evaluate_model(
    model: Model,
    truth: Truth,
    *,
    labels: Sequence[str] | None = None,
    batch_size: int = 1,
    min_score: float = 0.0,
    max_dets: Sequence[int] = MAX_DETS,
    boxes: bool = True,
    device: str = "cpu",
    backend: str = "auto",
    threads: int = 2,
    report: Progress | None = None,
) -> Evaluation:
    """Predict every image of a data set and score the results.

    Args:
        model: a directory is loaded onto `device` by `backend` with `threads`, as a job does; the others are taken as they are.
        truth: annotated images, of the model's task.
        labels: class names of a network in memory, needed there; the others bring their own.
        batch_size: most images given to the network at once; one by one on CPUs, and where a program takes no more.
        min_score: objects must exceed it. AP needs them all: a higher one saves time and costs recall.
        max_dets, boxes: see `InstanceScoring`.

    Raises:
        ConfigError: settings that contradict each other or the model's task.
        DatasetError: an image or annotation that cannot be used, or no common class.
    """
    predictor = _predictor(model, labels, backend=backend, device=device, threads=threads)
    scoring = scoring_for(predictor.spec, truth, max_dets=max_dets, boxes=boxes)
    images = range(len(truth))
    found = score_images(predictor, truth, images, scoring, batch_size=batch_size, min_score=min_score, report=report)
    return finish_evaluation(scoring, [found])


def scoring_for(spec: ModelSpec, truth: Truth, *, max_dets: Sequence[int] = MAX_DETS, boxes: bool = True) -> Scoring:
    """How a model's results are scored against a data set.

    Raises:
        ConfigError: the data set is of the other task.
        DatasetError: no common class, or another number of classes.
    """
    wanted = "instance" if isinstance(truth, CocoInstances) else "semantic"
    if spec.task != wanted:
        raise ConfigError(f"{spec.name} is a model for {spec.task} segmentation, the data set is for {wanted} segmentation")
    if isinstance(truth, CocoInstances):
        classes = match_classes(spec.labels, dict(zip(truth.category_ids, truth.labels, strict=True)))
        return InstanceScoring(truth.ground_truth, classes, max_dets=max_dets, boxes=boxes)
    if truth.num_classes not in (None, len(spec.labels)):
        raise DatasetError(f"{spec.name} tells {len(spec.labels)} classes apart, the data set has {truth.num_classes}")
    return SemanticScoring(spec.labels)


def score_images(
    predictor: Predictor,
    truth: Truth,
    indices: Sequence[int],
    scoring: Scoring,
    *,
    batch_size: int = 1,
    min_score: float = 0.0,
    report: Progress | None = None,
) -> Partial:
    """Predict and score some images; threads load the next ones meanwhile.

    Args:
        indices: of `truth`.

    Raises:
        ConfigError: `batch_size` is below 1, or `min_score` is set for label maps, which have no scores.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    if min_score and isinstance(scoring, SemanticScoring):
        raise ConfigError(f"min_score {min_score} is set, but pixels of a semantic model have no scores; leave it out")
    parts: list[Partial] = []

    def load(batch: tuple[int, ...]) -> tuple[tuple[int, ...], list[Prepared], list[np.ndarray | None]]:
        found = [_load(truth, index) for index in batch]
        return batch, [prepare(predictor.spec, image) for image, _ in found], [labels for _, labels in found]

    for batch, images, maps in _ahead(load, _batches(indices, batch_size)):
        raws = predictor.run(images, batch_size=batch_size, min_score=min_score)
        for index, raw, labels in zip(batch, raws, maps, strict=True):
            result = finish(predictor.spec, raw, min_score)
            parts.append(_score(scoring, truth, index, result, labels))
        if report is not None:
            report(len(parts), len(indices))
    return join(scoring, parts)


def _predictor(model: Model, labels: Sequence[str] | None, *, backend: str, device: str, threads: int) -> Predictor:
    if isinstance(model, InstanceNetwork | SemanticNetwork):
        if labels is None:
            raise ConfigError("a network in memory has no class names; pass them as labels, in the order of its class ids")
        return predictor_of(model, labels)
    if labels is not None:
        raise ConfigError("labels are for networks in memory; directories and predictors bring their own")
    return model if isinstance(model, Predictor) else Predictor(load_model_dir(model), backend, device, threads)


def _load(truth: Truth, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Image, and label map where the truth is one."""
    if isinstance(truth, CocoInstances):
        return truth.image(index), None
    sample = truth[index]
    return sample.image, sample.labels


def _score(scoring: Scoring, truth: Truth, index: int, result: object, labels: np.ndarray | None) -> Partial:
    if isinstance(scoring, InstanceScoring):
        assert isinstance(truth, CocoInstances) and isinstance(result, Instances)
        return scoring.score(truth.images[index].image_id, result)
    assert isinstance(truth, SemanticPairs) and isinstance(result, SemanticMap) and labels is not None
    return scoring.score(truth.entries[index].image, labels, result)


def _batches(indices: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(indices), size):
        yield tuple(indices[start : start + size])


def _ahead(call: Callable[[tuple[int, ...]], T], items: Iterator[tuple[int, ...]]) -> Iterator[T]:
    """Results in the order of the items, a few of them made ahead in threads."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(_LOADERS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(call, item))
                if len(waiting) >= _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
