"""Scores of class maps from one confusion matrix: mean IoU, accuracy, kappa and Dice.

A matrix is a value: each image makes one, sums make the data set's, in any order and on any machine. Both definitions in use
for a class that occurs nowhere are given, because they differ by points on small data sets: leave it out of the mean (the
usual one), or count it as PaddleSeg's metrics.py does since 2024, with an IoU of 1 and a Dice of 0 (its releases up to 2.9
have 0 for both). Nothing here runs a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rayseg.errors import DatasetError


@dataclass(frozen=True)
class SemanticScores:
    """Scores in [0, 1], kappa in [-1, 1]. NaN where nothing was labelled."""

    miou: float
    """Mean IoU over the classes that occur in labels or predictions."""
    miou_paddleseg: float
    """Mean IoU over all classes, an absent one counted as 1.0."""
    accuracy: float
    """Share of labelled pixels predicted right."""
    kappa: float
    """Cohen's kappa: accuracy beyond what the class frequencies give by chance."""
    dice: float
    """Mean Dice over the classes that occur in labels or predictions."""
    dice_paddleseg: float
    """Mean Dice over all classes, an absent one counted as 0.0."""
    iou_per_class: Mapping[int, float]
    """Class -> IoU; NaN for an absent class."""
    dice_per_class: Mapping[int, float]
    """Class -> Dice; NaN for an absent class."""
    precision_per_class: Mapping[int, float]
    """Class -> share of the pixels predicted so that are labelled so; NaN where none was predicted (PaddleSeg prints 0)."""
    recall_per_class: Mapping[int, float]
    """Class -> share of the pixels labelled so that were predicted so; NaN where none was labelled (PaddleSeg prints 0)."""
    pixels_per_class: Mapping[int, int]
    """Class -> labelled pixels."""


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """Pixel counts, int64 (C, C): row = labelled class, column = predicted class. `a + b` merges; order does not matter."""

    counts: np.ndarray

    @classmethod
    def empty(cls, num_classes: int) -> ConfusionMatrix:
        """Of no pixels at all: the start of a sum."""
        return cls(np.zeros((num_classes, num_classes), dtype=np.int64))

    @classmethod
    def of(
        cls, predicted: np.ndarray, labelled: np.ndarray, *, num_classes: int, ignore_index: int | None = 255
    ) -> ConfusionMatrix:
        """Count the pixels of one image or batch.

        Args:
            predicted: integer, any shape, classes 0 to num_classes - 1.
            labelled: integer, the same shape; `ignore_index` marks pixels that count nowhere.
            num_classes: C.
            ignore_index: the label of pixels to leave out; None leaves out none.

        Raises:
            DatasetError: the shapes differ, or a pixel that counts has a class outside [0, C).
        """
        if predicted.shape != labelled.shape:
            raise DatasetError(
                f"prediction of shape {predicted.shape} and label map of shape {labelled.shape} differ. "
                "Resize the prediction to the size of the label map first."
            )
        kept = np.ones(labelled.shape, dtype=bool) if ignore_index is None else labelled != ignore_index
        truth, guess = labelled[kept].astype(np.int64), predicted[kept].astype(np.int64)
        _check_classes("label map", truth, num_classes, ignore_index)
        _check_classes("prediction", guess, num_classes, ignore_index)
        flat = np.bincount(truth * num_classes + guess, minlength=num_classes**2)
        return cls(flat.reshape(num_classes, num_classes))

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"cannot add confusion matrices of {len(self.counts)} and {len(other.counts)} classes")
        return ConfusionMatrix(self.counts + other.counts)

    @property
    def num_classes(self) -> int:
        """C, absent classes included."""
        return len(self.counts)

    def scores(self) -> SemanticScores:
        """All scores of the pixels counted so far."""
        both = np.diag(self.counts).astype(np.float64)
        labelled, predicted = self.counts.sum(axis=1).astype(np.float64), self.counts.sum(axis=0).astype(np.float64)
        total = labelled.sum()
        present = labelled + predicted > 0
        iou = _ratio(both, labelled + predicted - both)
        dice = _ratio(2 * both, labelled + predicted)
        accuracy = _ratio(both.sum(), total)
        return SemanticScores(
            miou=_mean(iou[present]),
            miou_paddleseg=_mean(np.where(present, iou, 1.0)) if total else float("nan"),
            accuracy=float(accuracy),
            kappa=_kappa(float(accuracy), float(_ratio((labelled * predicted).sum(), total**2))),
            dice=_mean(dice[present]),
            dice_paddleseg=_mean(np.where(present, dice, 0.0)) if total else float("nan"),
            iou_per_class=_by_class(iou),
            dice_per_class=_by_class(dice),
            precision_per_class=_by_class(_ratio(both, predicted)),
            recall_per_class=_by_class(_ratio(both, labelled)),
            pixels_per_class={k: int(n) for k, n in enumerate(self.counts.sum(axis=1))},
        )


def _check_classes(what: str, values: np.ndarray, num_classes: int, ignore_index: int | None) -> None:
    if values.size == 0 or (values.min() >= 0 and values.max() < num_classes):
        return
    wrong = values[(values < 0) | (values >= num_classes)]
    raise DatasetError(
        f"{what} holds class {int(wrong[0])}, outside the {num_classes} classes 0 to {num_classes - 1} "
        f"(pixels labelled {ignore_index} are left out). Check the number of classes or the ignore index."
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN instead of a warning where the whole is zero."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _by_class(values: np.ndarray) -> dict[int, float]:
    return {k: float(value) for k, value in enumerate(values)}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _kappa(observed: float, by_chance: float) -> float:
    """(observed - by_chance) / (1 - by_chance), Cohen 1960. One class on both sides leaves no chance to beat: 1.0 then, where
    PaddleSeg divides 0 by 0."""
    return 1.0 if by_chance == 1.0 else (observed - by_chance) / (1.0 - by_chance)
