"""What an evaluation found, as numbers, as JSON under PaddleX's names and ours, and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rayseg.metrics.coco_ap import ApScores
from rayseg.metrics.coco_rows import Id
from rayseg.metrics.mean_iou import ConfusionMatrix, SemanticScores

_AP = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_AR = ("ar_small", "ar_medium", "ar_large")
_SEMANTIC = ("miou", "miou_paddleseg", "accuracy", "kappa", "dice", "dice_paddleseg")


@dataclass(frozen=True)
class InstanceEvaluation:
    """Scores of objects.

    Attributes:
        images: how many were scored.
        names: category id -> class name.
        mask: scores of masks.
        box: scores of boxes; None where they were not asked for.
        unknown, lacking: classes of the model only, and of the truth only.
    """

    images: int
    names: Mapping[Id, str]
    mask: ApScores
    box: ApScores | None = None
    unknown: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    task: Literal["instance"] = "instance"

    def metrics(self) -> dict[str, float]:
        """Ours, flat; a score that has no value is left out. `ar` and all AP are for the largest number of detections."""
        found = _flat(self.mask) | ({f"box_{name}": v for name, v in _flat(self.box).items()} if self.box else {})
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def to_json(self) -> dict[str, Any]:
        """`metrics` as PaddleX writes them into evaluate_result.json, and all of ours; what has no value is null."""
        scores = _flat(self.mask) | ({f"box_{name}": v for name, v in _flat(self.box).items()} if self.box else {})
        classes = []
        for category, name in self.names.items():
            row = {"id": category, "name": name, **vars(self.mask.per_class[category])}
            if self.box:
                row |= {f"box_{key}": v for key, v in vars(self.box.per_class[category]).items() if key != "objects"}
            classes.append({key: _number(value) for key, value in row.items()})
        return {
            "metrics": {"AP": _number(self.mask.ap)},
            "task": self.task,
            "images": self.images,
            "scores": {name: _number(value) for name, value in scores.items()},
            "classes": classes,
            "classes_of_the_model_only": list(self.unknown),
            "classes_of_the_truth_only": list(self.lacking),
        }

    def to_text(self) -> str:
        """A table to print."""
        head = f"{self.images} images" + "".join(f", {kind} AP {_text(s.ap)}" for kind, s in self._kinds())
        rows: list[tuple[str, ...]] = [("", "AP", "AP50", "AP75", "small", "medium", "large", "AR", "objects")]
        for kind, scores in self._kinds():
            total = str(sum(c.objects for c in scores.per_class.values()))
            rows.append((kind, *(_text(getattr(scores, name)) for name in (*_AP, "ar")), total))
            for category, found in scores.per_class.items():
                values = (_text(getattr(found, name)) for name in (*_AP, "ar"))
                rows.append((f"  {self.names[category]}", *values, str(found.objects)))
        return "\n".join([head, *_table(rows)])

    def _kinds(self) -> list[tuple[str, ApScores]]:
        return [("mask", self.mask), *([("box", self.box)] if self.box else [])]


@dataclass(frozen=True)
class SemanticEvaluation:
    """Scores of label maps.

    Attributes:
        images: how many were scored.
        labels: name of each class id.
        confusion: pixels, from which all scores follow.
    """

    images: int
    labels: tuple[str, ...]
    confusion: ConfusionMatrix
    task: Literal["semantic"] = "semantic"

    @property
    def scores(self) -> SemanticScores:
        """All scores."""
        return self.confusion.scores()

    def metrics(self) -> dict[str, float]:
        """Ours, flat; a score that has no value is left out."""
        found = {name: getattr(self.scores, name) for name in _SEMANTIC}
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def to_json(self) -> dict[str, Any]:
        """`metrics` as PaddleX writes them into evaluate_result.json, and all of ours; what has no value is null."""
        s = self.scores
        theirs = {"mIoU": s.miou_paddleseg, "Acc": s.accuracy, "Kappa": s.kappa, "Dice": s.dice_paddleseg}
        return {
            "metrics": {name: _number(value) for name, value in theirs.items()},
            "task": self.task,
            "images": self.images,
            "scores": {name: _number(getattr(s, name)) for name in _SEMANTIC},
            "classes": [
                {
                    "id": k,
                    "name": name,
                    "iou": _number(s.iou_per_class[k]),
                    "dice": _number(s.dice_per_class[k]),
                    "precision": _number(s.precision_per_class[k]),
                    "recall": _number(s.recall_per_class[k]),
                    "pixels": s.pixels_per_class[k],
                }
                for k, name in enumerate(self.labels)
            ],
            "confusion": self.confusion.counts.tolist(),
        }

    def to_text(self) -> str:
        """A table to print."""
        s = self.scores
        head = f"{self.images} images, mIoU {_text(s.miou)} (absent classes counted as PaddleSeg does: {_text(s.miou_paddleseg)})"
        head += f", accuracy {_text(s.accuracy)}, kappa {_text(s.kappa)}, Dice {_text(s.dice)}"
        rows: list[tuple[str, ...]] = [("", "IoU", "Dice", "precision", "recall", "pixels")]
        for k, name in enumerate(self.labels):
            of_class = (s.iou_per_class, s.dice_per_class, s.precision_per_class, s.recall_per_class)
            rows.append((name, *(_text(values[k]) for values in of_class), str(s.pixels_per_class[k])))
        return "\n".join([head, *_table(rows)])


Evaluation = InstanceEvaluation | SemanticEvaluation


def _flat(scores: ApScores) -> dict[str, float]:
    out = {name: getattr(scores, name) for name in (*_AP, "ar", *_AR)}
    return out | {f"ar_{limit}": value for limit, value in scores.recall_at.items()}


def _number(value: Any) -> Any:
    """NaN is no JSON."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with aligned columns: text to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
