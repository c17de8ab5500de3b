"""The label map of a scene as a Cloud Optimized GeoTIFF that any GIS opens: classes in colour, void transparent, overviews.

    write_label_cog(path, blended_bands(...), size=scene.size, ground=scene.ground, void=255, labels=names, scratch=folder)

Bands are cut into blocks as they come, into a first file that lies in the scratch folder; from there GDAL lays them out again,
overviews first, as its COG driver does. Compressed with DEFLATE, which every GDAL reads, whatever it was built with.
Class names are metadata of the band, CLASS_0=..., CLASS_1=...: a TIFF has no other room for them inside the file.
Making the bands is the business of rayseg.tiling, copying the file to an object store that of the pipeline.
"""

from __future__ import annotations

import os
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # documented nowhere, raised everywhere
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.shutil import copy
from rasterio.windows import Window as FileWindow

from rayseg.draw import PALETTE
from rayseg.errors import ConfigError, OutputError
from rayseg.geo.gdal import gdal
from rayseg.geo.ground import IDENTITY, Ground
from rayseg.geo.local_file import appearing
from rayseg.geometry import Size
from rayseg.tiling.labels import Band, label_dtype

BLOCK_PX = 512
"""Side of a block; overviews are made until one of them fits into a block."""

_FIRST = {"driver": "GTiff", "tiled": True, "compress": "DEFLATE", "zlevel": 1, "BIGTIFF": "IF_SAFER"}
_LAST = {"driver": "COG", "compress": "DEFLATE", "BIGTIFF": "IF_SAFER", "overviews": "FORCE_USE_EXISTING", "num_threads": "1"}


def write_label_cog(
    path: str | os.PathLike[str],
    bands: Iterable[Band],
    *,
    size: Size,
    ground: Ground,
    void: int,
    labels: Sequence[str],
    scratch: str | os.PathLike[str],
    colours: np.ndarray = PALETTE,
    block_px: int = BLOCK_PX,
) -> None:
    """Write one label map. Memory is that of one row of blocks and of one band, besides what GDAL caches.

    Where GeoTIFF has no words for the coordinate reference system, it is written to `path` + ".aux.xml", as GDAL does.

    Args:
        path: local file; appears only when it is whole and has been read back.
        bands: from the top, of any heights; labels uint8 if `void` is at most 255, else uint16.
        size: of the scene.
        ground: where the scene lies.
        void: label of pixels without a class; written as nodata.
        labels: name of each class id.
        scratch: folder for about as many bytes as the result has, a little more; emptied again.
        colours: uint8 (n, 3) RGB; colour i is that of class i, used round and round.
        block_px: side of a block, a multiple of 16.

    Raises:
        ConfigError: `path` is a URL, the void label fits no map or is that of a class, or block or colours cannot be used.
        OutputError: the file cannot be written.
        ValueError: bands leave gaps, are of another type or do not span the scene, or have a label that is no class.
    """
    dtype = label_dtype(void)
    if not 1 <= len(labels) <= void:
        raise ConfigError(f"{len(labels)} classes leave no room for the void label {void}; classes are 0 to void - 1")
    if block_px < 16 or block_px % 16:
        raise ConfigError(f"block_px is {block_px}; TIFF wants a multiple of 16, such as {BLOCK_PX}")
    if colours.ndim != 2 or colours.shape[1] != 3 or not len(colours) or colours.dtype != np.uint8:
        raise ConfigError(f"colours {colours.dtype} {colours.shape} are no table of RGB; give uint8 (n, 3)")
    Path(scratch).mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="label_map.", dir=scratch) as folder,
        appearing(path) as temporary,
        _sidecar(temporary, Path(path)),
        gdal(),
    ):
        first, checks = Path(folder) / "first.tif", []
        with _writing(path):
            file = _open_first(first, size, ground, void, labels, colours, block_px)
        with file:
            for y, rows in _block_rows(bands, size, dtype, block_px):
                _check_labels(rows, y, len(labels), void)
                with _writing(path):
                    checks.append(_write_row(file, y, rows, block_px))
        with _writing(path):
            _add_overviews(first, size, block_px)
            _check_blocks(first)  # GDAL does not tell what it fails to write while closing a file
            copy(first, temporary, blocksize=block_px, **_LAST)
            whole = _same_pixels(temporary, checks, block_px)
        if not whole:
            raise OutputError(f"{path}: read back, the label map is not what was written. {_ADVICE}")


