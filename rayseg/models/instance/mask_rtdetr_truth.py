"""The true objects of a batch as the loss of Mask-RT-DETR wants them: one list for all images, no padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import paddle

from rayseg.geometry import Size

BLOCK = 64
"""Masks that are turned into floats at a time: 100 MB at 640 x 640."""


@dataclass(frozen=True)
class Truth:
    """The T objects of N images, image after image.

    Attributes:
        counts: objects of each image; sums to T.
        classes: int64 [T].
        boxes: float32 [T, 4], centre, width and height as shares of the input.
        masks: uint8 or float32 [T, h, w], 0 or 1, of any size.
    """

    counts: list[int]
    classes: paddle.Tensor
    boxes: paddle.Tensor
    masks: paddle.Tensor

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def fullest(self) -> int:
        """Objects of the image that has most."""
        return max(self.counts)

    def starts(self) -> list[int]:
        """Where each image's objects begin."""
        return [sum(self.counts[:i]) for i in range(len(self.counts))]


@dataclass(frozen=True)
class Pairs:
    """Which query answers for which object, over all images.

    Attributes:
        queries: int64 [M], image * queries per image + query.
        objects: int64 [M], index into the lists of a `Truth`.
    """

    queries: paddle.Tensor
    objects: paddle.Tensor

    @property
    def count(self) -> int:
        return int(self.queries.shape[0])

    def blocks(self) -> Iterator[Pairs]:
        """The same pairs, few at a time, for what would otherwise need a copy of every mask."""
        for start in range(0, self.count, BLOCK):
            yield Pairs(self.queries[start : start + BLOCK], self.objects[start : start + BLOCK])


def truth_of(targets: dict[str, paddle.Tensor], size: Size) -> Truth:
    """Take the padding out of targets and bring boxes into shares of the input.

    Args:
        targets: see `rayseg.models.network.InstanceNetwork.loss`; padding may stand anywhere.
        size: of the input, in pixels.
    """
    real = targets["pad_gt_mask"].numpy().reshape(targets["gt_bbox"].shape[0], -1) > 0
    rows = paddle.to_tensor(np.flatnonzero(real))
    segm = targets["gt_segm"]
    masks = segm.astype("uint8") if segm.dtype == paddle.bool else segm
    return Truth(
        counts=[int(n) for n in real.sum(axis=1)],
        classes=_rows(targets["gt_class"], rows).reshape([-1]).astype("int64"),
        boxes=_shares(_rows(targets["gt_bbox"], rows).astype("float32"), size),
        masks=_rows(masks, rows),
    )


def _rows(padded: paddle.Tensor, rows: paddle.Tensor) -> paddle.Tensor:
    """[N, G, ...] -> the real ones [T, ...]."""
    if rows.shape[0] == 0:
        return paddle.zeros([0, *padded.shape[2:]], dtype=padded.dtype)
    return paddle.gather(padded.flatten(0, 1), rows)


def _shares(boxes: paddle.Tensor, size: Size) -> paddle.Tensor:
    """xyxy in pixels [T, 4] -> centre, width, height as shares of the input [T, 4]."""
    if boxes.shape[0] == 0:
        return boxes
    boxes = boxes / paddle.to_tensor([size.width, size.height] * 2, dtype="float32")
    low, high = boxes[:, :2], boxes[:, 2:]
    return paddle.concat([(low + high) / 2, high - low], axis=-1)
