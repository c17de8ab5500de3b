"""Small files made here, byte by byte where no library would write them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "WebP", "TIFF")
EXTRA = {"WebP": {"lossless": True}}


def picture(height: int = 24, width: int = 40, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3): a slope with noise, so that no turn or flip of it equals another."""
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([6 * y, 3 * x, 2 * (x + y)], axis=-1)
    return ((slopes + np.random.default_rng(seed).integers(0, 16, slopes.shape)) % 256).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """The pixels in a format, written by Pillow."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    file = io.BytesIO()
    image.save(file, kind.upper(), **(EXTRA.get(kind, {}) | options))
    return file.getvalue()


def with_orientation(pixels: np.ndarray, kind: str, orientation: int) -> bytes:
    """The pixels as stored, with an EXIF orientation."""
    exif = Image.Exif()
    exif[274] = orientation
    return encode(pixels, kind, exif=exif.tobytes())


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, kind: int, raw: bytes, *extra: bytes) -> bytes:
    """A PNG from its raw rows (each with its filter byte); `extra` chunks go before the pixels."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    end = png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + end


def png_rows(samples: np.ndarray) -> bytes:
    """Unfiltered rows of uint8 or uint16 samples (H, W, C)."""
    return b"".join(b"\0" + row.astype(samples.dtype.newbyteorder(">")).tobytes() for row in samples)


def tiff(*pages: dict[int, int | tuple[int, ...]], strips: bytes = b"", next_of_last: int = 0) -> bytes:
    """A little-endian TIFF: each page's tags as 32-bit numbers, `strips` at byte 8 of the file."""
    data = bytearray(b"II*\0" + struct.pack("<I", 8 + len(strips)) + strips)
    for number, tags in enumerate(pages):
        values, body = b"", b""
        values_at = len(data) + 2 + 12 * len(tags) + 4
        for tag, value in sorted(tags.items()):
            numbers = value if isinstance(value, tuple) else (value,)
            packed = struct.pack(f"<{len(numbers)}I", *numbers)
            inline = packed if len(packed) == 4 else struct.pack("<I", values_at + len(values))
            values += packed if len(packed) > 4 else b""
            body += struct.pack("<HHI4s", tag, 4, len(numbers), inline)
        following = values_at + len(values) if number < len(pages) - 1 else next_of_last
        data += struct.pack("<H", len(tags)) + body + struct.pack("<I", following) + values
    return bytes(data)


def grey_page(width: int, height: int, bits: int = 8, **more: int) -> dict[int, int | tuple[int, ...]]:
    """Tags of an uncompressed grey page whose one strip lies at byte 8."""
    size = height * ((width * bits + 7) // 8)
    return {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: size} | {
        int(tag.removeprefix("tag")): value for tag, value in more.items()
    }
