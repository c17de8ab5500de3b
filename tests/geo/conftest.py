"""These tests need the extra `geo`."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if all(find_spec(name) for name in ("rasterio", "shapely", "pyproj")) else ["test_*.py"]
