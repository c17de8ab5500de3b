"""PNG files: header, completeness, and what a decoder need not see. Chunks: W3C PNG (Third Edition), section 5."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from rayseg.errors import CorruptImage, ImageTooLarge, TruncatedImage
from rayseg.images import exif
from rayseg.images.header import Header, oriented, take, unpack

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = {0: ("grey", 1), 2: ("rgb", 3), 3: ("palette", 1), 4: ("grey+alpha", 2), 6: ("rgba", 4)}  # name, channels
_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7
_NO_PIXELS = {b"acTL", b"fcTL", b"fdAT", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf"}
_EXIF_LIMIT = 1 << 20
_SIDE_LIMIT = 1_000_000  # of libpng, as everyone compiles it


def read_header(file: BinaryIO) -> Header:
    """Read the header; the chunks are walked to their end for an orientation, as it may stand behind the pixels.

    Raises:
        TruncatedImage: the file ends within the first chunk.
        CorruptImage: the first chunk is not a header, or says what no PNG can.
        ImageTooLarge: a side beyond what any decoder of PNG takes.
    """
    file.seek(len(_SIGNATURE))
    length, name, width, height, bits, kind, _, _, interlace = unpack(">I4sIIBBBBB", file, "the PNG header")
    if name != b"IHDR" or length != 13:
        raise CorruptImage(f"PNG: the first chunk is {name!r} of {length} bytes, not the header; the file is damaged.")
    if bits not in _BITS.get(kind, ()) or interlace > 1:
        raise CorruptImage(f"PNG: colour type {kind} with {bits} bits, interlace {interlace}: no PNG has that.")
    if max(width, height) > _SIDE_LIMIT:
        raise ImageTooLarge(f"PNG of {width} x {height}: the decoder stops at {_SIDE_LIMIT} a side. Convert it to TIFF.")
    return oriented("PNG", width, height, colour=_COLOURS[kind][0], bits=bits, orientation=_orientation(file))


def why_cut(data: bytes) -> str | None:
    """Say why the file is incomplete; None when its end chunk is there.

    Raises:
        CorruptImage: the walk from chunk to chunk meets something that is no chunk.
    """
    last = b""
    for name, start, length in _chunks(io.BytesIO(data)):
        if start + length + 4 > len(data):
            return f"the PNG has {len(data)} bytes, its {name.decode('ascii')} chunk ends at byte {start + length + 4}"
        last = name
    return None if last == b"IEND" else f"the PNG has no end chunk in its {len(data)} bytes"


def plain(data: bytes) -> bytes:
    """The file without animation, text, profile and EXIF chunks.

    Text and profiles may unpack to gigabytes, and decoders differ in which picture of an animation they return: without
    these chunks it is the default image, the one that any reader of plain PNG shows.
    """
    chunks = list(_chunks(io.BytesIO(data)))
    if not any(name in _NO_PIXELS for name, _, _ in chunks):
        return data
    kept = (data[start - 8 : start + length + 4] for name, start, length in chunks if name not in _NO_PIXELS)
    return _SIGNATURE + b"".join(kept)


def mend(data: bytes) -> bytes:
    """A whole PNG from a cut one: the pixels that came, and zeros (black, transparent, first palette entry) after them.

    Raises:
        CorruptImage: no pixel came, or the pixel stream is damaged before the cut.
    """
    width, height, bits, kind, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    wanted = _raw_bytes(width, height, bits * _COLOURS[kind][1], interlaced=bool(interlace))
    before, packed = [], []
    for name, start, length in _chunks(io.BytesIO(data)):
        if name == b"IDAT":
            packed.append(data[start : start + length])
        elif name not in _NO_PIXELS and name != b"IEND" and not packed and start + length + 4 <= len(data):
            before.append(data[start - 8 : start + length + 4])
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(b"".join(packed), wanted)
    except zlib.error as error:
        raise CorruptImage(f"PNG: the pixel stream is damaged ({error}).") from error
    if not raw:
        raise CorruptImage("PNG: the file ends before its first pixel; nothing can be decoded.")
    pixels = zlib.compress(raw + bytes(wanted - len(raw)), 1)
    return _SIGNATURE + b"".join([*before, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")])


def _raw_bytes(width: int, height: int, bits_per_pixel: int, *, interlaced: bool) -> int:
    """Bytes of the unpacked pixel stream: each row has a filter byte, each pass its own rows."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    total = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -((x - width) // step_x), -((y - height) // step_y)
        total += rows * (1 + (columns * bits_per_pixel + 7) // 8) if columns > 0 and rows > 0 else 0
    return total


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _orientation(file: BinaryIO) -> int:
    try:
        for name, start, length in _chunks(file):
            if name == b"eXIf" and length <= _EXIF_LIMIT:
                file.seek(start)
                return exif.orientation(take(file, length, "the EXIF chunk"))
    except (CorruptImage, TruncatedImage):
        pass  # whether the rest of the file is whole is asked elsewhere
    return 1


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the body and its length, up to the end chunk or the end of the file."""
    position, name = len(_SIGNATURE), b""
    while name != b"IEND":
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        length, name = struct.unpack(">I4s", head)
        if not name.isalpha():
            raise CorruptImage(f"PNG: no chunk at byte {position}, where the one before it ends; the file is damaged.")
        yield name, position + 8, length
        position += 12 + length
