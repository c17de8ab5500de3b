"""A scene, or its label map, read small: through overviews where the file has them, within a bound where it has none.

For looking at, not for measuring: pixels are means of what lies below them. Reading in full is `raster.py`'s; what is drawn
over a small picture, the pipeline's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window as FileWindow

from rayseg.errors import CorruptImage, ImageTooLarge
from rayseg.geo import gdal
from rayseg.geo.bands import Bands
from rayseg.geo.raster import palette_of
from rayseg.geo.scaling import Scaling
from rayseg.geo.scene import Part, Scene
from rayseg.geo.valid import alpha_band, holds_value, own_mask
from rayseg.geometry import Size, Window

MAX_PIXELS = 100_000_000
"""That are decoded for one small picture."""

MAX_PARTS = 256
"""Files of a mosaic that are opened for one small picture."""

_CELL_PX = 48


@dataclass(frozen=True, eq=False)
class SmallScene:
    """A scene, read small.

    Attributes:
        rgb: uint8 (H, W, 3), black where there is no data.
        valid: bool (H, W).
        damaged: bool (H, W), True where the file could not be read; a cell of some ten pixels around a damaged block.
    """

    rgb: np.ndarray
    valid: np.ndarray
    damaged: np.ndarray


def read_small(
    scene: Scene,
    size: Size,
    *,
    bands: Bands,
    scaling: Scaling,
    storage: Mapping[str, Any] | None = None,
    max_pixels: int = MAX_PIXELS,
    max_parts: int = MAX_PARTS,
) -> SmallScene:
    """Read all of a scene at a size that is no larger.

    Args:
        size: of the picture.
        max_pixels: that may be decoded for it.
        max_parts: files that may be opened for it.

    Raises:
        ImageTooLarge: it would take more; the message says how overviews are made.
        ImageError, SourceError: a file cannot be opened, or was replaced since the scene was opened.
    """
    if len(scene.parts) > max_parts:
        raise ImageTooLarge(f"a mosaic of {len(scene.parts)} files; more than {max_parts} are not opened for a small picture")
    cost = 0
    for part in scene.parts:
        cost += _pixels_to_decode(part, _place(part.window, scene.size, size), bands, storage)
        if cost > max_pixels:
            raise ImageTooLarge(
                f"{scene.size.pixels / 1e6:,.0f} million pixels without overviews; more than {max_pixels / 1e6:,.0f} million are "
                f"not decoded for a small picture. gdaladdo -r average {part.uri} adds overviews"
            )
    out = SmallScene(np.zeros((*size.hw, 3), np.uint8), np.zeros(size.hw, bool), np.zeros(size.hw, bool))
    for part in reversed(scene.parts):  # where files overlap the first counts, so it comes last
        _read_part(out, part, _place(part.window, scene.size, size), bands, scaling, storage)
    return out


def read_small_labels(uri: str, size: Size, *, void: int, storage: Mapping[str, Any] | None = None) -> np.ndarray:
    """A label map with overviews, at a size that is no larger: for each pixel the label of one pixel below it.

    Returns:
        uint8 or uint16 (H, W); `void` where the file has no data.

    Raises:
        ImageError, SourceError: it cannot be read.
    """
    with gdal.dataset(uri, storage=storage) as file:
        labels = file.read(1, out_shape=size.hw, resampling=Resampling.nearest)
        nodata = file.nodata
    if nodata is not None and nodata != void:
        labels[labels == nodata] = void
    return np.asarray(labels)


def _place(window: Window, scene: Size, size: Size) -> Window:
    """Where a window of the scene lies in the picture; adjoining windows adjoin there, too."""
    x, y = size.width / scene.width, size.height / scene.height
    return Window(round(window.x0 * x), round(window.y0 * y), round(window.x1 * x), round(window.y1 * y))


def _pixels_to_decode(part: Part, place: Window, bands: Bands, storage: Mapping[str, Any] | None) -> int:
    """About so many, by the overview GDAL will take."""
    if place.empty:
        return 0
    with gdal.dataset(part.uri, storage=storage) as file:
        shrinks = min(file.width / place.width, file.height / place.height)
        factor = max((f for f in file.overviews(bands.numbers[0]) if f <= shrinks * 1.2), default=1)
        return int(file.width * file.height / factor**2)


def _read_part(
    out: SmallScene, part: Part, place: Window, bands: Bands, scaling: Scaling, storage: Mapping[str, Any] | None
) -> None:
    if part.version and ":".join(str(v) for v in gdal.version(part.uri)) != part.version:
        raise CorruptImage(f"{part.uri}: was replaced since the job was planned")
    whole = Window(0, 0, place.width, place.height)
    try:
        _read_cell(out, part, place, whole, bands, scaling, storage)
        return
    except CorruptImage:
        pass
    for cell in _cells(whole):
        try:
            _read_cell(out, part, place, cell, bands, scaling, storage)
        except CorruptImage:
            out.damaged[cell.shift(place.x0, place.y0).slices] = True


def _read_cell(
    out: SmallScene,
    part: Part,
    place: Window,
    cell: Window,
    bands: Bands,
    scaling: Scaling,
    storage: Mapping[str, Any] | None,
) -> None:
    """Read a window of a file's part of the picture, and put it there."""
    if cell.empty:
        return
    x, y = part.window.width / place.width, part.window.height / place.height
    window = FileWindow(cell.x0 * x, cell.y0 * y, cell.width * x, cell.height * y)
    with gdal.dataset(part.uri, storage=storage) as file:
        values, valid = _read(file, bands, window, Size(cell.height, cell.width))
    target = cell.shift(place.x0, place.y0).slices
    out.rgb[target][valid] = scaling.apply(values)[valid]
    out.valid[target] |= valid


def _read(file: rasterio.DatasetReader, bands: Bands, window: FileWindow, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """As `valid.read_with_valid`, made smaller; colours where there is a palette."""
    way = Resampling.nearest if bands.palette else Resampling.average
    values = file.read(list(bands.numbers), window=window, out_shape=(len(bands.numbers), *size.hw), resampling=way)
    if mask_of := own_mask(file):
        valid = file.read_masks(mask_of, window=window, out_shape=size.hw) != 0
    else:
        valid = holds_value(values, [file.nodatavals[n - 1] for n in bands.numbers])
        if (alpha := alpha_band(file)) is not None:
            valid &= file.read(alpha, window=window, out_shape=size.hw, resampling=Resampling.nearest) > 0
    if not bands.palette:
        return values, valid
    colours = palette_of(file)[values[0]]
    return np.ascontiguousarray(colours[..., :3].transpose(2, 0, 1)), valid & (colours[..., 3] > 0)


def _cells(whole: Window) -> Iterator[Window]:
    for y in range(0, whole.height, _CELL_PX):
        for x in range(0, whole.width, _CELL_PX):
            yield Window(x, y, min(x + _CELL_PX, whole.width), min(y + _CELL_PX, whole.height))
