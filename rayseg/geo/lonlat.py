"""Shapes in any CRS as WGS 84 longitude and latitude by the rules of GeoJSON (RFC 7946): cut at the dateline, each part
within -180 to 180 degrees, outer rings counter-clockwise.

A shape round a pole gets an edge along the dateline to the pole and back. Writing files is rayseg.geo.export.
"""

from __future__ import annotations

import math

import numpy as np
import pyproj
import shapely
from shapely import affinity

from rayseg.geo.areas import horizontal
from rayseg.geo.shapes import areal_part, valid

LONGEST_EDGE_M = 1000.0
"""Edges of projected shapes get corners in between: what is straight on the map is not in longitude and latitude. At this
length it is off by 4 cm at 60 degrees north."""


def to_lon_lat(polygons: np.ndarray, crs: pyproj.CRS, *, decimals: int | None = None) -> np.ndarray:
    """The same shapes in degrees.

    Args:
        polygons: valid ones or None, in coordinates of the CRS, east first; longitudes may go on beyond 180.
        crs: theirs.
        decimals: to round to; a shape that rounding would destroy keeps all digits.

    Returns:
        object (n,): valid Polygon or MultiPolygon, or None where there is no shape or no way to WGS 84.
    """
    flat = horizontal(crs)
    if flat is not None and flat.is_projected:
        unit = flat.axis_info[0].unit_conversion_factor
        polygons = shapely.segmentize(polygons, LONGEST_EDGE_M / unit)
    out = np.array(polygons, dtype=object)
    points, owner = shapely.get_coordinates(out, return_index=True)
    lon, lat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(points[:, 0], points[:, 1])
    lost = np.bincount(owner[~(np.isfinite(lon) & np.isfinite(lat))], minlength=out.size) > 0
    lon, lat = np.nan_to_num(lon, posinf=0, neginf=0), np.nan_to_num(lat, posinf=0, neginf=0)
    if flat is not None and flat.is_geographic:
        meant = np.degrees(points[:, 0] * flat.axis_info[0].unit_conversion_factor)
        lon = lon + 360 * np.round((meant - lon) / 360)
    out = shapely.set_coordinates(out, np.stack([lon, lat], axis=1))
    out[lost] = None
    if flat is not None and not flat.is_geographic:
        bounds = shapely.bounds(out)
        for i in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180):
            out[i] = _unwrapped(out[i])
    out = valid(out)
    bounds = shapely.bounds(out)
    outside = (bounds[:, 0] < -180) | (bounds[:, 2] > 180) | (bounds[:, 1] < -90) | (bounds[:, 3] > 90)
    for i in np.flatnonzero(outside):
        out[i] = _cut_at_dateline(out[i])
    return valid(out) if decimals is None else _rounded(valid(out), decimals)


def _unwrapped(shape: shapely.Geometry) -> shapely.Geometry:
    """Longitudes made continuous along each ring; they may leave -180 to 180 then."""
    parts = []
    for polygon in shapely.get_parts(shape):
        around = shapely.union_all(valid(np.array([_unwrapped_ring(polygon.exterior)], dtype=object)))
        holes = [_unwrapped_ring(ring) for ring in polygon.interiors]
        turns = [affinity.translate(hole, 360 * k) for hole in holes for k in (-2, -1, 0, 1, 2)]
        parts.append(shapely.difference(around, shapely.union_all(valid(np.array(turns, dtype=object)))) if turns else around)
    return areal_part(shapely.union_all(parts))


def _unwrapped_ring(ring: shapely.LinearRing) -> shapely.Polygon:
    """What a ring encloses; one that goes once round the Earth encloses the pole of its hemisphere."""
    points = shapely.get_coordinates(ring)
    points[:, 0] = np.unwrap(points[:, 0], period=360)
    if abs(points[-1, 0] - points[0, 0]) > 180:
        pole = math.copysign(90, points[:, 1].mean())
        points = np.concatenate([points, [[points[-1, 0], pole], [points[0, 0], pole]]])
    points[:, 0] -= 360 * np.round(points[:, 0].mean() / 360)
    return shapely.Polygon(points)


def _cut_at_dateline(shape: shapely.Geometry) -> shapely.Geometry:
    west, _, east, _ = shape.bounds
    parts = []
    for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360)):
        part = areal_part(shapely.intersection(shape, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)))
        parts.append(shapely.transform(part, lambda xy, turn=turn: np.clip(xy - [360 * turn, 0], [-180, -90], [180, 90])))
    return areal_part(shapely.union_all(parts))


def _rounded(polygons: np.ndarray, decimals: int) -> np.ndarray:
    short = valid(shapely.transform(polygons, lambda xy: np.round(xy, decimals)))
    return np.where(shapely.is_missing(short), polygons, short)