def _open_first(
    path: Path, size: Size, ground: Ground, void: int, labels: Sequence[str], colours: np.ndarray, block_px: int
) -> rasterio.io.DatasetWriter:
    """The first file, with all but pixels."""
    place = {"crs": ground.crs_wkt} if ground.crs_wkt and not ground.gcps else {}
    if ground.affine != IDENTITY and not ground.gcps:
        place["transform"] = rasterio.Affine(*ground.affine)
    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
        file = rasterio.open(
            path,
            "w",
            count=1,
            height=size.height,
            width=size.width,
            dtype=label_dtype(void).__name__,
            nodata=void,
            blockxsize=block_px,
            blockysize=block_px,
            **_FIRST,
            **place,
        )
    if ground.gcps:
        points = [GroundControlPoint(row=y, col=x, x=gx, y=gy) for x, y, gx, gy in ground.gcps]
        file.gcps = (points, rasterio.crs.CRS.from_wkt(ground.crs_wkt) if ground.crs_wkt else rasterio.crs.CRS())
    table = {i: (*colours[i % len(colours)].tolist(), 255) for i in range(len(labels))}
    file.write_colormap(1, {**table, void: (0, 0, 0, 0)})
    file.set_band_description(1, "class")
    # XML, in which metadata is kept, has no room for control characters.
    names = {f"CLASS_{i}": "".join(c if c.isprintable() else " " for c in name) for i, name in enumerate(labels)}
    file.update_tags(1, **names)
    return file


def _block_rows(bands: Iterable[Band], size: Size, dtype: type[np.generic], block_px: int) -> Iterator[tuple[int, np.ndarray]]:
    """The map in rows of blocks, as (first row, labels); the last may be lower. The array is used again for the next."""
    buffer = np.empty((block_px, size.width), dtype=dtype)
    at = 0
    for band in bands:
        top, shape = band.window.y0, (band.window.height, band.window.width)
        if top != at or band.window.x0 or band.window.x1 != size.width or band.window.y1 > size.height:
            raise ValueError(f"a band of {band.window} follows row {at} of a scene of {size}; bands are as wide and leave no gap")
        if band.labels.dtype != dtype or band.labels.shape != shape:
            raise ValueError(f"a band of {shape} has labels {band.labels.dtype} {band.labels.shape}, expected {dtype.__name__}")
        while at < band.window.y1:
            n = min(block_px - at % block_px, band.window.y1 - at)
            buffer[at % block_px :][:n] = band.labels[at - top :][:n]
            at += n
            if at % block_px == 0 or at == size.height:
                filled = (at - 1) % block_px + 1
                yield at - filled, buffer[:filled]
    if at != size.height:
        raise ValueError(f"bands end at row {at} of a scene of {size}")


def _check_labels(rows: np.ndarray, y: int, n_classes: int, void: int) -> None:
    wrong = rows[(rows >= n_classes) & (rows != void)]
    if wrong.size:
        raise ValueError(
            f"label {wrong[0]} between rows {y} and {y + len(rows)} is none of {n_classes} classes and not void ({void})"
        )


def _write_row(file: rasterio.io.DatasetWriter, y: int, rows: np.ndarray, block_px: int) -> int:
    """Block by block: GDAL goes line by line through what it is given, and a row may be wider than its cache.

    Returns:
        CRC-32 of the blocks, one after the other.
    """
    check = 0
    for x in range(0, rows.shape[1], block_px):
        block = np.ascontiguousarray(rows[:, x : x + block_px])
        file.write(block, 1, window=FileWindow(x, y, block.shape[1], block.shape[0]))
        check = zlib.crc32(block.data, check)
    return check


def _add_overviews(path: Path, size: Size, block_px: int) -> None:
    """Each pixel of an overview is the class that most of the pixels below it have, void if they have none."""
    factors: list[int] = []
    while max(size.hw) > block_px * 2 ** len(factors):
        factors.append(2 ** (len(factors) + 1))
    with rasterio.open(path, "r+") as file:
        file.build_overviews(factors, Resampling.mode)


def _check_blocks(path: Path) -> None:
    """Every block of the map and of its overviews is in the file; rasterio raises where one is not."""
    with rasterio.open(path) as file:
        levels = [{}, *({"overview_level": i} for i in range(len(file.overviews(1))))]
    for level in levels:
        with rasterio.open(path, **level) as file:
            ((height, width),) = file.block_shapes
            for row, column in np.ndindex(-(-file.height // height), -(-file.width // width)):
                file.block_size(1, row, column)


def _same_pixels(path: Path, checks: Sequence[int], block_px: int) -> bool:
    """Whether each row of blocks is as `_write_row` has written it."""
    with rasterio.open(path) as file:
        for row, check in enumerate(checks):
            found, y = 0, row * block_px
            for x in range(0, file.width, block_px):
                place = FileWindow(x, y, min(block_px, file.width - x), min(block_px, file.height - y))
                found = zlib.crc32(file.read(1, window=place).data, found)
            if found != check:
                return False
    return True


_ADVICE = "The disk is probably full: free some room there and in the scratch folder, and run again."


@contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Ours for GDAL's errors; no georeference is nothing to warn of."""
    try:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
            yield
    except (RasterioError, CPLE_BaseError, SystemError) as error:  # SystemError: "Unknown GDAL Error"
        raise OutputError(f"{path}: the label map cannot be written: {str(error).rstrip('.')}. {_ADVICE}") from error


@contextmanager
def _sidecar(temporary: Path, path: Path) -> Iterator[None]:
    """What GDAL writes beside a file goes where the file goes; that of a file replaced goes with it."""
    made, wanted = (Path(f"{file}.aux.xml") for file in (temporary, path))
    try:
        yield
        if made.exists():
            made.replace(wanted)
        else:
            wanted.unlink(missing_ok=True)
    finally:
        made.unlink(missing_ok=True)
