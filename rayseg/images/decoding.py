"""From a file's bytes to RGB pixels, in this process, by rules that are written down.

A decoder that crashes takes this process along; worker.py runs the same in a process of its own.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np

from rayseg.errors import CorruptImage, ImageError, ImageTooLarge, TruncatedImage
from rayseg.images import bmp, jpeg, opencv, png, tiff, tiff_pixels, webp
from rayseg.images.header import Header
from rayseg.images.identify import read_header
from rayseg.images.reduced import REDUCTIONS, reduced_hw
from rayseg.images.sniff import HEAD_BYTES, sniff

MAX_PIXELS = 500_000_000
"""Default limit: above the largest camera files (about 400 million), below a bomb's; 1.5 GB of RGB."""

_FORMATS = {"JPEG": jpeg, "PNG": png, "BMP": bmp, "WebP": webp}
_PREPARE: dict[str, Callable[[bytes], bytes]] = {"PNG": png.plain, "BMP": bmp.padded}
_TURNS: dict[int, Callable[[np.ndarray, np.ndarray], object]] = {
    2: lambda image, out: cv2.flip(image, 1, out),
    3: lambda image, out: cv2.rotate(image, cv2.ROTATE_180, out),
    4: lambda image, out: cv2.flip(image, 0, out),
    5: cv2.transpose,
    6: lambda image, out: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE, out),
    7: lambda image, out: cv2.flip(cv2.transpose(image), -1, out),
    8: lambda image, out: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE, out),
}

Empty = Callable[[tuple[int, int, int]], np.ndarray]
"""Gives a uint8 array of a shape, its content undefined."""


def _new_array(shape: tuple[int, int, int]) -> np.ndarray:
    return np.empty(shape, np.uint8)


