"""Adjoining rasters of one reference system and one grid as one scene, so that objects across their edges are found whole.

Nothing is resampled: files that would need it are refused, each with its reason. Reading across files is in `raster.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from rayseg.errors import ConfigError
from rayseg.geo.ground import Ground
from rayseg.geo.raster import open_scene
from rayseg.geo.scene import Part, Scene
from rayseg.geometry import Size, Window

GRID_TOLERANCE_PX = 0.05
"""How far a corner of a file may lie off the common grid."""

_REASONS_SHOWN = 10


def open_mosaic(uris: Sequence[str], *, name: str, storage: Mapping[str, Any] | None = None) -> Scene:
    """Open rasters and join them; see `join`.

    Raises:
        SourceError, UnsupportedImage, CorruptImage, ImageTooLarge: as for `open_scene`.
        ConfigError: as for `join`.
    """
    return join([open_scene(uri, storage=storage) for uri in uris], name=name)


def join(scenes: Sequence[Scene], *, name: str) -> Scene:
    """One scene of several.

    They must have one reference system (or all none), the same bands, and a common grid of pixels; and they must touch or
    overlap, if only at a corner. Where they overlap, the file whose name comes first and has a valid pixel counts. What no
    file covers is not valid.

    Args:
        scenes: of one file each, in any order.
        name: what the scene is called in the tables.

    Raises:
        ConfigError: at least one does not fit; the message says which and why.
    """
    if not scenes:
        raise ConfigError(f"--mosaic {name}: there is no raster to join")
    ordered = sorted(scenes, key=lambda scene: scene.uri)
    first = ordered[0]
    if len(ordered) == 1:
        return replace(first, uri=name)
    reasons = [f"{s.uri}: {why}" for s in ordered if (why := _misfit(first, s))]
    _refuse(name, reasons, first)
    windows = [_window(first.ground, s) for s in ordered]
    reasons = [f"{ordered[i].uri}: {why}" for i, why in _badly_placed(windows, ordered).items()]
    _refuse(name, reasons, first)
    x0, y0 = min(w.x0 for w in windows), min(w.y0 for w in windows)
    size = Size(max(w.y1 for w in windows) - y0, max(w.x1 for w in windows) - x0)
    parts = tuple(Part(s.uri, w.shift(-x0, -y0), s.version) for s, w in zip(ordered, windows, strict=True))
    masked = any(s.explicit_mask for s in ordered)
    return replace(first, uri=name, size=size, ground=first.ground.shift(x0, y0), parts=parts, explicit_mask=masked)


def _refuse(name: str, reasons: list[str], first: Scene) -> None:
    if reasons:
        more = f"\n  and {len(reasons) - _REASONS_SHOWN} more" if len(reasons) > _REASONS_SHOWN else ""
        lines = "".join(f"\n  {reason}" for reason in reasons[:_REASONS_SHOWN])
        raise ConfigError(
            f"--mosaic {name}: {len(reasons)} of the rasters do not go with {first.uri}. Leave them out, bring them to one grid "
            f"with gdalwarp, or segment them without --mosaic:{lines}{more}"
        )


def _misfit(first: Scene, scene: Scene) -> str | None:
    """Why a raster cannot be laid beside another, or None."""
    if len(scene.parts) != 1:
        return "is a mosaic itself"
    if scene.ground.gcps:
        return "is placed by ground control points, which give no grid"
    if scene.ground.affine == Ground().affine:
        return "has no transform that says where it lies"
    if not _same_crs(first.ground.crs_wkt, scene.ground.crs_wkt):
        return f"its reference system is {_crs_name(scene)}, not {_crs_name(first)}"
    ours, theirs = ([(b.dtype, b.bits, b.colour, b.name) for b in s.bands] for s in (first, scene))
    if ours != theirs:
        return f"its bands are {_bands(scene)}, not {_bands(first)}"
    corners = _corners(scene.size)
    placed = first.ground.to_pixels(scene.ground.to_ground(corners))
    if np.abs(placed - placed[0] - corners).max() > GRID_TOLERANCE_PX:
        return f"its pixels differ in size or direction: {_pixel(scene)}, not {_pixel(first)}"
    off = placed[0] - np.rint(placed[0])
    if np.abs(off).max() > GRID_TOLERANCE_PX:
        return f"its grid is shifted by {off[0]:+.3f}, {off[1]:+.3f} pixels"
    return None


def _badly_placed(windows: list[Window], scenes: list[Scene]) -> dict[int, str]:
    """Files that cover just what another does, and files that do not touch the first one, directly or over others."""
    out: dict[int, str] = {}
    seen: dict[Window, int] = {}
    for i, window in enumerate(windows):
        if seen.setdefault(window, i) != i:
            out[i] = f"covers exactly what {scenes[seen[window]].uri} covers"
    reached = _reached(windows)
    return out | {i: "touches none of the others" for i in range(len(windows)) if i not in reached}


def _reached(windows: list[Window]) -> set[int]:
    boxes = shapely.box(*np.array([(w.x0, w.y0, w.x1, w.y1) for w in windows], dtype=np.float64).T)
    tree = shapely.STRtree(boxes)
    reached, border = {0}, [0]
    while border:
        found = np.unique(tree.query(boxes[border], predicate="intersects")[1]).tolist()
        border = [i for i in found if i not in reached]
        reached.update(border)
    return reached


def _window(ground: Ground, scene: Scene) -> Window:
    """Where a raster lies in the pixels of another's ground."""
    x0, y0 = (int(v) for v in np.rint(ground.to_pixels(scene.ground.to_ground(np.zeros(2)))))
    return Window(x0, y0, x0 + scene.size.width, y0 + scene.size.height)


def _corners(size: Size) -> np.ndarray:
    return np.array([(0, 0), (size.width, 0), (0, size.height), size.wh], dtype=np.float64)


def _same_crs(a: str | None, b: str | None) -> bool:
    if a is None or b is None or a == b:
        return a == b
    return bool(CRS.from_wkt(a).equals(CRS.from_wkt(b), ignore_axis_order=True))


def _crs_name(scene: Scene) -> str:
    wkt = scene.ground.crs_wkt
    return "unknown" if wkt is None else CRS.from_wkt(wkt).name


def _bands(scene: Scene) -> str:
    return ", ".join(f"{b.name or b.colour} {b.dtype}" for b in scene.bands)


def _pixel(scene: Scene) -> str:
    a, b, _, d, e, _ = scene.ground.affine
    return f"({a:.9g}, {d:.9g}) right and ({b:.9g}, {e:.9g}) down"
