"""JPEG files: size and orientation from the markers, and whether the picture's end is there.

MPO files and pictures with a gain map are JPEGs with more pictures behind the first; the first is the one that counts.
Markers: ITU-T T.81, annex B.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from rayseg.errors import CorruptImage, UnsupportedImage
from rayseg.images import exif
from rayseg.images.header import Header, oriented, take, unpack

_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_READ_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # sequential and progressive, Huffman or arithmetic coding
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_COLOURS = {1: "grey", 3: "ycbcr", 4: "cmyk"}
_END = b"\xff\xd9"
_STRAY_LIMIT = 65536  # bytes of junk between two segments; seen in the wild: a handful
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]", re.DOTALL)


def read_header(file: BinaryIO) -> Header:
    """Read the header of the first picture.

    Raises:
        TruncatedImage: the file ends before the picture's frame header.
        CorruptImage: no frame header before the pixels.
        UnsupportedImage: lossless or hierarchical coding, or more than 8 bits.
    """
    orientation = None
    for marker, length in _segments(file):
        if marker == _APP1 and orientation is None:
            orientation = exif.from_segment(take(file, length, "the EXIF segment"))
        if marker in _FRAMES:
            bits, height, width, channels = unpack(">BHHB", file, "the frame header")
            if marker not in _READ_FRAMES or bits != 8:
                raise UnsupportedImage(
                    f"JPEG: {bits} bits and coding process {marker - 0xC0}; only 8-bit sequential and progressive "
                    "pictures are read. Convert it to PNG."
                )
            if channels not in _COLOURS:
                raise CorruptImage(f"JPEG: the frame header says {channels} channels; 1, 3 or 4 are possible.")
            return oriented("JPEG", width, height, colour=_COLOURS[channels], bits=bits, orientation=orientation or 1)
    raise CorruptImage("JPEG: the pixels begin before any frame header; the file is damaged.")


def why_cut(data: bytes) -> str | None:
    """Say why the picture is incomplete; None when its end marker is there.

    Coded pixels hold no end marker by construction, so one behind the scan header closes the picture, whatever else
    follows. A picture that has all its pixels and lacks the marker alone counts as cut too.

    Raises:
        TruncatedImage: the file ends before the scan header.
    """
    if data.rfind(_END, _scan_start(data)) < 0:
        return f"the JPEG has no end marker in its {len(data)} bytes"
    return None


def mend(data: bytes) -> bytes:
    """Close a cut picture, so that the decoder fills what is missing with grey (or with its coarser scans).

    Raises:
        TruncatedImage, CorruptImage: no pixel was coded before the cut.
    """
    start = _scan_start(data)
    if start >= len(data):
        raise CorruptImage("JPEG: the file ends before its first pixel; nothing can be decoded.")
    for found in _SEGMENT.finditer(data, start):
        length = data[found.end() : found.end() + 2]
        if len(length) < 2 or found.end() + int.from_bytes(length, "big") > len(data):
            return data[: found.start()] + _END
    return data + _END


def _scan_start(data: bytes) -> int:
    """Offset of the first coded pixel; may lie behind the end of the data."""
    file = io.BytesIO(data)
    for marker, length in _segments(file):
        if marker == _SOS:
            return file.tell() + length
    raise AssertionError("segments end with the scan header or an error")


def _segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Each marker with its payload's length, the file standing at the payload; ends with the first scan header."""
    file.seek(2)
    while True:
        marker = _next_marker(file)
        if marker in _ALONE:
            continue
        if marker == _EOI:
            raise CorruptImage("JPEG: the end marker comes before any pixel; the file is damaged.")
        length = max(0, unpack(">H", file, "a JPEG segment")[0] - 2)
        start = file.tell()
        yield marker, length
        if marker == _SOS:
            return
        file.seek(start + length)


def _next_marker(file: BinaryIO) -> int:
    """Skip to the next marker as libjpeg does: over stray bytes, fill bytes and stuffed zeros."""
    for _ in range(_STRAY_LIMIT):
        if take(file, 1, "the JPEG header") != b"\xff":
            continue
        byte = b"\xff"
        while byte == b"\xff":
            byte = take(file, 1, "the JPEG header")
        if byte != b"\0":
            return byte[0]
    raise CorruptImage(f"JPEG: {_STRAY_LIMIT} bytes without a marker in the header; the file is damaged.")
