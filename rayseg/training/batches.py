"""Samples -> the arrays a network's loss takes.

An epoch's batches depend on the seed and the epoch's number alone, so a run that stops and goes on sees the same data
as one that never stopped. Targets follow models/instance/ppyoloe_seg_loss.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from rayseg.datasets.sample import Sample
from rayseg.errors import ConfigError
from rayseg.training.augment import Augment

MASK_STRIDE = 4
"""Masks are learned at the resolution of the prototypes, a quarter of the input's."""


class Batch(NamedTuple):
    """One step's arrays, N images of side S with up to G objects each.

    Attributes:
        image: float32 [N, 3, S, S], RGB, in [0, 1].
        targets: gt_bbox float32 [N, G, 4] xyxy in input pixels, gt_class int64 [N, G, 1], pad_gt_mask float32 [N, G, 1]
            (1 for an object, 0 for padding), gt_segm float32 [N, G, S / 4, S / 4] in {0, 1}. G is at least 1.
    """

    image: np.ndarray
    targets: dict[str, np.ndarray]


@dataclass(frozen=True)
class CropBatches:
    """Random crops of samples held in memory: call it with an epoch's number to get that epoch's batches."""

    samples: Sequence[Sample]
    augment: Augment
    batch_size: int
    crops_per_image: int = 1
    """How often each image is visited in one epoch."""
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise ConfigError(
                f"{len(self.samples)} images x {self.crops_per_image} crops do not fill one batch of {self.batch_size}"
            )

    def __len__(self) -> int:
        """Batches in an epoch; what does not fill a batch is left out."""
        return len(self.samples) * self.crops_per_image // self.batch_size

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """All batches of one epoch, in an order of its own."""
        rng = np.random.default_rng([self.seed, epoch])
        visits = [rng.permutation(len(self.samples)) for _ in range(self.crops_per_image)]
        order = np.concatenate(visits)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield collate([self.augment(self.samples[index], rng) for index in chosen])


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size; objects are padded to the largest number of them in any image, at least one."""
    side_h, side_w = samples[0].size.hw
    slots = max(1, *(len(sample.masks) for sample in samples))
    shape = (len(samples), slots)
    boxes = np.zeros((*shape, 4), dtype=np.float32)
    classes = np.zeros((*shape, 1), dtype=np.int64)
    real = np.zeros((*shape, 1), dtype=np.float32)
    segments = np.zeros((*shape, side_h // MASK_STRIDE, side_w // MASK_STRIDE), dtype=np.float32)
    for n, sample in enumerate(samples):
        count = len(sample.masks)
        boxes[n, :count] = sample.boxes_xyxy
        classes[n, :count, 0] = sample.classes
        real[n, :count] = 1
        for g, patch in enumerate(sample.masks):
            _paint_quarter(segments[n, g], patch.bits, x0=patch.window.x0, y0=patch.window.y0)
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    targets: dict[str, np.ndarray] = {"gt_bbox": boxes, "gt_class": classes, "pad_gt_mask": real, "gt_segm": segments}
    return Batch(images, targets)


def _paint_quarter(canvas: np.ndarray, bits: np.ndarray, *, x0: int, y0: int) -> None:
    """Set the cells of 4 x 4 pixels that an object at least half covers."""
    top, left = y0 % MASK_STRIDE, x0 % MASK_STRIDE
    bottom, right = (-(top + bits.shape[0])) % MASK_STRIDE, (-(left + bits.shape[1])) % MASK_STRIDE
    padded = np.pad(bits.astype(np.float32), ((top, bottom), (left, right)))
    size = (padded.shape[1] // MASK_STRIDE, padded.shape[0] // MASK_STRIDE)
    cells = cv2.resize(padded, size, interpolation=cv2.INTER_AREA) >= 0.5
    y, x = y0 // MASK_STRIDE, x0 // MASK_STRIDE
    canvas[y : y + size[1], x : x + size[0]] = cells[: canvas.shape[0] - y, : canvas.shape[1] - x]
