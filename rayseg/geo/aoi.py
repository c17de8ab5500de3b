"""`--aoi`: polygons that say which part of a scene is wanted, from a file's reference system into a scene's pixels.

`read_aoi` reads them once; `Aoi.on` carries them over to one scene, edges bent as the reference systems ask for, also across
the date line and around the poles; the result answers for windows. Files are read by `aoi_files.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import rasterio
import shapely
from pyproj import CRS, Transformer
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from rayseg.errors import ConfigError
from rayseg.geo.aoi_files import read_polygons
from rayseg.geo.scene import Scene
from rayseg.geometry import Window

_STRAIGHT_PX = 0.1  # an edge is cut until its middle lies this close to where it belongs
_MOST_CUTS = 12
_HAIR_PX = 1e-6
_TURN_DEG = 360.0
_LON_LAT = "OGC:CRS84"
_MARGIN = 0.05  # of the scene's extent, around what polygons are cut to before they are carried over


@dataclass(frozen=True)
class Aoi:
    """Polygons in a reference system.

    Attributes:
        wkb: one polygon or several as one valid geometry.
        crs_wkt: their reference system; None for pixels of the scene.
        uri: where they were read.
    """

    wkb: bytes
    crs_wkt: str | None
    uri: str

    def on(self, scene: Scene) -> SceneAoi:
        """The polygons in a scene's pixels.

        Raises:
            ConfigError: only one of the two has a reference system.
        """
        if self.crs_wkt is None:
            return SceneAoi(self.wkb)
        if scene.ground.crs_wkt is None or scene.ground.in_pixels:
            raise ConfigError(
                f"--aoi {self.uri} is in {CRS.from_wkt(self.crs_wkt).name}, but {scene.uri} has no reference system, so "
                "they cannot be laid over each other. Give the scene one (gdal_edit.py -a_srs), or the polygons in its pixels, "
                'with "crs": null'
            )
        theirs, ours = _crs(self.crs_wkt), _crs(scene.ground.crs_wkt)
        return SceneAoi(shapely.to_wkb(_carry_over(shapely.from_wkb(self.wkb), theirs, ours, scene)))


@dataclass(frozen=True)
class SceneAoi:
    """What is wanted of one scene. A pixel is wanted when its centre lies inside.

    Attributes:
        wkb: polygons in pixels, x right and y down from the scene's upper left corner.
    """

    wkb: bytes

    def mask(self, window: Window) -> np.ndarray:
        """Which pixels of a window are wanted: bool (H, W)."""
        out = np.zeros((window.height, window.width), dtype=bool)
        piece = None if window.empty else _polygons(shapely.intersection(self._geometry, _box(window)))
        if piece is not None and not piece.is_empty:
            shift = rasterio.Affine.translation(window.x0, window.y0)
            rasterize([(piece, 1)], out=(found := out.astype(np.uint8)), transform=shift, all_touched=False)
            out = found.astype(bool)
        return out

    def wanted(self, windows: Sequence[Window]) -> np.ndarray:
        """Which windows hold at least one wanted pixel: bool (N,), the same as `mask(window).any()` of each.

        Only those that a polygon's edge runs through cost more than a look at their corners.
        """
        boxes = np.array([_box(w) for w in windows], dtype=object)
        shapely.prepare(self._geometry)
        out = shapely.covers(self._geometry, boxes) & np.array([not w.empty for w in windows], dtype=bool)
        for i in np.flatnonzero(shapely.intersects(self._geometry, boxes) & ~out):
            out[i] = self.mask(windows[i]).any()
        return out

    @property
    def empty(self) -> bool:
        """True when the polygons miss the scene."""
        return bool(self._geometry.is_empty)

    @cached_property
    def _geometry(self) -> BaseGeometry:
        return shapely.from_wkb(self.wkb)

    def __getstate__(self) -> dict[str, bytes]:
        return {"wkb": self.wkb}


def read_aoi(uri: str) -> Aoi:
    """Read polygons.

    Args:
        uri: local GeoJSON, GeoPackage (its one layer) or GeoParquet file.

    Raises:
        ConfigError: it cannot be read, or holds anything but polygons, or none.
    """
    geometries, crs = read_polygons(uri)
    whole = _polygons(shapely.union_all(shapely.make_valid(np.array(geometries, dtype=object))))
    if whole.is_empty:
        raise ConfigError(f"--aoi {uri}: its polygons have no area")
    return Aoi(shapely.to_wkb(whole), None if crs is None else crs.to_wkt(), uri)


def _carry_over(geometry: BaseGeometry, theirs: CRS, ours: CRS, scene: Scene) -> BaseGeometry:
    transformer = _way(theirs, ours)
    middle = float(scene.ground.to_ground(np.array(scene.size.wh) / 2)[0])
    period = _period(scene, ours)
    pieces = []
    for piece, shift in _near(geometry, theirs, ours, scene):

        def to_pixels(xy: np.ndarray, shift: float = shift) -> np.ndarray:
            x, y = transformer.transform(xy[:, 0] + shift, xy[:, 1])
            return scene.ground.to_pixels(np.stack([_wrap(x, middle, period), y], axis=-1))

        pieces.append(_bend(piece, to_pixels))
    whole = _closed(pieces)
    return _polygons(shapely.intersection(whole, shapely.box(0, 0, scene.size.width, scene.size.height)))


def _near(geometry: BaseGeometry, theirs: CRS, ours: CRS, scene: Scene) -> list[tuple[BaseGeometry, float]]:
    """What lies about the scene, and by how much it goes to the right to lie there: whole turns of longitude, or 0.

    Far from a scene its projection may fold or end, so nothing from there is carried over.
    """
    back = _way(ours, theirs)
    found = np.stack(back.transform(*_samples(scene).T), axis=-1)
    found = found[np.isfinite(found).all(axis=1)]
    if not len(found):
        return []
    if not theirs.is_geographic:
        piece = shapely.intersection(geometry, _roomy(found))
        return [] if piece.is_empty else [(piece, 0.0)]
    middle = float(found[len(found) // 2, 0])
    found[:, 0] = _wrap(found[:, 0], middle, _TURN_DEG)
    x0, y0, x1, y1 = _roomy(found).bounds
    north, south = (_holds(scene, theirs, ours, latitude) for latitude in (90.0, -90.0))
    if north or south:
        x0, x1 = -np.inf, np.inf
        y0, y1 = (-90.0 if south else y0), (90.0 if north else y1)
    half = _TURN_DEG / 2 - 1e-9  # no point on the seam itself, whose side would be up to rounding
    x0, x1 = max(x0, middle - half), min(x1, middle + half)
    pieces = [
        (shapely.intersection(geometry, shapely.box(x0 - s, max(y0, -90.0), x1 - s, min(y1, 90.0))), s)
        for s in (-_TURN_DEG, 0.0, _TURN_DEG)
    ]
    return [(piece, shift) for piece, shift in pieces if not piece.is_empty]


@lru_cache(maxsize=64)
def _way(source: CRS, target: CRS) -> Transformer:
    """Takes tens of milliseconds to make, and many scenes share one."""
    return Transformer.from_crs(source, target, always_xy=True)


@lru_cache(maxsize=64)
def _crs(wkt: str) -> CRS:
    return CRS.from_wkt(wkt)


def _samples(scene: Scene) -> np.ndarray:
    """Points on the ground, all over the scene and on its edges: (N, 2), the middle one in the middle."""
    steps = np.linspace(0, 1, 33)
    x, y = np.meshgrid(steps * scene.size.width, steps * scene.size.height)
    return scene.ground.to_ground(np.stack([x.ravel(), y.ravel()], axis=-1))


def _roomy(xy: np.ndarray) -> BaseGeometry:
    """The box around points, and a margin."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    room = _MARGIN * (high - low) + 1e-9
    return shapely.box(*(low - room), *(high + room))


