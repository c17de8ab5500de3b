"""Augmented images -> the arrays a network's loss takes, as models/network.py describes them.

This is where masks leave their windows: memory for images x objects x pixels is needed for one batch at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

from rayseg.datasets.sample import IGNORE, Patch
from rayseg.geometry import Size
from rayseg.models.preprocess import Preprocess
from rayseg.predict.preprocess import Normalize
from rayseg.training.data.arrays import Arrays, unpack_masks


class Batch(NamedTuple):
    """One step's arrays, N images of H x W with up to G objects each; G is at least 1.

    Attributes:
        inputs: instance: `image` float32 [N, 3, H, W], `im_shape` and `scale_factor` float32 [N, 2]. Semantic: the image
            alone.
        targets: instance: `gt_bbox` float32 [N, G, 4], `gt_class` int64 [N, G, 1], `pad_gt_mask` float32 [N, G, 1],
            `gt_segm` uint8 [N, G, H, W] or a quarter of H and W. Semantic: int64 [N, H, W].
    """

    inputs: np.ndarray | dict[str, np.ndarray]
    targets: np.ndarray | dict[str, np.ndarray]


@dataclass(frozen=True)
class Collate:
    """Stacks images of several sizes: smaller ones are padded at the right and the bottom, with zeros after normalising."""

    task: Literal["instance", "semantic"]
    preprocess: Preprocess
    """How values are normalised, and what the size of a batch is a multiple of."""
    mask_stride: int = 1
    """1, or 4 for masks at a quarter of the image's size."""

    def __call__(self, images: Sequence[Arrays]) -> Batch:
        """One batch of what `Augmenter` made, in this order."""
        size = self._size([Size(*arrays["image"].shape[:2]) for arrays in images])
        stacked = self._stack([arrays["image"] for arrays in images], size)
        if self.task == "semantic":
            return Batch(stacked, _stack_labels([arrays["labels"] for arrays in images], size))
        inputs = {
            "image": stacked,
            "im_shape": np.asarray([arrays["image"].shape[:2] for arrays in images], dtype=np.float32),
            "scale_factor": np.stack([arrays["scale_factor"] for arrays in images]),
        }
        return Batch(inputs, _stack_objects(images, size, self.mask_stride))

    def _size(self, sizes: Sequence[Size]) -> Size:
        stride = max(self.preprocess.pad_stride or 1, self.mask_stride)
        height, width = max(size.height for size in sizes), max(size.width for size in sizes)
        return Size(-(-height // stride) * stride, -(-width // stride) * stride)

    def _stack(self, images: Sequence[np.ndarray], size: Size) -> np.ndarray:
        normalize = Normalize(self.preprocess.mean, self.preprocess.std)
        out = np.zeros((len(images), 3, *size.hw), dtype=np.float32)
        for planes, image in zip(out, images, strict=True):
            height, width = image.shape[:2]
            planes[:, :height, :width] = normalize.apply(image).transpose(2, 0, 1)
        return out


def _stack_labels(maps: Sequence[np.ndarray], size: Size) -> np.ndarray:
    out = np.full((len(maps), *size.hw), IGNORE, dtype=np.int64)
    for canvas, labels in zip(out, maps, strict=True):
        canvas[: labels.shape[0], : labels.shape[1]] = labels
    return out


def _stack_objects(images: Sequence[Arrays], size: Size, stride: int) -> dict[str, np.ndarray]:
    shape = (len(images), max(1, *(len(arrays["classes"]) for arrays in images)))
    boxes = np.zeros((*shape, 4), dtype=np.float32)
    classes = np.zeros((*shape, 1), dtype=np.int64)
    real = np.zeros((*shape, 1), dtype=np.float32)
    masks = np.zeros((*shape, size.height // stride, size.width // stride), dtype=np.uint8)
    for n, arrays in enumerate(images):
        count = len(arrays["classes"])
        boxes[n, :count] = arrays["windows"].reshape(-1, 4)
        classes[n, :count, 0] = arrays["classes"]
        real[n, :count] = 1
        for canvas, patch in zip(masks[n], unpack_masks(arrays), strict=False):
            _paint(canvas, patch, stride)
    return {"gt_bbox": boxes, "gt_class": classes, "pad_gt_mask": real, "gt_segm": masks}


def _paint(canvas: np.ndarray, patch: Patch, stride: int) -> None:
    """Set the cells of stride x stride pixels that an object at least half covers."""
    bits, x0, y0 = patch.bits, patch.window.x0, patch.window.y0
    if stride > 1:
        top, left = y0 % stride, x0 % stride
        bottom, right = (-(top + bits.shape[0])) % stride, (-(left + bits.shape[1])) % stride
        padded = np.pad(bits.astype(np.float32), ((top, bottom), (left, right)))
        wh = (padded.shape[1] // stride, padded.shape[0] // stride)
        bits, x0, y0 = cv2.resize(padded, wh, interpolation=cv2.INTER_AREA) >= 0.5, x0 // stride, y0 // stride
    canvas[y0 : y0 + bits.shape[0], x0 : x0 + bits.shape[1]] = bits
