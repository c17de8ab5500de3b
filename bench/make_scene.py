"""A drawn scene of any size with known objects: a 16-bit RGB GeoTIFF, and the table of what is in it.

Every object has one colour of its own, and the rest is black. Each band of a colour is 257 times a number from 1 to 255, so that
`--scale 0,65535` gives that number back exactly, and a predictor that tells objects by their colour makes no mistake. There are
blobs of 12 to 120 px, one for each cell of a lattice, some of them touching their neighbour, and rivers of about 9 px that wind
across the whole scene: rivers lie over blobs and over later rivers, blobs over those of later cells. What is cut in two so keeps
its one colour. Writing in other windows changes no pixel, and memory is that of a window, whatever the size.

    python bench/make_scene.py /data/scene.tif --truth /data/scene.parquet --rivers 8 --nodata-frame 3000

Without a file to write, a small scene goes to a temporary folder, to see what it costs. The JSON says how long it took.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
import rasterio.shutil
from _scene import Scene, colours, draw
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.windows import Window as RasterWindow

from rayseg.errors import ConfigError
from rayseg.geometry import Size, Window

TRUTH = pa.schema(
    [
        *(pa.field(name, pa.uint8(), nullable=False) for name in ("r", "g", "b")),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("x0", "y0", "x1", "y1", "area_px")),
    ]
)
"""One row an object, as drawn; those that others cover wholly are not in it. The window is half-open."""

_BLOCK = 512
_ORIGIN = (400_000.0, 5_300_000.0)  # upper left corner, in units of the CRS


def write(
    scene: Scene, path: Path, truth: Path | None, *, crs: CRS | None, pixel_m: float, compress: str, cog: bool, window_px: int
) -> dict[str, float]:
    """The picture and its table. Both appear when they are complete.

    Args:
        window_px: side of the windows that are drawn, a multiple of 512 for speed.

    Returns:
        Objects, and seconds for drawing and for the layout with overviews.
    """
    start = time.perf_counter()
    plain = path.with_name(f".{path.name}.{os.getpid()}.plain.tif")
    done = path.with_name(f".{path.name}.{os.getpid()}.done.tif")
    profile = {
        "driver": "GTiff", "dtype": "uint16", "count": 3, "height": scene.size.height, "width": scene.size.width,
        "photometric": "RGB", "tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": compress, "predictor": 2,
        "BIGTIFF": "IF_SAFER", "crs": crs,
        "transform": Affine(pixel_m, 0, _ORIGIN[0], 0, -pixel_m, _ORIGIN[1]) if crs else None,
        "nodata": 0 if scene.frame_px else None,
    }  # fmt: skip
    layout = {"compress": compress, "predictor": "YES", "blocksize": _BLOCK, "BIGTIFF": "IF_SAFER"}
    # Neighbouring colours must not be mixed: a mixture would be the colour of some other object.
    layout["overview_resampling"] = "nearest"
    try:
        with rasterio.Env(GDAL_CACHEMAX=128 << 20, GDAL_NUM_THREADS="1"):
            with rasterio.open(plain, "w", **{k: v for k, v in profile.items() if v is not None}) as out:
                table = _write_windows(scene, out, truth, window_px)
            drawn = time.perf_counter()
            if cog:
                rasterio.shutil.copy(plain, done, driver="COG", **layout)
        os.replace(done if cog else plain, path)
    finally:
        plain.unlink(missing_ok=True)
        done.unlink(missing_ok=True)
    return {"objects": table, "draw_seconds": drawn - start, "cog_seconds": time.perf_counter() - drawn}


def _write_windows(scene: Scene, out: rasterio.io.DatasetWriter, truth: Path | None, window_px: int) -> int:
    """Draw row by row of windows, and add up what each object got; objects that no later row can hold are written at once."""
    target = truth.with_name(f".{truth.name}.{os.getpid()}") if truth else Path(os.devnull)
    unfinished = np.empty((0, 6), dtype=np.int64)
    count = 0
    try:
        with pq.ParquetWriter(target, TRUTH) as rows:
            for y0 in range(0, scene.size.height, window_px):
                y1 = min(y0 + window_px, scene.size.height)
                parts = [unfinished]
                for x0 in range(0, scene.size.width, window_px):
                    window = Window(x0, y0, min(x0 + window_px, scene.size.width), y1)
                    pixels, found = draw(scene, window)
                    out.write(pixels, window=RasterWindow(x0, y0, window.width, window.height))
                    parts.append(found)
                every = _added_up(np.concatenate(parts))
                over = _last_row(scene, every[:, 0]) <= y1 if y1 < scene.size.height else np.ones(len(every), dtype=bool)
                rows.write_table(_truth(every[over]))
                unfinished, count = every[~over], count + int(over.sum())
        if truth:
            os.replace(target, truth)
    finally:
        if truth:
            target.unlink(missing_ok=True)
    return count


def _added_up(found: np.ndarray) -> np.ndarray:
    """What several windows have of objects, as one row an object."""
    if not len(found):
        return found
    found = found[np.argsort(found[:, 0], kind="stable")]
    first = np.flatnonzero(np.concatenate([[True], np.diff(found[:, 0]) != 0]))
    return np.concatenate(
        [
            found[first, :1],
            np.minimum.reduceat(found[:, 1:3], first),
            np.maximum.reduceat(found[:, 3:5], first),
            np.add.reduceat(found[:, 5:], first),
        ],
        axis=1,
    )


def _last_row(scene: Scene, numbers: np.ndarray) -> np.ndarray:
    """A pixel row that objects do not reach, float64; infinite for rivers."""
    row = (numbers - 1 - scene.rivers) // scene.cells[1]
    below = scene.inner.y0 + (row + 0.75) * scene.cell_px + scene.largest_px / 2 + 2
    return np.where(numbers <= scene.rivers, np.inf, below)


def _truth(found: np.ndarray) -> pa.Table:
    columns = np.concatenate([colours(found[:, 0]), found[:, 1:]], axis=1)
    return pa.table([pa.array(columns[:, i], field.type) for i, field in enumerate(TRUTH)], schema=TRUTH)


def _crs(text: str) -> CRS | None:
    """The CRS by its name; None for `none`.

    Raises:
        ConfigError: nobody knows it, or its units are degrees.
    """
    if text.lower() == "none":
        return None
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise ConfigError(
            f"--crs {text!r} is no coordinate system that PROJ knows ({error}); write it like EPSG:32633"
        ) from error
    if not crs.is_projected:
        raise ConfigError(f"--crs {text} counts in degrees, and --pixel-m is in metres: choose a projected one like EPSG:32633")
    return crs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="OUT.tif", type=Path, nargs="?", help="without it: 4000 x 4000 px in a temporary folder")
    parser.add_argument("--size", type=int, nargs="+", metavar="PX", help="height and width, or one number (50000)")
    parser.add_argument("--objects-per-mpx", type=float, default=40.0, help="blobs in a million pixels (40)")
    parser.add_argument("--rivers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crs", default="EPSG:32633", help="a projected one, or none (EPSG:32633)")
    parser.add_argument("--pixel-m", type=float, default=0.5, help="side of a pixel in units of the CRS (0.5)")
    parser.add_argument("--nodata-frame", type=int, default=0, metavar="PX", help="empty border; with one, 0 is declared nodata")
    parser.add_argument("--compress", choices=["zstd", "deflate"], default="zstd")
    parser.add_argument("--no-cog", action="store_true", help="tiles, but no overviews")
    parser.add_argument("--window-px", type=int, default=2048, help="side of what is drawn at once (2048)")
    parser.add_argument("--truth", type=Path, metavar="OUT.parquet", help="table of the objects: colour, window, pixels")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    height, width = _size(options.size or [50_000 if options.path else 4000])
    if options.window_px < 1 or not 0 < options.pixel_m < math.inf:
        parser.error(f"--window-px {options.window_px} and --pixel-m {options.pixel_m} must be above 0")
    for path in (options.path, options.truth):
        if path and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.absolute().parent}; make it first")
    scene = Scene(Size(height, width), options.objects_per_mpx, options.rivers, options.nodata_frame, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = options.path or Path(folder) / "scene.tif"
        start = time.perf_counter()
        figures = write(
            scene, path, options.truth, crs=_crs(options.crs), pixel_m=options.pixel_m, compress=options.compress,
            cog=not options.no_cog, window_px=options.window_px,
        )  # fmt: skip
        report = {
            "height": height, "width": width, **{name: round(value, 1) for name, value in figures.items()},
            "seconds": round(time.perf_counter() - start, 1), "file_mb": round(path.stat().st_size / 1e6, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }  # fmt: skip
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def _size(numbers: list[int]) -> tuple[int, int]:
    """Height and width from one number or two.

    Raises:
        ConfigError: none, too many, or too small.
    """
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise ConfigError(f"--size {' '.join(map(str, numbers))}: give height and width, or one number for both, all above 0")
    return numbers[0], numbers[-1]


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"make_scene: {error}")