def _holds(scene: Scene, theirs: CRS, ours: CRS, latitude: float) -> bool:
    """Whether a pole lies in a scene whose longitudes therefore go all around."""
    if ours.is_geographic:
        return False
    pole = np.array(_way(theirs, ours).transform(0.0, latitude))
    if not np.isfinite(pole).all():
        return False
    x, y = scene.ground.to_pixels(pole)
    return bool(0 <= x <= scene.size.width and 0 <= y <= scene.size.height)


def _period(scene: Scene, ours: CRS) -> float:
    """Width of the world in the scene's system, if it is one where longitudes run evenly along x; else infinite."""
    if ours.is_geographic:
        return _TURN_DEG
    middle = scene.ground.to_ground(np.array(scene.size.wh) / 2)
    lon_lat = CRS.from_user_input(_LON_LAT)
    latitude = _way(ours, lon_lat).transform(*middle)[1]
    longitudes = np.arange(-175.0, 180.0, 10.0)
    x, y = _way(lon_lat, ours).transform(longitudes, np.full_like(longitudes, latitude))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.inf
    steps = np.diff(x)
    step = float(np.median(steps))
    even = np.abs(steps - step) < 1e-6 * abs(step)
    return 36 * abs(step) if (~even).sum() <= 1 and np.ptp(y) < 1e-6 * abs(step) else np.inf


