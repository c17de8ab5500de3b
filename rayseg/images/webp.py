"""WebP files: header and completeness. Layout: RFC 9649."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from rayseg.errors import CorruptImage, TruncatedImage
from rayseg.images import exif
from rayseg.images.header import Header, oriented, take, unpack

_HAS_EXIF, _HAS_ALPHA = 0x08, 0x10  # flags of the extended header
_EXIF_LIMIT = 1 << 20


def read_header(file: BinaryIO) -> Header:
    """Read the header. Of an animation the first frame is the image, on the canvas of all of them.

    Raises:
        TruncatedImage: the file ends within the header.
        CorruptImage: the first chunk is none that a WebP begins with.
    """
    file.seek(12)
    name, _ = unpack("<4sI", file, "the WebP header")
    if name == b"VP8X":
        flags, sides = unpack("<B3x6s", file, "the WebP canvas size")
        width, height = (int.from_bytes(sides[i : i + 3], "little") + 1 for i in (0, 3))
        alpha, orientation = bool(flags & _HAS_ALPHA), _orientation(file) if flags & _HAS_EXIF else 1
    elif name == b"VP8L":
        signature, packed = unpack("<BI", file, "the lossless WebP header")
        if signature != 0x2F:
            raise CorruptImage(f"WebP: the lossless signature is {signature:#x}, not 0x2f; the file is damaged.")
        width, height, alpha, orientation = (
            (packed & 0x3FFF) + 1,
            (packed >> 14 & 0x3FFF) + 1,
            bool(packed >> 28 & 1),
            1,
        )
    elif name == b"VP8 ":
        start_code, width, height = unpack("<3x3sHH", file, "the lossy WebP header")
        if start_code != b"\x9d\x01\x2a":
            raise CorruptImage(f"WebP: the start code is {start_code.hex()}, not 9d012a; the file is damaged.")
        width, height, alpha, orientation = width & 0x3FFF, height & 0x3FFF, False, 1
    else:
        raise CorruptImage(f"WebP: the first chunk is {name!r}; VP8, VP8L or VP8X is possible.")
    return oriented("WebP", width, height, colour="rgba" if alpha else "rgb", bits=8, orientation=orientation)


def why_cut(data: bytes) -> str | None:
    """Say why the file is incomplete; None when it is as long as its RIFF header says."""
    (length,) = struct.unpack_from("<I", data, 4)
    return f"the WebP has {len(data)} bytes of {length + 8}" if length + 8 > len(data) else None


def mend(data: bytes) -> bytes:
    """A WebP cannot be decoded in part.

    Raises:
        CorruptImage: always.
    """
    raise CorruptImage(f"{why_cut(data)}, and a cut WebP cannot be decoded in part. Fetch it again.")


def _orientation(file: BinaryIO) -> int:
    try:
        for name, start, length in _chunks(file):
            if name == b"EXIF" and length <= _EXIF_LIMIT:
                file.seek(start)
                return exif.orientation(take(file, length, "the EXIF chunk"))
    except TruncatedImage:
        pass  # whether the rest of the file is whole is asked elsewhere
    return 1


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the body and its length; bodies are padded to even lengths."""
    position = 12
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        name, length = struct.unpack("<4sI", head)
        yield name, position + 8, length
        position += 8 + length + length % 2
