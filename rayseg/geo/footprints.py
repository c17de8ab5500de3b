"""Where a scene lies, and which parts of it nobody saw, as polygons on the ground; and what else its objects need to be placed.

Polygons are given as WKB, in the scene's reference system or in its pixels where it has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyproj
import shapely

from rayseg.geo.ground import Ground
from rayseg.geo.shapes import PixelToGround, areal_part, to_ground, valid
from rayseg.geometry import Size

# Straight lines in a scene bend on the ground where control points place it; corners this near keep them in place.
_BENT_EDGE_PX = 16.0
_FOOTPRINT_EDGE_PX = 256.0


@dataclass(frozen=True)
class Placing:
    """How shapes in pixels become shapes on the ground; nothing of it where results stay in pixels.

    Attributes:
        crs: of the shapes.
        pixel_to_ground: from scene pixels to its coordinates.
        longest_edge_px: edges longer than that get corners in between.
    """

    crs: pyproj.CRS | None = None
    pixel_to_ground: PixelToGround | None = None
    longest_edge_px: float | None = None

    @classmethod
    def of(cls, ground: Ground) -> Placing:
        """What a scene's ground says."""
        if ground.in_pixels or ground.crs_wkt is None:
            return cls()
        return cls(_crs(ground.crs_wkt), ground.to_ground, _BENT_EDGE_PX if ground.gcps else None)

    @property
    def name(self) -> str | None:
        """Authority and code of the reference system, such as EPSG:32633; else its WKT; None for pixels."""
        if self.crs is None:
            return None
        return _name(self.crs)

    def wkb(self, shape: shapely.Geometry) -> bytes | None:
        """A shape in pixels, placed; None when nothing valid is left of it."""
        one = np.array([shape], dtype=object)
        if self.pixel_to_ground is None:
            placed = valid(one)
        else:
            edge = self.longest_edge_px and _FOOTPRINT_EDGE_PX
            placed = to_ground(one, self.pixel_to_ground, longest_edge_px=edge)
        return None if placed[0] is None else bytes(shapely.to_wkb(placed[0], byte_order=1))


def footprint(ground: Ground, size: Size) -> bytes | None:
    """The outline of a scene."""
    return Placing.of(ground).wkb(shapely.box(0, 0, size.width, size.height))


def unseen(ground: Ground, lost: np.ndarray, seen: np.ndarray) -> bytes | None:
    """What lies in lost windows and in none that were seen.

    Args:
        lost, seen: int64 (n, 4), x0, y0, x1, y1 in pixels.

    Returns:
        WKB, or None where nothing was lost.
    """
    if not len(lost):
        return None
    holes = shapely.union_all(_boxes(lost))
    near = shapely.STRtree(boxes := _boxes(seen)).query(holes, predicate="intersects") if len(seen) else np.empty(0, dtype=int)
    if len(near):
        holes = areal_part(shapely.difference(holes, shapely.union_all(boxes[near])))
    return None if shapely.is_empty(holes) else Placing.of(ground).wkb(holes)


def geo_columns(names: Mapping[str, str], ground: Ground) -> bytes:
    """GeoParquet's metadata for a small table whose WKB columns lie on one ground; the first one named is the primary one.

    Args:
        names: column -> geometry type, such as "Polygon".
    """
    crs = Placing.of(ground).crs
    stated = None if crs is None else crs.to_json_dict()
    columns = {
        name: {"encoding": "WKB", "geometry_types": kinds.split(","), "crs": stated, "edges": "planar"}
        for name, kinds in names.items()
    }
    return json.dumps({"version": "1.1.0", "primary_column": next(iter(names)), "columns": columns}).encode()


def _boxes(windows: np.ndarray) -> np.ndarray:
    return np.asarray(shapely.box(*windows.astype(np.float64).T))


@lru_cache(maxsize=64)
def _crs(wkt: str) -> pyproj.CRS:
    return pyproj.CRS.from_wkt(wkt)


@lru_cache(maxsize=64)
def _name(crs: pyproj.CRS) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.to_wkt())
