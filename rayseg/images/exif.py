"""The one EXIF field that changes pixels: orientation (tag 274; TIFF 6.0 and EXIF 2.3, 4.6.4)."""

from __future__ import annotations

import io

from rayseg.errors import ImageError
from rayseg.images import tiff_directory

_PREFIX = b"Exif\0\0"
_ORIENTATION = 274


def from_segment(payload: bytes) -> int | None:
    """Orientation of a JPEG APP1 segment; None where the segment is not EXIF (it may be XMP)."""
    return orientation(payload) if payload.startswith(_PREFIX) else None


def orientation(block: bytes) -> int:
    """Orientation of an EXIF block, which is a small TIFF, with or without the prefix that JPEG puts before it.

    Returns:
        1 to 8; 1 for a broken block, as an image is not lost over its metadata.
    """
    try:
        padded = block.removeprefix(_PREFIX) + bytes(4)  # some writers leave out the offset of the next directory
        directory = next(tiff_directory.chain(io.BytesIO(padded)))
        return upright_or(directory.first(_ORIENTATION, 1))
    except ImageError:
        return 1


def upright_or(value: int) -> int:
    """The value if it is an orientation, else 1."""
    return value if 1 <= value <= 8 else 1