def decode(
    data: bytes, *, page: int = 0, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False, reduce: int = 1
) -> np.ndarray:
    """Decode one image, or one page of a TIFF, to 8-bit RGB.

    8-bit JPEG, PNG, BMP and WebP equal OpenCV's `IMREAD_COLOR` bit for bit. The EXIF orientation is applied, also where
    OpenCV misses it (WebP whose EXIF carries JPEG's prefix). The rules:

    - grey, 1, 2 and 4 bit: white is 255, the three channels are equal; a TIFF whose zero is white is inverted.
    - alpha and transparency: dropped, not blended; the colours under transparent pixels come to light.
    - palette: looked up.
    - 16 bit: the high byte, value >> 8; 12 bit: value >> 4. Data that uses a part of its range stays dark: scale it.
    - CMYK: red = (1 - cyan) * (1 - black) and so on, without profile; a JPEG's inks are taken as inverted (Adobe's
      way), a TIFF's as they are.
    - Lab (TIFF): to sRGB, the image's white taken as sRGB's.
    - colour profiles, gamma and gain maps: ignored.
    - animated PNG and WebP: the first picture (for PNG the default one; for WebP from OpenCV 4.11 on); MPO: the first.
    - TIFF samples that are signed, floating point, complex or of 32 bits: refused.

    Args:
        data: the whole file. Its content decides the format, not its name.
        page: of a TIFF, from 0; overviews and masks are no pages.
        max_pixels: a header that says more is refused, and nothing is decoded.
        allow_truncated: decode what is there of a cut file: JPEG (grey after the cut), PNG, BMP and uncompressed TIFF
            (black); nothing can be had of a cut WebP or compressed TIFF.
        reduce: 2, 4 or 8 decode a whole JPEG at that part of its sides, rounded up, as OpenCV's `IMREAD_REDUCED_COLOR_*`
            does. Anything else, cut JPEGs among it, comes in its own size all the same: look at the result's.

    Returns:
        uint8 (H, W, 3), RGB, C-contiguous, of the size `read_header` tells, but for `reduce`.

    Raises:
        ValueError: `reduce` is none of REDUCTIONS.
        UnsupportedImage: another format, or a kind without a rule.
        ImageTooLarge: more than `max_pixels`, or more than fits into memory.
        TruncatedImage: the file ends before its pixels do, unless `allow_truncated`.
        CorruptImage: anything else that keeps it from being decoded.
    """
    bgr = decode_bgr(data, page=page, max_pixels=max_pixels, allow_truncated=allow_truncated, reduce=reduce)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def decode_bgr(
    data: bytes,
    *,
    page: int,
    max_pixels: int,
    allow_truncated: bool,
    reduce: int = 1,
    empty: Empty = _new_array,
    path: str | None = None,
) -> np.ndarray:
    """What `decode` does, but BGR and into memory of the caller's choice.

    Args:
        empty: asked once, for the array to be filled and returned.
        path: a file with the same bytes, if there is one; spares a copy.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce is {reduce}; a JPEG can be decoded at 1 / {', '.join(map(str, REDUCTIONS))} of its sides")
    data = bytes(data)  # no copy where it is bytes; other buffers cannot be searched
    try:
        if sniff(data[:HEAD_BYTES]) == "TIFF":
            return _decode_tiff(data, page, max_pixels, allow_truncated, empty)
        return _decode_single(data, page, max_pixels, allow_truncated, reduce, empty, path)
    except TruncatedImage as error:
        if allow_truncated:
            raise CorruptImage(f"{error} Too little is there to decode any of it.") from error
        raise
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageTooLarge("the image does not fit into the memory that is left.") from error
    except Exception as error:  # damaged bytes make the libraries raise anything; it costs this image only
        raise CorruptImage(f"cannot be decoded, {type(error).__name__}: {error}. The file is damaged.") from error


def _decode_single(
    data: bytes, page: int, max_pixels: int, allow_truncated: bool, reduce: int, empty: Empty, path: str | None
) -> np.ndarray:
    header = read_header(data, page=page)
    _check_pixels(header.pixels, header, max_pixels)
    form = _FORMATS[header.format]
    reason = form.why_cut(data)
    whole = form.mend(data) if _may_mend(reason, allow_truncated) else data
    whole = _PREPARE.get(header.format, bytes)(whole)
    reduce = reduce if header.format == "JPEG" and reason is None else 1
    out = empty((*reduced_hw((header.height, header.width), reduce), 3))
    stored = out if header.orientation == 1 else np.empty((*reduced_hw(header.stored_hw, reduce), 3), np.uint8)
    opencv.read_bgr(whole, stored, path=path if whole is data else None, reduce=reduce)
    if header.orientation != 1:
        _TURNS[header.orientation](stored, out)
    return out


def _decode_tiff(data: bytes, page: int, max_pixels: int, allow_truncated: bool, empty: Empty) -> np.ndarray:
    directory = tiff.find_page(io.BytesIO(data), page)
    header = tiff.header_of(directory, pages=page + 1)
    _check_pixels(max(header.pixels, tiff.block_pixels(directory)), header, max_pixels)
    reason = tiff.why_cut(data, directory)
    whole = tiff.mend(data, directory) if _may_mend(reason, allow_truncated) else data
    out = empty((header.height, header.width, 3))
    tiff_pixels.read_bgr(whole, out, directory=directory, header=header)
    return out


def _check_pixels(pixels: int, header: Header, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise ImageTooLarge(
            f"{header.format} of {header.width} x {header.height} needs {pixels} pixels, more than --max-pixels "
            f"{max_pixels}. Raise it if the image is genuine and memory allows ({3 * pixels / 1e9:.1f} GB as RGB)."
        )


def _may_mend(reason: str | None, allow_truncated: bool) -> bool:
    """False for a whole file.

    Raises:
        TruncatedImage: it is cut, and that is not allowed.
    """
    if reason is not None and not allow_truncated:
        raise TruncatedImage(f"{reason}. Fetch it again, or take what is there with --allow-truncated.")
    return reason is not None
