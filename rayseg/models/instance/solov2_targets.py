"""Which cells of SOLOv2's grids must find which object.

Paper: Wang et al., "SOLO", ECCV 2020 (https://arxiv.org/abs/1912.04488), section 3.3.1. Code: PaddleDetection,
Gt2Solov2Target in ppdet/data/transform/batch_operators.py, Apache-2.0.
Changed: made from the padded targets that every family gets, not by the data loader, and nothing is filled up; masks may
come at a quarter of the size. Everything here is numpy, on the host; the loss is solov2_loss.py's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayseg.geometry import Size

SIZE_RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
"""Root of the area of the boxes that belong to each grid, in pixels of the image, both ends included."""
CENTRE_SHARE = 0.2
"""Cells touched by the middle fifth of an object, around its centre of mass, are its own."""
MASK_STRIDE = 4


@dataclass(frozen=True, eq=False)
class Positives:
    """What the cells of all grids must say about one image.

    Attributes:
        cells: int64 [P], index of the cell, grids one after the other, rows from the top; one cell may occur twice.
        objects: int64 [P], which object its mask must show.
        labels: int64 [L], the class of every cell; `num_classes` is background.
    """

    cells: np.ndarray
    objects: np.ndarray
    labels: np.ndarray


def assign_cells(
    boxes_xyxy: np.ndarray, classes: np.ndarray, masks: np.ndarray, *, image: Size, grids: tuple[int, ...], num_classes: int
) -> Positives:
    """The targets of one image.

    Args:
        boxes_xyxy: float32 [G, 4], image pixels.
        classes: integer [G].
        masks: uint8 or bool [G, h, w], at the size of the image or at a quarter of it; an object without a pixel is
            passed over.
        image: size of the input, padding included.
        grids: cells along a side.
        num_classes: without background.
    """
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    sizes = np.sqrt(sides[:, 0] * sides[:, 1])
    halves = np.float32(0.5) * sides * np.float32(CENTRE_SHARE)
    centres = _centres(masks, image)
    cells: list[int] = []
    objects: list[int] = []
    labels = np.full(sum(side * side for side in grids), num_classes, dtype=np.int64)
    start = 0
    for side, (low, high) in zip(grids, SIZE_RANGES, strict=True):
        for index in np.flatnonzero((sizes >= low) & (sizes <= high) & ~np.isnan(centres[:, 0])).tolist():
            columns = _cells_of(float(centres[index, 0]), float(halves[index, 0]), image.width, side)
            rows = _cells_of(float(centres[index, 1]), float(halves[index, 1]), image.height, side)
            own = [start + row * side + column for row in rows for column in columns]
            labels[own] = classes[index]
            cells += own
            objects += [index] * len(own)
        start += side * side
    return Positives(np.asarray(cells, dtype=np.int64), np.asarray(objects, dtype=np.int64), labels)


def masks_at_quarter(masks: np.ndarray, size: Size) -> np.ndarray:
    """Masks at the size of the mask features, uint8 [G, h, w].

    A pixel is set when two or more of the four in the middle of its 4 x 4 are, which is what linear interpolation of
    bytes amounts to. Masks that have the size already are returned as they are.
    """
    if masks.shape[1:] == size.hw:
        return masks.astype(np.uint8)
    full = np.zeros((len(masks), size.height * MASK_STRIDE, size.width * MASK_STRIDE), dtype=np.uint8)
    height, width = min(masks.shape[1], full.shape[1]), min(masks.shape[2], full.shape[2])
    full[:, :height, :width] = masks[:, :height, :width]
    middle = sum(full[:, y::MASK_STRIDE, x::MASK_STRIDE] for y in (1, 2) for x in (1, 2))
    return (np.asarray(middle) >= 2).astype(np.uint8)


def _centres(masks: np.ndarray, image: Size) -> np.ndarray:
    """Centre of mass as x, y in pixel indices of the image, float64 [G, 2]; NaN for an object without a pixel."""
    columns, rows = masks.sum(axis=1, dtype=np.int64), masks.sum(axis=2, dtype=np.int64)
    total = columns.sum(axis=1)
    x = (columns * np.arange(columns.shape[1])).sum(axis=1)
    y = (rows * np.arange(rows.shape[1])).sum(axis=1)
    found = np.stack([x, y], axis=1) / np.where(total > 0, total, np.nan)[:, None]
    if masks.shape[1:] == image.hw:
        return found
    return (found + 0.5) * MASK_STRIDE - 0.5


def _cells_of(centre: float, half: float, length: int, side: int) -> range:
    """Cells along one axis that an object owns: at most the one of its centre and one on either side."""

    def cell(position: float) -> int:
        return int((position / length) // (1.0 / side))

    own = cell(centre)
    return range(max(0, own - 1, cell(centre - half)), min(side - 1, own + 1, cell(centre + half)) + 1)
