"""Scenes: rasters of any size, read by windows, with coordinates on the ground; and objects as geometries.

Everything that imports rasterio, shapely or pyproj lives below this folder. Nothing outside imports it before a job
asks for scenes, so that rayseg works without them. Cutting a scene into tiles and joining what was found is in `tiling`.
"""

from __future__ import annotations

from importlib.util import find_spec

from rayseg.errors import ConfigError

for _package in ("rasterio", "shapely", "pyproj"):
    if find_spec(_package) is None:
        raise ConfigError(f"scenes and geometries need the package {_package}, which is not installed: pip install 'rayseg[geo]'")
