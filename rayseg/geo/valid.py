"""Which pixels of a window hold data, by the one rule below, from values already read where that suffices.

A file may say it in four ways. Where it has a mask of its own (inside, or beside it as .msk), that mask decides, as in GDAL.
Otherwise a pixel is valid when its opacity is above zero, if there is an alpha band, and at least one of the bands that were
chosen holds a value there: one that is finite and not that band's nodata.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window as FileWindow

from rayseg.geo.bands import Bands
from rayseg.geo.scene import Scene


def read_with_valid(file: rasterio.DatasetReader, numbers: Sequence[int], window: FileWindow) -> tuple[np.ndarray, np.ndarray]:
    """Values of some bands and which pixels are valid.

    Returns:
        (C, H, W) of the bands' dtype as stored, and bool (H, W).
    """
    mask_of = own_mask(file)
    alpha = None if mask_of else alpha_band(file)
    along = alpha is not None and alpha not in numbers and file.dtypes[alpha - 1] == file.dtypes[numbers[0] - 1]
    values = file.read([*numbers, alpha] if along else list(numbers), window=window)
    if mask_of:
        return values, file.read_masks(mask_of, window=window) != 0
    valid = holds_value(values[: len(numbers)], [file.nodatavals[n - 1] for n in numbers])
    if alpha is not None:
        valid &= (values[-1] if along else file.read(alpha, window=window)) > 0
    return values[: len(numbers)], valid


def holds_value(values: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """True where at least one band has a finite value that is not its nodata.

    Args:
        values: (C, H, W).
        nodata: one for each band; None for none. NaN needs no telling.

    Returns:
        bool (H, W).
    """
    out = np.zeros(values.shape[1:], dtype=bool)
    for band, value in zip(values, nodata, strict=True):
        here = np.isfinite(band)
        stored = stored_value(value, band.dtype)
        if stored is not None:
            here &= band != stored
        out |= here
        if out.all():
            break
    return out


def stored_value(nodata: float | None, dtype: np.dtype) -> np.generic | None:
    """A nodata value as pixels of a type hold it; None when no pixel can equal it.

    Files declare -9999 for bytes, and decimals of float64 for float32: the first never occurs, the second is rounded.
    """
    if nodata is None or np.isnan(nodata):
        return None
    with np.errstate(over="ignore"):
        if dtype.kind == "f":
            return dtype.type(nodata)
    limits = np.iinfo(dtype)
    if nodata != np.floor(nodata) or not limits.min <= nodata <= limits.max:
        return None
    return dtype.type(int(nodata))


def own_mask(file: rasterio.DatasetReader) -> int:
    """Number of a band whose mask is kept apart from the bands' values; 0 when there is none."""
    for number, flags in enumerate(file.mask_flag_enums, 1):
        derived = {MaskFlags.all_valid, MaskFlags.alpha}.intersection(flags)
        nodata_only = MaskFlags.nodata in flags and MaskFlags.per_dataset not in flags
        if not derived and not nodata_only:
            return number
    return 0


def alpha_band(file: rasterio.DatasetReader) -> int | None:
    """Number of the band that holds opacity."""
    return next((i for i, colour in enumerate(file.colorinterp, 1) if colour == ColorInterp.alpha), None)


def all_valid(scene: Scene, bands: Bands) -> bool:
    """True when every pixel is valid, told from the description alone: nothing is declared that could say otherwise."""
    if scene.explicit_mask or scene.alpha is not None or len(scene.parts) > 1 or bands.palette:
        return False
    types = [(scene.bands[n - 1].nodata, np.dtype(scene.bands[n - 1].dtype)) for n in bands.numbers]
    return any(dtype.kind != "f" and stored_value(nodata, dtype) is None for nodata, dtype in types)
