"""Polygons -> bitmaps, by the rules of the COCO tools. Masks themselves are the business of rayseg.rle.

A polygon is a flat list x0, y0, x1, y1, ... of at least three corners, closed by itself; an object has one or more, and
covers a pixel that any of them covers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from rayseg.geometry import Size

Polygons = Sequence[Sequence[float] | np.ndarray]
NUMBERS_OF_A_TRIANGLE = 6
SMALLEST_SIDE_PX = 0.1
"""A box narrower than that is rasterised as if it were that wide, as the original does; it keeps the zoom finite."""


def rasterize(polygons: Polygons, size: Size) -> np.ndarray:
    """One object as a bitmap, bool (H, W).

    Args:
        polygons: in pixels of the bitmap; may leave it. One of fewer than three corners covers nothing.
        size: of the bitmap.
    """
    # The tools would read a flat list of four numbers as a box.
    flat = [np.asarray(p, dtype=np.float64).ravel().tolist() for p in polygons]
    flat = [p for p in flat if len(p) >= NUMBERS_OF_A_TRIANGLE]
    if not flat:
        return np.zeros(size.hw, dtype=bool)
    found = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *size.hw)))
    return np.ascontiguousarray(found).astype(bool)


def rasterize_in_box(polygons: Polygons, box: Sequence[float] | np.ndarray, size: Size) -> np.ndarray:
    """The part of an object inside a box, the box stretched to a bitmap, bool (H, W).

    The corners are moved first and rasterised then, so that nothing is lost to a bitmap in between.

    Args:
        polygons: in the unit of `box`; left as they are.
        box: xyxy.
        size: of the bitmap the box is stretched to.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    zoom = np.array([size.width / max(x1 - x0, SMALLEST_SIDE_PX), size.height / max(y1 - y0, SMALLEST_SIDE_PX)])
    corners = (np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in polygons)
    return rasterize([((p - (x0, y0)) * zoom).ravel() for p in corners], size)
