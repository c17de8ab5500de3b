"""What the mask heads of the R-CNN networks learn from: the object inside a region, stretched to the size of the head.

Paper: He et al., "Mask R-CNN", ICCV 2017, section 3. Code: PaddleDetection,
ppdet/modeling/proposal_generator/target.py, Apache-2.0.
Changed: objects may be bitmaps as well as polygons. A cell of a bitmap's target is 1 where the object covers at least
half of it, measured exactly, whatever the sizes of bitmap, region and target. All of this runs on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayseg.geometry import Size
from rayseg.polygons import Polygons, rasterize_in_box

COVERED = 0.5


def from_polygons(objects: Sequence[Polygons], boxes: np.ndarray, object_of: np.ndarray, *, resolution: int) -> np.ndarray:
    """Targets of K regions, float32 [K, resolution, resolution] of {0, 1}.

    Args:
        objects: polygons of each of G objects, in the unit of `boxes`.
        boxes: float32 [K, 4], xyxy.
        object_of: integer [K], the object of each region.
    """
    out = np.zeros((len(boxes), resolution, resolution), dtype=np.float32)
    size = Size(height=resolution, width=resolution)
    for k, (box, which) in enumerate(zip(boxes, object_of.tolist(), strict=True)):
        out[k] = rasterize_in_box(objects[which], box, size)
    return out


def from_bitmaps(
    bitmaps: np.ndarray, boxes: np.ndarray, object_of: np.ndarray, *, image_size: Size, resolution: int
) -> np.ndarray:
    """Targets of K regions, float32 [K, resolution, resolution] of {0, 1}.

    Args:
        bitmaps: [G, h, w], 0 or 1, of any type; the whole image at any scale.
        boxes: float32 [K, 4], xyxy in pixels of the image; what lies outside is empty.
        object_of: integer [K], the object of each region.
        image_size: that `boxes` refer to.
    """
    out = np.zeros((len(boxes), resolution, resolution), dtype=np.float32)
    height, width = bitmaps.shape[-2:]
    zoom = np.array([width / image_size.width, height / image_size.height] * 2)
    scaled = boxes.astype(np.float64) * zoom
    for which in np.unique(object_of).tolist():
        rows = np.flatnonzero(object_of == which)
        out[rows] = coverage(bitmaps[which], scaled[rows], resolution=resolution) >= COVERED
    return out


def coverage(bitmap: np.ndarray, boxes: np.ndarray, *, resolution: int) -> np.ndarray:
    """How much of each cell of K boxes an object covers, float64 [K, resolution, resolution] in [0, 1].

    The area left of and above a point is bilinear inside a pixel, so a summed table gives it exactly at any point, and
    four points give a cell: Crow, "Summed-area tables for texture mapping", SIGGRAPH 1984.

    Args:
        bitmap: [h, w], 0 or 1.
        boxes: float64 [K, 4], xyxy in pixels of the bitmap; one without area covers nothing.
    """
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    if not rows.size:
        return np.zeros((len(boxes), resolution, resolution))
    top, left = rows[0], columns[0]
    object_only = bitmap[top : rows[-1] + 1, left : columns[-1] + 1] != 0
    table = np.pad(object_only.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    steps = np.linspace(0.0, 1.0, resolution + 1)
    x = boxes[:, 0:1] + (boxes[:, 2:3] - boxes[:, 0:1]) * steps - left
    y = boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps - top
    row, down = _split(y, object_only.shape[0])
    column, right = _split(x, object_only.shape[1])
    above = table[row] * (1 - down)[..., None] + table[row + 1] * down[..., None]
    before = np.take_along_axis(above, column[:, None], axis=2)
    after = np.take_along_axis(above, column[:, None] + 1, axis=2)
    area = before * (1 - right)[:, None] + after * right[:, None]
    covered = np.diff(np.diff(area, axis=1), axis=2)
    cell = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / resolution**2
    return np.divide(covered, cell[:, None, None], out=np.zeros_like(covered), where=cell[:, None, None] > 0)


def _split(position: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel and place inside it, for positions cut to [0, count]."""
    inside = position.clip(0, count)
    pixel = np.minimum(np.floor(inside), count - 1).astype(np.int64)
    return pixel, inside - pixel
