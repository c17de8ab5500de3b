"""Masks -> polygons whose edges follow the edges of pixels, simplified and put on the ground where that is asked for.

A polygon here is a shapely Polygon or MultiPolygon, holes kept. What leaves these functions is valid, or None where no
valid shape exists. Tracing is rayseg.geo.rings; transforms and areas have their own files; nothing here knows files.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rayseg.geo.rings import Rings, trace
from rayseg.tiling.runs import decode

PixelToGround = Callable[[np.ndarray], np.ndarray]
"""float64 (n, 2), x and y in scene pixels, to as many coordinates on the ground, east first: `Ground.to_ground`."""

_BATCH, _BATCH_BYTES = 4096, 1 << 20
"""Masks and bytes of their strings traced at once: enough to hide the cost of a call. A larger mask goes alone."""


def outlines(counts: pa.Array, windows: np.ndarray) -> np.ndarray:
    """The exact outlines of masks, in scene pixels.

    A pixel (column c, row r) is the square [c, c + 1] x [r, r + 1]. Pixels that meet at a corner only are separate pieces, and
    so are holes; filling the polygon at pixel centres gives the mask back. Time and memory follow the length of the outlines,
    not the windows.

    Args:
        counts: string (n,), the masks as COCO's compressed strings, each as large as its window.
        windows: int64 (n, 4), where they lie in the scene: x0, y0, x1, y1.

    Returns:
        object (n,): Polygon, or MultiPolygon where there are several pieces or none. Outer rings run counter-clockwise as
        numbers go (clockwise on a screen, where y points down), holes the other way.

    Raises:
        ValueError: a string is cut short or does not fill its window, or their numbers differ.
    """
    if windows.shape != (len(counts), 4):
        raise ValueError(f"{len(counts)} masks cannot lie in windows of shape {windows.shape}; (n, 4) is needed")
    out = np.empty(len(counts), dtype=object)
    read = np.cumsum(pc.binary_length(counts).to_numpy())
    group = np.arange(len(counts)) // _BATCH + read // _BATCH_BYTES
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(counts)]
    for start, stop in pairwise(edges):
        batch = windows[start:stop]
        out[start:stop] = _polygons(trace(decode(counts[start:stop], batch), batch), stop - start)
    return out


def simplify(polygons: np.ndarray, tolerance_px: float) -> np.ndarray:
    """Fewer corners, holes and pieces kept (Douglas-Peucker as GEOS does it).

    Outlines move by the tolerance, and by twice as much at worst: where rings start, GEOS simplifies again.

    Each object is simplified on its own: neighbours that share an edge may get a sliver between them, or a small overlap,
    no wider than both may move. 1 px makes straight lines of stairs.

    Args:
        polygons: valid ones, in pixels.
        tolerance_px: at least 0; 0 changes nothing.

    Returns:
        object (n,), valid, with as many pieces and holes as before. Where that cannot be had the tolerance is halved for
        this one object, at last to nothing.

    Raises:
        ValueError: the tolerance is negative or no number.
    """
    if not 0 <= tolerance_px < np.inf:
        raise ValueError(f"simplify_px is {tolerance_px}; it must be 0 (exact outlines) or a positive number of pixels")
    out = np.array(polygons, dtype=object)
    todo, tolerance = np.arange(out.size), tolerance_px
    while todo.size and tolerance > SMALLEST_TOLERANCE_PX:
        tried = shapely.simplify(polygons[todo], tolerance, preserve_topology=True)
        good = shapely.is_valid(tried) & (_topology(tried) == _topology(polygons[todo])).all(axis=1)
        out[todo[good]] = tried[good]
        todo, tolerance = todo[~good], tolerance / 2
    return out


SMALLEST_TOLERANCE_PX = 0.05
"""Below this nothing of an outline along pixel edges goes away."""


def to_ground(polygons: np.ndarray, pixel_to_ground: PixelToGround, *, longest_edge_px: float | None = None) -> np.ndarray:
    """Polygons moved from pixels to the ground, outer rings counter-clockwise.

    Edges stay straight between the corners that are moved. That is exact for an affine transform; for any other, such as one
    fitted to ground control points, `longest_edge_px` adds corners first. Coordinates stay continuous: those of a scene
    across the dateline go on beyond 180 degrees, as its transform says.

    Args:
        polygons: valid ones, in scene pixels.
        pixel_to_ground: any function of points, continuous over the scene.
        longest_edge_px: edges longer than that get corners in between.

    Returns:
        object (n,): valid Polygon or MultiPolygon, or None where the function gives no finite numbers or squeezes a shape
        to nothing.
    """
    if longest_edge_px is not None:
        if not longest_edge_px > 0:
            raise ValueError(f"longest_edge_px is {longest_edge_px}; it must be a positive number of pixels, or None")
        polygons = shapely.segmentize(polygons, longest_edge_px)
    counts = shapely.get_num_coordinates(polygons)
    points = shapely.get_coordinates(polygons)
    moved = np.array(pixel_to_ground(points), dtype=np.float64)
    unreachable = ~np.isfinite(moved).all(axis=1)
    lost = np.bincount(np.repeat(np.arange(counts.size), counts)[unreachable], minlength=counts.size) > 0
    moved[unreachable] = 0
    out = valid(shapely.set_coordinates(polygons.copy(), moved))
    out[lost] = None
    return out


def valid(polygons: np.ndarray) -> np.ndarray:
    """The same shapes, repaired where they cross themselves, outer rings counter-clockwise; None where nothing is left."""
    out = np.array(polygons, dtype=object)
    for i in np.flatnonzero(~shapely.is_valid(out) & ~shapely.is_missing(out)):
        out[i] = areal_part(shapely.make_valid(out[i], method="structure", keep_collapsed=False))
    out[shapely.is_empty(out)] = None
    return shapely.orient_polygons(out)


def areal_part(shape: shapely.Geometry) -> shapely.Geometry:
    """The polygons of any shape, without the points and lines that cutting leaves; may be empty."""
    if isinstance(shape, (shapely.Polygon, shapely.MultiPolygon)):
        return shape
    parts = [part for part in shapely.get_parts(shape) if isinstance(part, (shapely.Polygon, shapely.MultiPolygon))]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def _polygons(rings: Rings, n: int) -> np.ndarray:
    """Geometry of each of n masks."""
    out = np.full(n, shapely.MultiPolygon(), dtype=object)
    if not rings.mask.size:
        return out
    offsets = (rings.ring_starts, rings.polygon_starts)
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, rings.xy.astype(np.float64), offsets=offsets)
    polygons = shapely.orient_polygons(polygons)
    single = np.bincount(rings.mask, minlength=n)[rings.mask] == 1
    out[rings.mask[single]] = polygons[single]
    several, of = np.unique(rings.mask[~single], return_inverse=True)
    out[several] = shapely.multipolygons(polygons[~single], indices=of)
    return out


def _topology(polygons: np.ndarray) -> np.ndarray:
    """int64 (n, 2): pieces and holes of each."""
    parts, owner = shapely.get_parts(polygons, return_index=True)
    holes = np.bincount(owner, weights=shapely.get_num_interior_rings(parts), minlength=polygons.size)
    return np.stack([shapely.get_num_geometries(polygons), holes.astype(np.int64)], axis=1)
