"""What an image's header says, and the small reads every format parser shares.

The parsers themselves are in jpeg.py, png.py, bmp.py, webp.py and tiff.py; identify.py decides which one is asked.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from rayseg.errors import CorruptImage, TruncatedImage


@dataclass(frozen=True)
class Header:
    """One image as `decode` would return it, known without decoding a pixel."""

    format: str
    """JPEG, PNG, BMP, WebP or TIFF."""
    width: int
    """Of the decoded array, that is, after the EXIF orientation."""
    height: int
    """Of the decoded array, that is, after the EXIF orientation."""
    pages: int
    """Pages of a TIFF, without its overviews and masks; 1 for every other format."""
    colour: str
    """As stored: grey, grey+alpha, rgb, rgba, palette, cmyk, ycbcr or lab."""
    bits: int
    """Bits of one stored sample; of one palette index for palette images."""
    orientation: int = 1
    """EXIF orientation, 1 to 8; 1 also where the file has none or a broken one."""

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    @property
    def stored_hw(self) -> tuple[int, int]:
        """Height and width as stored, before the EXIF orientation."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def oriented(
    format_name: str, width: int, height: int, *, colour: str, bits: int, orientation: int = 1, pages: int = 1
) -> Header:
    """Build a header from the stored size; orientations 5 to 8 swap the axes.

    Raises:
        CorruptImage: a side is not positive.
    """
    if width <= 0 or height <= 0:
        raise CorruptImage(f"{format_name}: the header says {width} x {height} pixels; the file is damaged.")
    if orientation >= 5:
        width, height = height, width
    return Header(format_name, width, height, pages, colour, bits, orientation)


def take(file: BinaryIO, count: int, what: str) -> bytes:
    """Read exactly `count` bytes.

    Raises:
        TruncatedImage: the file ends first; `what` names the part that is missing.
    """
    data = file.read(count)
    if len(data) < count:
        raise TruncatedImage(f"the file ends within {what}: {count} bytes wanted, {len(data)} left. Fetch it again.")
    return data


def unpack(layout: str, file: BinaryIO, what: str) -> tuple[Any, ...]:
    """Read and unpack one `struct` layout.

    Raises:
        TruncatedImage: the file ends first.
    """
    return struct.unpack(layout, take(file, struct.calcsize(layout), what))
