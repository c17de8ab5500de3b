"""From the result of one image to partial scores, and from partial scores of any split into shards to the same evaluation.

A scoring knows the truth's classes and what is asked; it holds no pixels and travels to workers. Partial scores are values
that add up: COCO matches image by image, pixels as a confusion matrix. Who predicts and who loads is model.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayseg.errors import DatasetError
from rayseg.evaluation.classes import ClassMap
from rayseg.evaluation.result import Evaluation, InstanceEvaluation, SemanticEvaluation
from rayseg.geometry import Size
from rayseg.metrics.coco_ap import MAX_DETS, ap_scores, check_limits
from rayseg.metrics.coco_match import Matches, match_image
from rayseg.metrics.coco_rows import Id, Kind, Names, Regions, annotated
from rayseg.metrics.mean_iou import ConfusionMatrix
from rayseg.results import Instances, SemanticMap

Rows = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class InstancePartial:
    """Matches of some images."""

    masks: Matches
    boxes: Matches | None

    @staticmethod
    def join(parts: Sequence[InstancePartial]) -> InstancePartial:
        """The sum; see `Matches.join`."""
        boxes = [part.boxes for part in parts if part.boxes is not None]
        return InstancePartial(Matches.join([part.masks for part in parts]), Matches.join(boxes) if boxes else None)


class InstanceScoring:
    """Scores objects against the annotations of a COCO dict.

    Args:
        ground_truth: with `images`, `categories` and `annotations`.
        classes: pairs the model's classes with the dict's.
        max_dets: see `mask_ap`.
        boxes: score boxes as well.

    Raises:
        DatasetError: an annotation refers to something that is not there.
        ValueError: `max_dets` holds no number or one below 1.
    """

    def __init__(self, ground_truth: Rows, classes: ClassMap, *, max_dets: Sequence[int] = MAX_DETS, boxes: bool = True) -> None:
        self.max_dets = check_limits(max_dets)
        self._names = Names.of(ground_truth)
        self._rows = self._names.by_image("annotation", ground_truth["annotations"])
        self._classes = classes
        self._kinds: tuple[Kind, ...] = ("mask", "box") if boxes else ("mask",)
        self._seen: dict[tuple[Id, Kind], Regions] = {}

    def size_of(self, image_id: Id) -> Size:
        """Of an image, as annotated."""
        return self._names.sizes[image_id]

    def empty(self) -> InstancePartial:
        """Of no image: the start of a sum."""
        none = Matches(self.max_dets[-1])
        return InstancePartial(none, none if "box" in self._kinds else None)

    def score(self, image_id: Id, found: Instances) -> InstancePartial:
        """One image.

        Raises:
            DatasetError: the truth lists no such image, or of another size.
        """
        size = self._names.sizes.get(image_id)
        if size is None:
            raise DatasetError(f"image {image_id!r} is not in the ground truth")
        if found.size != size:
            raise DatasetError(
                f"image {image_id!r} has [height, width] {list(found.size.hw)}, the ground truth says {list(size.hw)}; "
                "was it resized or rotated after it was annotated?"
            )
        keep = [i for i, c in enumerate(found.class_ids.tolist()) if self._category(c) is not None]
        matches = {
            kind: match_image(
                image_id, self._truth(image_id, size, kind), self._regions(found, keep, kind), limit=self.max_dets[-1]
            )
            for kind in self._kinds
        }
        return InstancePartial(matches["mask"], matches.get("box"))

    def evaluation(self, partial: InstancePartial) -> InstanceEvaluation:
        """The scores of all images added up."""
        ids = self._names.categories
        return InstanceEvaluation(
            images=len(partial.masks.images),
            names=self._classes.names,
            mask=ap_scores(partial.masks, ids, max_dets=self.max_dets),
            box=ap_scores(partial.boxes, ids, max_dets=self.max_dets) if partial.boxes is not None else None,
            unknown=self._classes.unknown,
            lacking=self._classes.lacking,
        )

    def _category(self, class_id: int) -> Id | None:
        if class_id >= len(self._classes.category_of):
            raise DatasetError(f"class id {class_id} was found, the model lists {len(self._classes.category_of)} labels")
        return self._classes.category_of[class_id]

    def _truth(self, image_id: Id, size: Size, kind: Kind) -> Regions:
        """Kept: polygons are made masks once, not at every evaluation of a training run."""
        key = (image_id, kind)
        if key not in self._seen:
            self._seen[key] = annotated(self._rows.get(image_id, []), size, kind)
        return self._seen[key]

    def _regions(self, found: Instances, keep: list[int], kind: Kind) -> Regions:
        categories = tuple(self._classes.category_of[c] for c in found.class_ids[keep].tolist())
        scores = found.scores[keep].astype(np.float64)
        if kind == "mask":
            masks = [found.masks[i] for i in keep]
            areas = np.asarray([mask.area for mask in masks], dtype=np.float64)
            return Regions(categories, [mask.to_coco() for mask in masks], areas, scores)
        boxes = found.boxes_xyxy[keep].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return Regions(categories, boxes, boxes[:, 2] * boxes[:, 3], scores)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_seen": {}}


@dataclass(frozen=True, eq=False)
class SemanticPartial:
    """Pixels of some images."""

    images: int
    confusion: ConfusionMatrix

    @staticmethod
    def join(parts: Sequence[SemanticPartial]) -> SemanticPartial:
        """The sum."""
        start = ConfusionMatrix.empty(parts[0].confusion.num_classes)
        return SemanticPartial(sum(part.images for part in parts), sum((part.confusion for part in parts), start=start))


class SemanticScoring:
    """Scores label maps against label maps.

    Args:
        labels: name of each class id.
        ignore_index: marks pixels that count nowhere.
    """

    def __init__(self, labels: Sequence[str], *, ignore_index: int | None = 255) -> None:
        self.labels = tuple(labels)
        self._ignore_index = ignore_index

    def empty(self) -> SemanticPartial:
        """Of no image: the start of a sum."""
        return SemanticPartial(0, ConfusionMatrix.empty(len(self.labels)))

    def score(self, name: str, truth: np.ndarray, found: SemanticMap) -> SemanticPartial:
        """One image.

        Args:
            name: for messages.
            truth: integer (H, W).

        Raises:
            DatasetError: sizes differ, or a class is outside the labels.
        """
        try:
            counts = ConfusionMatrix.of(found.labels, truth, num_classes=len(self.labels), ignore_index=self._ignore_index)
        except DatasetError as error:
            raise DatasetError(f"{name}: {error}") from None
        return SemanticPartial(1, counts)

    def evaluation(self, partial: SemanticPartial) -> SemanticEvaluation:
        """The scores of all images added up."""
        return SemanticEvaluation(partial.images, self.labels, partial.confusion)


Partial = InstancePartial | SemanticPartial
Scoring = InstanceScoring | SemanticScoring


def join(scoring: Scoring, parts: Sequence[Partial]) -> Partial:
    """The sum of any number of partial scores, none included, that one scoring made."""
    kind = InstancePartial if isinstance(scoring, InstanceScoring) else SemanticPartial
    return kind.join([scoring.empty(), *parts])  # type: ignore[list-item]


def finish_evaluation(scoring: Scoring, parts: Sequence[Partial]) -> Evaluation:
    """The scores of all shards together."""
    return scoring.evaluation(join(scoring, parts))  # type: ignore[arg-type]
