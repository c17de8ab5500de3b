"""Area of polygons in square metres, where their coordinate reference system allows it.

    projected      the plane's own area, in the units of the CRS: what PostGIS or QGIS call the planar area
    projected,     but on a cylinder that stretches areas (Mercator, equidistant): the area on the ellipsoid
    geographic     the area on the ellipsoid
    none or other  not a number

On the ellipsoid an edge is a straight line in longitude and latitude, as GeoParquet and GeoJSON have it, not a geodesic. Seen
through a cylindrical equal-area projection, meridians and parallels are straight and areas are true; so the area of
outlines along pixel edges is exact there, and stays so for objects as wide as the Earth.
"""

from __future__ import annotations

import numpy as np
import pyproj
import shapely

PLANAR, ELLIPSOIDAL, NO_AREA = "planar", "ellipsoidal", "none"

_STRETCHING = ("mercator", "equidistant cylindrical", "equirectangular", "plate carree")
_CONFORMAL_ENOUGH = ("transverse", "oblique")
METRES_PER_DEGREE = 111_000
SPHERE = 1e-9
"""Ellipsoids less eccentric than that are spheres; the formula would divide by nothing."""

LONGEST_EDGE_DEG = 0.1
"""Slanting edges are not straight in the equal-area plane; cut to this length they are within 1e-6 of an object's area."""


def area_kind(crs: pyproj.CRS | None) -> str:
    """How areas are taken: PLANAR, ELLIPSOIDAL or NO_AREA."""
    flat = horizontal(crs)
    if flat is None:
        return NO_AREA
    if flat.is_geographic:
        return ELLIPSOIDAL if flat.ellipsoid is not None else NO_AREA
    if not flat.is_projected:
        return NO_AREA
    return ELLIPSOIDAL if _stretches(flat) else PLANAR


def areas_m2(polygons: np.ndarray, crs: pyproj.CRS | None) -> np.ndarray:
    """Area of each polygon.

    Args:
        polygons: valid ones in coordinates of the CRS, x or longitude first; longitudes may go on beyond 180 degrees.
        crs: theirs; None for pixels.

    Returns:
        float64 (n,), square metres; NaN where there is no geometry or the CRS knows no areas.
    """
    kind, flat = area_kind(crs), horizontal(crs)
    if flat is None or kind == NO_AREA:
        return np.full(len(polygons), np.nan)
    area = _on_ellipsoid(polygons, flat) if kind == ELLIPSOIDAL else shapely.area(polygons) * _square_metres(flat)
    return np.where(shapely.is_missing(polygons), np.nan, area)


def horizontal(crs: pyproj.CRS | None) -> pyproj.CRS | None:
    """The part of a CRS that says where things lie on a map: without heights, and what a bound CRS is bound from."""
    while crs is not None and (crs.is_bound or crs.is_compound):
        crs = crs.source_crs if crs.is_bound else crs.sub_crs_list[0]
    return crs


def _stretches(crs: pyproj.CRS) -> bool:
    method = (crs.coordinate_operation.method_name if crs.coordinate_operation else "").lower().replace("é", "e")
    return any(name in method for name in _STRETCHING) and not any(name in method for name in _CONFORMAL_ENOUGH)


def _square_metres(crs: pyproj.CRS) -> float:
    """Of one square of a projected CRS's units."""
    east, north = crs.axis_info[:2]
    return float(east.unit_conversion_factor * north.unit_conversion_factor)


def _on_ellipsoid(polygons: np.ndarray, crs: pyproj.CRS) -> np.ndarray:
    assert crs.ellipsoid is not None
    axes = crs.ellipsoid.semi_major_metre, crs.ellipsoid.semi_minor_metre
    unit = crs.axis_info[0].unit_conversion_factor  # metres of a projected CRS, radians of a geographic one
    if not crs.is_projected:
        parts = shapely.segmentize(polygons, np.radians(LONGEST_EDGE_DEG) / unit)
        return shapely.area(shapely.transform(parts, lambda xy: _equal_area(xy * unit, *axes)))
    # force_over: beyond the dateline longitudes go on.
    to_globe = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True, force_over=True)

    def flatten(xy: np.ndarray) -> np.ndarray:
        radians = np.stack(to_globe.transform(xy[:, 0], xy[:, 1], radians=True), axis=1)
        return _equal_area(radians, *axes)

    return shapely.area(shapely.transform(shapely.segmentize(polygons, METRES_PER_DEGREE * LONGEST_EDGE_DEG / unit), flatten))


def _equal_area(lon_lat: np.ndarray, a: float, b: float) -> np.ndarray:
    """Radians to metres in the cylindrical equal-area projection, half axes a and b (Snyder 1987, equations 3-12 and 10-14)."""
    e2 = 1 - (b / a) ** 2
    e, sine = np.sqrt(e2), np.sin(lon_lat[:, 1])
    if e < SPHERE:
        q = 2 * sine
    else:
        q = (1 - e2) * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)
    return np.stack([a * lon_lat[:, 0], a * q / 2], axis=1)
