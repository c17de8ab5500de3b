"""Small rasters for tests, written with rasterio."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning

from rayseg.geometry import Size, Window

UTM = rasterio.Affine(0.5, 0, 399_960.0, 0, -0.5, 5_000_040.0)


def write(
    path: Path,
    values: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    colours: list[str] | None = None,
    names: list[str] | None = None,
    palette: dict[int, tuple[int, ...]] | None = None,
    gcps: Any = None,
    internal_mask: bool = False,
    **profile: Any,
) -> str:
    """Write (C, H, W) values; returns the path as a string."""
    count, height, width = values.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype.name} | profile
    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal_mask),
        rasterio.open(path, "w", **profile) as file,
    ):
        if colours:
            file.colorinterp = [rasterio.enums.ColorInterp[c] for c in colours]
        file.write(values)
        if mask is not None:
            file.write_mask(mask)
        for number, name in enumerate(names or [], 1):
            file.set_band_description(number, name)
        if palette:
            file.write_colormap(1, palette)
        if gcps:
            file.gcps = gcps
    return str(path)


@st.composite
def windows_in(draw, size: Size):
    """Windows of at least one pixel inside an image."""
    x0, y0 = draw(st.integers(0, size.width - 1)), draw(st.integers(0, size.height - 1))
    return Window(x0, y0, draw(st.integers(x0 + 1, size.width)), draw(st.integers(y0 + 1, size.height)))


def noise(shape: tuple[int, ...], dtype: str = "uint8", *, seed: int = 0) -> np.ndarray:
    """Values all over the range of a type."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
