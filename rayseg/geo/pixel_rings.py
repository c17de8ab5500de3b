"""Shapes as they lie in files, back to the rings of their outlines in scene pixels: for drawing.

The way there is `shapes.py`'s and `footprints.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from rayseg.geo.ground import Ground

Rings = list[np.ndarray]
"""float64 (n, 2) each, x and y; outer rings and holes, so that a pixel inside an odd number of them is inside the shape."""


def rings_in_pixels(wkb: Sequence[bytes | None] | np.ndarray, ground: Ground) -> list[Rings]:
    """The rings of some polygons.

    Args:
        wkb: polygons in the reference system of `ground`, or in pixels where that is in pixels.

    Returns:
        For each polygon its rings; none where it is null, or where the ground does not lead back to pixels.
    """
    shapes = shapely.from_wkb(np.asarray(wkb, dtype=object))
    out: list[Rings] = [[] for _ in range(len(shapes))]
    parts, of_shape = shapely.get_parts(shapes, return_index=True)
    rings, of_part = shapely.get_rings(parts, return_index=True)
    points, of_ring = shapely.get_coordinates(rings, return_index=True)
    if not len(points):
        return out
    if not ground.in_pixels:
        points = ground.to_pixels(points)
    for ring, found in enumerate(np.split(points, np.flatnonzero(np.diff(of_ring)) + 1)):
        if np.isfinite(found).all():
            out[of_shape[of_part[ring]]].append(found)
    return out
