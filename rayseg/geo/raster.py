"""Scenes opened and read window by window, never whole, as 8-bit RGB with a mask of the valid pixels.

What a scene is stands in `scene.py`; which bands, which scaling and which pixels are valid, in the files named after these;
GDAL's bounds in `gdal.py`. Tiles that share strips of a file are read together by `reads.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window as FileWindow

from rayseg.errors import CorruptImage, ImageTooLarge, UnsupportedImage
from rayseg.geo import gdal
from rayseg.geo.bands import Bands
from rayseg.geo.ground import IDENTITY, Ground
from rayseg.geo.scaling import Scaling
from rayseg.geo.scene import Band, Part, Scene
from rayseg.geo.valid import all_valid, own_mask, read_with_valid
from rayseg.geometry import Size, Window

MAX_BLOCK_BYTES = 1 << 30
"""A file is refused when a single block of it, decoded, is larger: GDAL holds blocks whole."""

_PIECE_PX = 256
_BITS = {"complex_int16": 32}  # a type of GDAL's that numpy does not have


def open_scene(uri: str, *, storage: Mapping[str, Any] | None = None, max_block_bytes: int = MAX_BLOCK_BYTES) -> Scene:
    """Look at a raster's header.

    Args:
        uri: local path, file:// or s3:// URL of anything GDAL reads.
        storage: for S3: key, secret, token, endpoint_url, anon, region_name; what is missing comes from the environment.
        max_block_bytes: see `MAX_BLOCK_BYTES`.

    Raises:
        SourceError: it is not there or may not be read.
        UnsupportedImage: no raster, one with several images, or one placed by rational polynomials (RPC) alone.
        ImageTooLarge: compressed as one block that is too large.
        CorruptImage: its header cannot be read.
    """
    with gdal.dataset(uri, storage=storage) as file:
        if file.count == 0:
            inner = ", ".join(file.subdatasets[:4]) or "none"
            raise UnsupportedImage(f"{uri}: holds no bands of its own. Inside it are {inner}; extract one with gdal_translate.")
        size = Size(file.height, file.width)
        scene = Scene(
            uri=uri,
            size=size,
            bands=_bands(file),
            ground=_ground(file, uri),
            driver=file.driver,
            block=Size(min(size.height, file.block_shapes[0][0]), min(size.width, file.block_shapes[0][1])),
            interleaved=file.count > 1 and file.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL",
            compression=file.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", ""),
            explicit_mask=own_mask(file) != 0,
            parts=(Part(uri, Window.of(size), ":".join(str(v) for v in gdal.version(uri))),),
        )
    _check_block(scene, max_block_bytes)
    return scene


def read_window(
    scene: Scene,
    window: Window,
    *,
    bands: Bands,
    scaling: Scaling,
    pad_to: Size | None = None,
    storage: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of one window.

    Args:
        window: inside the scene.
        bands: from `bands.choose_bands`.
        scaling: the job's.
        pad_to: fill up to this size at the right and at the bottom, with black pixels that are not valid.
        storage: credentials.

    Returns:
        uint8 (H, W, 3) RGB, and bool (H, W), True where there is data. Pixels without data are black, whatever the file
        holds there.

    Raises:
        CorruptImage: a block of the file cannot be read, or the file is another than the one that was opened.
        SourceError: the file cannot be reached any more.
    """
    values, valid = read_values(scene, window, bands, storage=storage)
    rgb = scaling.apply(values)
    rgb[~valid] = 0
    return (rgb, valid) if pad_to is None else pad(rgb, valid, pad_to)


