"""What a model found in one image: checked when made, so that a wrong shape fails here and not three stages later.

`Instances` for instance models, `SemanticMap` for semantic ones. Both turn into rows of the objects table. Drawing, files and
PaddleX's result dicts are made from these elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayseg import rle
from rayseg.geometry import Size, Window
from rayseg.rle import Rle


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects of one image, row i of every field being object i.

    Attributes:
        size: of the image.
        boxes_xyxy: float32 (n, 4), image pixels, inside the image, x1 >= x0 and y1 >= y0.
        scores: float32 (n,), in [0, 1].
        class_ids: int32 (n,), at least 0.
        masks: n full-image masks.
    """

    size: Size
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    masks: tuple[Rle, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes_xyxy", np.asarray(self.boxes_xyxy, dtype=np.float32).reshape(-1, 4))
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float32).reshape(-1))
        object.__setattr__(self, "class_ids", np.asarray(self.class_ids, dtype=np.int32).reshape(-1))
        object.__setattr__(self, "masks", tuple(self.masks))
        counts = {len(self.boxes_xyxy), len(self.scores), len(self.class_ids), len(self.masks)}
        if len(counts) != 1:
            raise ValueError(
                f"{len(self.boxes_xyxy)} boxes, {len(self.scores)} scores, {len(self.class_ids)} classes and "
                f"{len(self.masks)} masks do not describe the same objects"
            )
        _check_boxes(self.boxes_xyxy, self.size)
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise ValueError("scores must lie in [0, 1] and be numbers")
        if (self.class_ids < 0).any():
            raise ValueError(f"negative class id {int(self.class_ids.min())}")
        for mask in self.masks:
            if mask.size != self.size:
                raise ValueError(f"mask of {mask.size} in an image of {self.size}")

    @classmethod
    def none(cls, size: Size) -> Instances:
        """No object in an image of this size."""
        return cls(size, np.empty((0, 4)), np.empty(0), np.empty(0), ())

    def __len__(self) -> int:
        return len(self.masks)

    def select(self, keep: np.ndarray | Sequence[int]) -> Instances:
        """The objects of one index or bool vector; boxes, scores, classes and masks stay together."""
        index = np.asarray(keep)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise ValueError(f"a bool index of shape {index.shape} does not say which of {len(self)} objects to keep")
            index = np.flatnonzero(index)
        index = index.astype(np.int64).reshape(-1)
        masks = tuple(self.masks[i] for i in index)
        return Instances(self.size, self.boxes_xyxy[index], self.scores[index], self.class_ids[index], masks)

    def shift(self, dx: int, dy: int, size: Size) -> Instances:
        """The same objects on a larger canvas, moved right by dx and down by dy pixels (a tile's objects in its scene)."""
        window = Window.of(self.size).shift(dx, dy)
        masks = tuple(rle.encode_many(((rle.decode(mask), window) for mask in self.masks), size))
        boxes = self.boxes_xyxy + np.asarray([dx, dy, dx, dy], dtype=np.float32)
        return Instances(size, boxes, self.scores, self.class_ids, masks)

    @staticmethod
    def join(parts: Sequence[Instances]) -> Instances:
        """All objects of several results of one image, in order.

        Raises:
            ValueError: no part, or parts of different sizes.
        """
        sizes = {part.size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"can join results of one image size only, got {sorted(sizes)}")
        return Instances(
            sizes.pop(),
            np.concatenate([p.boxes_xyxy for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.class_ids for p in parts]),
            tuple(mask for p in parts for mask in p.masks),
        )


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """One class for every pixel of one image.

    Attributes:
        labels: uint8 or uint16 (H, W), the class id of each pixel.
    """

    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.size == 0:
            raise ValueError(f"a label map is a non-empty (H, W) array, got shape {self.labels.shape}")
        if self.labels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"a label map is uint8 or uint16, got {self.labels.dtype}")

    @property
    def size(self) -> Size:
        return Size(*self.labels.shape)

    def regions(self) -> Instances:
        """One object for each class that occurs, in class order: its box is the extent of the class, its score 1."""
        class_ids, boxes, masks = rle.encode_classes(self.labels)
        return Instances(self.size, boxes, np.ones(len(masks)), class_ids, tuple(masks))

    @classmethod
    def from_probabilities(cls, probabilities: np.ndarray) -> SemanticMap:
        """The likeliest class of each pixel, the first of equal ones.

        Args:
            probabilities: (C, H, W), numbers of any type.
        """
        # Class by class: several times as fast as argmax along the first axis.
        best = probabilities[0].copy()
        labels = np.zeros(best.shape, dtype=np.uint8 if len(probabilities) <= 256 else np.uint16)
        for class_id in range(1, len(probabilities)):
            np.copyto(labels, labels.dtype.type(class_id), where=probabilities[class_id] > best)
            np.maximum(best, probabilities[class_id], out=best)
        return cls(labels)

    @classmethod
    def from_regions(cls, regions: Instances) -> SemanticMap:
        """The label map whose `regions()` these are.

        Raises:
            ValueError: the regions overlap or leave pixels without a class.
        """
        labels = np.zeros(regions.size.hw, dtype=np.uint16 if (regions.class_ids > 255).any() else np.uint8)
        covered = np.zeros(regions.size.hw, dtype=np.uint8)
        for class_id, mask in zip(regions.class_ids.tolist(), regions.masks, strict=True):
            pixels = rle.decode(mask)
            labels[pixels] = class_id
            covered += pixels
        if not (covered == 1).all():
            raise ValueError("regions of a label map must cover every pixel exactly once")
        return cls(labels)


Result = Instances | SemanticMap


def _check_boxes(boxes: np.ndarray, size: Size) -> None:
    if not np.isfinite(boxes).all():
        raise ValueError("boxes must be finite numbers")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError("a box ends before it starts")
    if boxes.size and (boxes.min() < 0 or (boxes[:, 2:] > np.asarray(size.wh, dtype=np.float32)).any()):
        raise ValueError(f"a box leaves the image of {size}; clip boxes before making a result")
