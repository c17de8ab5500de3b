"""Pixels of one TIFF page, decoded by Pillow and turned into 8-bit colours by stated rules.

Pillow rather than OpenCV: it reads old-style JPEG and inks, refuses what it does not know instead of guessing, and
keeps 16-bit grey as it is. What a page may be at all is decided before, in tiff.py.
"""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from rayseg.errors import CorruptImage, UnsupportedImage
from rayseg.images.header import Header
from rayseg.images.tiff import PHOTOMETRIC
from rayseg.images.tiff_directory import Directory, first_offset_field

_WHITE_IS_ZERO = 0
_HIGH_BYTE = {12: 4, 16: 8}  # bits of a sample -> shift
_TO_RGB = ("1", "L", "LA", "La", "PA", "P", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr")  # modes that Pillow converts
_LAB_OFFSET = (0, 128, 128)  # a and b are signed bytes in the file, and +128 in OpenCV


def read_bgr(data: bytes, out: np.ndarray, *, directory: Directory, header: Header) -> None:
    """Decode one page, its orientation applied.

    Args:
        data: the whole file.
        out: uint8 (height, width, 3), filled with BGR.
        directory: of the page.
        header: of the page.

    Raises:
        UnsupportedImage: Pillow knows no such combination of samples, bits and colours.
        CorruptImage: the pixels cannot be decoded, or differ from the header.
    """
    # Pillow warns of odd metadata, which is no reason to lose an image.
    with warnings.catch_warnings(action="ignore"), _open(data, directory, header) as image:
        if sorted(image.size) != sorted(header.stored_hw):
            raise CorruptImage(f"TIFF: the header says {header.stored_hw}, the decoder {image.size}; the file is damaged.")
        image.load()
        if (image.height, image.width) != out.shape[:2]:
            raise CorruptImage(f"TIFF: the header says {out.shape[:2]}, the page is {image.height, image.width}.")
        _fill(image, out, inverted=directory.first(PHOTOMETRIC, 0) == _WHITE_IS_ZERO, bits=header.bits)


def _open(data: bytes, directory: Directory, header: Header) -> TiffImagePlugin.TiffImageFile:
    """Open lazily, with the wanted page in first place.

    Pillow's own `seek` and `Image.open` would apply its process-wide limit of pixels; ours was checked already.
    """
    file = io.BytesIO(data)
    position, offset = first_offset_field(directory.order, directory.big, directory.offset)
    if data[position : position + len(offset)] != offset:
        file.seek(position)
        file.write(offset)
        file.seek(0)
    try:
        return TiffImagePlugin.TiffImageFile(file)
    except MemoryError:
        raise
    except Exception as error:
        raise UnsupportedImage(
            f"TIFF: {header.colour} of {header.bits} bits in this arrangement is not read ({error}). Convert it to PNG."
        ) from error


def _fill(image: Image.Image, out: np.ndarray, *, inverted: bool, bits: int) -> None:
    """The rules of `decode`, by the mode Pillow gives."""
    if image.mode.startswith("I;16") and bits in _HIGH_BYTE:
        grey = (np.asarray(image) >> _HIGH_BYTE[bits]).astype(np.uint8)
        cv2.cvtColor(255 - grey if inverted else grey, cv2.COLOR_GRAY2BGR, out)
    elif image.mode == "CMYK":
        _inks_to_bgr(np.asarray(image), out)
    elif image.mode == "LAB":
        cv2.cvtColor(np.asarray(image) ^ np.array(_LAB_OFFSET, np.uint8), cv2.COLOR_Lab2BGR, out)
    elif image.mode in _TO_RGB:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2BGR, out)
    else:
        raise UnsupportedImage(f"TIFF: samples of the kind {image.mode!r} have no rule. Scale it to 8-bit integers first.")


def _inks_to_bgr(cmyk: np.ndarray, out: np.ndarray) -> None:
    """The plain formula OpenCV has for CMYK JPEGs; uint8 (H, W, 4), 255 is full ink, no profile."""
    black = 255 - cmyk[..., 3].astype(np.uint16)
    for channel, ink in enumerate((2, 1, 0)):
        out[..., channel] = black - (cmyk[..., ink] * black >> 8)
