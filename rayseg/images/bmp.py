"""BMP files: header and completeness. Layout: Microsoft's BITMAPFILEHEADER and its info headers."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

from rayseg.errors import CorruptImage, UnsupportedImage
from rayseg.images.header import Header, oriented, unpack

_OS2_HEADER_BYTES = 12
_BITS = (1, 4, 8, 16, 24, 32)
_RLE8, _RLE4, _JPEG, _PNG = 1, 2, 4, 5
_END_OF_BITMAP = b"\0\1"


@dataclass(frozen=True)
class _Fields:
    start: int
    """Offset of the pixels."""
    width: int
    height: int
    """Negative when the first row is the top one."""
    bits: int
    compression: int
    packed_bytes: int
    """Of the pixels, where they are compressed."""

    @property
    def packed(self) -> bool:
        return self.compression in (_RLE8, _RLE4)

    def end(self, *, padded: bool) -> int:
        """The byte behind the last row, with or without the padding of rows to four bytes."""
        if self.packed:
            return self.start + self.packed_bytes
        row_bytes = (self.width * self.bits + 7) // 8
        stride = (row_bytes + 3) // 4 * 4
        return self.start + stride * (abs(self.height) - 1) + (stride if padded else row_bytes)


def read_header(file: BinaryIO) -> Header:
    """Read the header.

    Raises:
        TruncatedImage: the file ends within the header.
        UnsupportedImage: the pixels are a JPEG or PNG inside, as printers use.
        CorruptImage: a size or bit depth that no BMP has.
    """
    fields = _read(file)
    if fields.compression in (_JPEG, _PNG):
        raise UnsupportedImage(f"BMP with compression {fields.compression}, a JPEG or PNG inside. Take that one out.")
    if fields.bits not in _BITS:
        raise CorruptImage(f"BMP: {fields.bits} bits per pixel; one of {_BITS} is possible.")
    colour = "palette" if fields.bits <= 8 else "rgb"
    return oriented("BMP", fields.width, abs(fields.height), colour=colour, bits=min(fields.bits, 8))


def why_cut(data: bytes) -> str | None:
    """Say why the file is incomplete; None when its pixels are there. The padding of the last row may be missing."""
    needed = _read(io.BytesIO(data)).end(padded=False)
    return f"the BMP has {len(data)} bytes, its pixels end at byte {needed}" if len(data) < needed else None


def padded(data: bytes) -> bytes:
    """The file with the padding of its last row, which some writers leave out and decoders insist on."""
    fields = _read(io.BytesIO(data))
    missing = 0 if fields.packed else fields.end(padded=True) - len(data)
    return data + bytes(missing) if missing > 0 else data


def mend(data: bytes) -> bytes:
    """Give a cut file black pixels (or the first palette entry) where it ends.

    Raises:
        CorruptImage: no pixel came.
    """
    fields = _read(io.BytesIO(data))
    if len(data) <= fields.start:
        raise CorruptImage("BMP: the file ends before its first pixel; nothing can be decoded.")
    return data + _END_OF_BITMAP if fields.packed else padded(data)


def _read(file: BinaryIO) -> _Fields:
    file.seek(10)
    start, header_bytes = unpack("<II", file, "the BMP header")
    if header_bytes == _OS2_HEADER_BYTES:
        width, height, _, bits = unpack("<HHHH", file, "the BMP header")
        return _Fields(start, width, height, bits, 0, 0)
    width, height, _, bits, compression, packed_bytes = unpack("<iiHHII", file, "the BMP header")
    return _Fields(start, width, height, bits, compression, packed_bytes)