def pad(rgb: np.ndarray, valid: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Fill up at the right and at the bottom, with black pixels that are not valid.

    Raises:
        ValueError: the window is larger than that.
    """
    height, width = valid.shape
    if height > size.height or width > size.width:
        raise ValueError(f"a window of {width} x {height} does not fit into {size.width} x {size.height}")
    room = ((0, size.height - height), (0, size.width - width))
    return np.pad(rgb, (*room, (0, 0))), np.pad(valid, room)


def read_values(
    scene: Scene, window: Window, bands: Bands, *, storage: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Values of one window as they are stored, before scaling; colours where there is a palette.

    Returns:
        (1 or 3, H, W) of the bands' type, and bool (H, W). Where files of a mosaic overlap, the first with a valid pixel
        counts; where there is no file, values are 0 and not valid.

    Raises:
        ValueError: the window is empty or leaves the scene.
        CorruptImage, SourceError: as for `read_window`.
    """
    if window.empty or window.clip(scene.size) != window:
        raise ValueError(f"{window} is empty or leaves the scene {scene.uri} of {scene.size}")
    parts = scene.parts_in(window)
    if len(parts) == 1 and _common(window, parts[0].window) == window:
        return _read_part(scene, parts[0], window, bands, storage)
    channels = 3 if bands.palette else len(bands.numbers)
    values = np.zeros(
        (channels, window.height, window.width), dtype="uint8" if bands.palette else scene.bands[bands.numbers[0] - 1].dtype
    )
    valid = np.zeros((window.height, window.width), dtype=bool)
    for part in parts:
        inside = _common(window, part.window)
        place = inside.shift(-window.x0, -window.y0).slices
        if not valid[place].all():
            found, here = _read_part(scene, part, inside, bands, storage)
            fresh = here & ~valid[place]
            np.copyto(values[:, *place], found, where=fresh)
            valid[place] |= fresh
    return values, valid


def has_valid(scene: Scene, window: Window, bands: Bands, *, storage: Mapping[str, Any] | None = None) -> bool:
    """Whether a window holds any valid pixel: one look at most where the file declares nothing or the middle answers.

    Exact, as `read_values(...)[1].any()`, but read in pieces from the middle outwards until one answers; a window without
    any valid pixel is read through once.

    Raises:
        ValueError, CorruptImage, SourceError: as for `read_values`.
    """
    if all_valid(scene, bands):
        return not window.empty
    return any(read_values(scene, piece, bands, storage=storage)[1].any() for piece in _pieces(scene, window))


def _read_part(
    scene: Scene, part: Part, window: Window, bands: Bands, storage: Mapping[str, Any] | None
) -> tuple[np.ndarray, np.ndarray]:
    """What one file holds of a window of the scene, where they overlap."""
    here = _common(window, part.window).shift(-part.window.x0, -part.window.y0)
    with gdal.dataset(part.uri, storage=storage) as file:
        if (file.height, file.width) != (part.window.height, part.window.width) or file.dtypes != tuple(
            b.dtype for b in scene.bands
        ):
            found = f"{file.width} x {file.height} pixels, {file.count} bands of {file.dtypes[0]}"
            raise CorruptImage(
                f"{part.uri}: the file was replaced after the job was planned; now it holds {found}. Plan the job anew."
            )
        values, valid = read_with_valid(file, bands.numbers, FileWindow(here.x0, here.y0, here.width, here.height))
        if not bands.palette:
            return values, valid
        table = palette_of(file)
    index = values[0]
    valid &= table[index, 3] > 0
    return np.ascontiguousarray(table[index, :3].transpose(2, 0, 1)), valid


def _common(a: Window, b: Window) -> Window:
    """Where two windows that touch overlap."""
    return Window(max(a.x0, b.x0), max(a.y0, b.y0), min(a.x1, b.x1), min(a.y1, b.y1))


def palette_of(file: rasterio.DatasetReader) -> np.ndarray:
    """uint8 (values of the type, 4), RGBA; a value without a colour is transparent."""
    out = np.zeros((1 << 8 * np.dtype(file.dtypes[0]).itemsize, 4), dtype=np.uint8)
    for value, rgba in file.colormap(1).items():
        out[value] = rgba
    return out


def _pieces(scene: Scene, window: Window) -> Iterator[Window]:
    """A window cut along the file's blocks into pieces of some hundred pixels a side, those in the middle first."""

    def cuts(start: int, stop: int, block: int) -> list[tuple[int, int]]:
        step = -(-_PIECE_PX // block) * block
        edges = [start, *range(start // step * step + step, stop, step), stop]
        return list(pairwise(edges))

    def from_middle(piece: Window) -> int:
        return abs(piece.x0 + piece.x1 - window.x0 - window.x1) + abs(piece.y0 + piece.y1 - window.y0 - window.y1)

    rows, columns = cuts(window.y0, window.y1, scene.block.height), cuts(window.x0, window.x1, scene.block.width)
    yield from sorted((Window(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns), key=from_middle)


def _bands(file: rasterio.DatasetReader) -> tuple[Band, ...]:
    def band(number: int) -> Band:
        dtype, i = file.dtypes[number - 1], number - 1
        nodata = file.nodatavals[i]
        bits = file.tags(number, ns="IMAGE_STRUCTURE").get("NBITS")
        size = _BITS.get(dtype) or 8 * np.dtype(dtype).itemsize
        return Band(
            dtype,
            int(bits or size),
            file.colorinterp[i].name,
            file.descriptions[i] or "",
            None if nodata is None or math.isnan(nodata) else nodata,
        )

    return tuple(band(number) for number in file.indexes)


def _ground(file: rasterio.DatasetReader, uri: str) -> Ground:
    gcps, gcp_crs = file.gcps
    affine = tuple(float(v) for v in tuple(file.transform)[:6])
    if affine == IDENTITY and gcps:
        points = tuple((float(p.col), float(p.row), float(p.x), float(p.y)) for p in gcps)
        return Ground(gcp_crs.to_wkt() if gcp_crs else None, IDENTITY, points)
    if affine == IDENTITY and file.rpcs:
        raise UnsupportedImage(
            f"{uri}: placed on the ground by rational polynomials (RPC), which need heights. Orthorectify it first: "
            "gdalwarp -rpc -to RPC_DEM=dem.tif in.tif out.tif"
        )
    return Ground(file.crs.to_wkt() if file.crs else None, affine)  # type: ignore[arg-type]


def _check_block(scene: Scene, limit: int) -> None:
    depth = len(scene.bands) if scene.interleaved else 1
    found = scene.block.pixels * depth * (_BITS.get(scene.bands[0].dtype) or scene.bands[0].bits) // 8
    if found > limit:
        raise ImageTooLarge(
            f"{scene.uri}: compressed as blocks of {scene.block.width} x {scene.block.height}, of which each takes "
            f"{found / 1e9:.1f} GB to decode, more than {limit / 1e9:.1f}. "
            "Rewrite it in tiles: gdal_translate -of COG in.tif out.tif"
        )
