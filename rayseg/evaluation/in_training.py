"""What a training run calls to score its network: every worker its share of the images, all workers the same answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rayseg.errors import ConfigError
from rayseg.evaluation.model import Truth, score_images, scoring_for
from rayseg.evaluation.network import predictor_of
from rayseg.evaluation.result import Evaluation
from rayseg.evaluation.scoring import Partial, Scoring, finish_evaluation
from rayseg.metrics.coco_ap import MAX_DETS
from rayseg.models.network import InstanceNetwork, SemanticNetwork

Gather = Callable[[Partial], Sequence[Partial]]
"""Gives every worker the partial scores of all workers; called by all at the same point."""


class Evaluator:
    """Scores a network in memory; called with it, returns flat metrics.

    The answer does not depend on the number of workers. The truth is indexed once, for all evaluations of a run.

    Args:
        truth: the validation set.
        labels: names of the network's classes, by class id.
        batch_size, min_score: see `evaluate_model`.
        max_dets, boxes: see `InstanceScoring`.
        rank, size: this worker takes images `rank`, `rank + size`, ...
        gather: needed with more than one worker.

    Attributes:
        last: the evaluation of the last call; None before the first.
    """

    def __init__(
        self,
        truth: Truth,
        *,
        labels: Sequence[str],
        batch_size: int = 1,
        min_score: float = 0.0,
        max_dets: Sequence[int] = MAX_DETS,
        boxes: bool = True,
        rank: int = 0,
        size: int = 1,
        gather: Gather | None = None,
    ) -> None:
        if not 0 <= rank < size:
            raise ConfigError(f"rank {rank} of {size} workers: ranks go from 0 to {size - 1}")
        if size > 1 and gather is None:
            raise ConfigError(f"{size} workers score their own images only; give a gather that brings their scores together")
        self.last: Evaluation | None = None
        self._truth, self._labels = truth, tuple(labels)
        self._max_dets, self._boxes = tuple(max_dets), boxes
        self._batch_size, self._min_score = batch_size, min_score
        self._images = range(rank, len(truth), size)
        self._gather = gather or (lambda part: [part])
        self._scoring: Scoring | None = None

    def __call__(self, network: InstanceNetwork | SemanticNetwork) -> dict[str, float]:
        """Metrics by name, as `Evaluation.metrics` has them; the same on every worker."""
        predictor = predictor_of(network, self._labels)
        if self._scoring is None:
            self._scoring = scoring_for(predictor.spec, self._truth, max_dets=self._max_dets, boxes=self._boxes)
        mine = score_images(
            predictor, self._truth, self._images, self._scoring, batch_size=self._batch_size, min_score=self._min_score
        )
        self.last = finish_evaluation(self._scoring, self._gather(mine))
        return self.last.metrics()
