"""Index masks: one class id for each pixel, as a single-channel PNG, TIFF or BMP.

They are read as the numbers stored, never as colours: a palette is not looked up and small grey depths are not stretched.
Which numbers are allowed is decided in check_semantic.py and by the reader of the data set.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
from PIL import BmpImagePlugin, Image, PngImagePlugin, TiffImagePlugin

from rayseg.draw import PALETTE
from rayseg.errors import CorruptImage, ImageTooLarge, TruncatedImage, UnsupportedImage
from rayseg.images import MAX_PIXELS, Header, read_header
from rayseg.images import png as png_file

_LARGEST = 65535
_GREY_STEP = {2: 85, 4: 17}  # bits -> what Pillow multiplies grey samples of that depth with
# Called by name: `Image.open` would apply Pillow's process-wide limit of pixels; ours is checked before.
_OPENERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}


def read_index_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The class ids of a mask.

    Args:
        data: the whole file.
        max_pixels: a header that says more is refused, and nothing is decoded.

    Returns:
        uint8 (H, W) where all ids are below 256, else uint16.

    Raises:
        UnsupportedImage: the format loses numbers, has more than one channel, or its samples are no whole numbers from 0
            to 65535; see `format_problem`.
        ImageError: it cannot be read at all.
    """
    header = read_header(data)
    problem = format_problem(header)
    if problem is not None:
        raise UnsupportedImage("; ".join(problem[1:]))
    if header.pixels > max_pixels:
        raise ImageTooLarge(f"{header.format} of {header.width} x {header.height}: more than {max_pixels} pixels; cut it up")
    reason = png_file.why_cut(data) if header.format == "PNG" else None
    if reason:
        raise TruncatedImage(f"{reason}; write the mask again")
    try:
        with warnings.catch_warnings(action="ignore"), _OPENERS[header.format](io.BytesIO(data)) as image:
            return _whole_numbers(np.asarray(image), image.mode, header.bits)
    except UnsupportedImage:
        raise
    except Exception as error:  # damaged bytes make Pillow raise anything; it costs this mask only
        raise CorruptImage(f"cannot be decoded, {type(error).__name__}: {error}; write the mask again") from error


def format_problem(header: Header) -> tuple[str, str, str] | None:
    """Why a file of this kind is no index mask, from its header: (short name, problem, remedy)."""
    if header.format in ("JPEG", "WebP"):
        return (
            "lossy-mask",
            f"the mask is {header.format}, which changes the numbers of neighbouring pixels when it is written",
            "make it again as PNG from its source; converting this file keeps the damage",
        )
    if header.colour not in ("grey", "palette"):
        problem = f"the mask holds {header.colour} of {header.bits} bits, not one channel of class ids"
        return "colour-mask", problem, "replace each colour by its class id and save one channel"
    if header.orientation != 1:
        return "turned-mask", "the mask has an EXIF orientation", "turn its pixels and drop the tag"
    return None


def write_index_mask(labels: np.ndarray) -> bytes:
    """A palette PNG of class ids, with the same colours for the same ids in every file.

    Args:
        labels: uint8 (H, W).
    """
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise ValueError(f"a palette PNG holds uint8 (H, W), got {labels.dtype} {labels.shape}")
    image = Image.frombytes("P", (labels.shape[1], labels.shape[0]), labels.tobytes())
    colours = PALETTE.copy()
    colours[0] = 0  # background
    image.putpalette(colours.tobytes())
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def _whole_numbers(labels: np.ndarray, mode: str, bits: int) -> np.ndarray:
    if labels.ndim != 2:
        raise UnsupportedImage(f"{labels.shape[-1]} channels where one of class ids belongs; replace each colour by its id")
    if labels.dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > _LARGEST:
        raise UnsupportedImage(f"samples of kind {mode!r} ({labels.dtype}); class ids are whole numbers from 0 to {_LARGEST}")
    if mode == "L":
        labels = labels // _GREY_STEP.get(bits, 1)
    return np.ascontiguousarray(labels, dtype=np.uint8 if labels.max() < 256 else np.uint16)