def _wrap(x: np.ndarray, middle: float, period: float) -> np.ndarray:
    """The same places, whole turns away, within half a turn of the middle."""
    return x if np.isinf(period) else x + period * np.rint((middle - x) / period)


def _closed(pieces: list[BaseGeometry]) -> BaseGeometry:
    """Pieces joined. Sides they had in common, as on the date line, may have come apart by a rounding error."""
    parts = np.array([part for piece in pieces for part in shapely.get_parts(piece)], dtype=object)
    if len(parts) < 2:
        return parts[0] if len(parts) else shapely.MultiPolygon()
    return shapely.union_all(shapely.buffer(parts, _HAIR_PX, join_style="mitre"))


def _bend(geometry: BaseGeometry, to_pixels: Callable[[np.ndarray], np.ndarray]) -> BaseGeometry:
    """Carry polygons over, with points added to their edges where straight ones would be off."""
    x0, y0, x1, y1 = geometry.bounds
    fine = shapely.segmentize(geometry, max(x1 - x0, y1 - y0) / 16)  # an edge bent like an S has its middle in place
    out = []
    for polygon in shapely.get_parts(_polygons(fine)):
        rings = [_bend_ring(shapely.get_coordinates(ring), to_pixels) for ring in (polygon.exterior, *polygon.interiors)]
        if len(rings[0]) >= 4:
            out.append(shapely.make_valid(shapely.Polygon(rings[0], [ring for ring in rings[1:] if len(ring) >= 4])))
    return shapely.union_all(np.array(out, dtype=object)) if out else shapely.MultiPolygon()


def _bend_ring(xy: np.ndarray, to_pixels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    placed = to_pixels(xy)
    for _ in range(_MOST_CUTS):
        middle = (xy[:-1] + xy[1:]) / 2
        there = to_pixels(middle)
        with np.errstate(invalid="ignore"):
            off = np.hypot(*(there - (placed[:-1] + placed[1:]) / 2).T)
        ends = np.isfinite(placed).all(axis=1)
        cut = (off > _STRAIGHT_PX) | (ends[:-1] != ends[1:])
        if not cut.any():
            break
        at = np.flatnonzero(cut) + 1
        xy, placed = np.insert(xy, at, middle[cut], axis=0), np.insert(placed, at, there[cut], axis=0)
    placed = placed[np.isfinite(placed).all(axis=1)]
    return placed if len(placed) == 0 else np.concatenate([placed, placed[:1]])


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """The parts of a geometry that have an area."""
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(np.array(parts, dtype=object)) if parts else shapely.MultiPolygon()


def _box(window: Window) -> BaseGeometry:
    return shapely.box(window.x0, window.y0, window.x1, window.y1)
