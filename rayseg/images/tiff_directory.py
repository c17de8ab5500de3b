"""Walking the directories (IFDs) of a TIFF or BigTIFF with small reads, so that a page count of a remote file is cheap.

TIFF 6.0, section 2; BigTIFF: the same with 64-bit offsets. What the fields mean for pixels is tiff.py's business.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from rayseg.errors import CorruptImage, TruncatedImage
from rayseg.images.header import take, unpack

_MAX_FIELDS = 65_535
_SMALLEST_FIELD = 12  # bytes
_INTEGERS = {
    1: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}  # type -> numpy


@dataclass(frozen=True)
class Directory:
    """One directory: its fields are read when asked for."""

    file: BinaryIO
    order: str
    """'<' or '>', as struct wants it."""
    big: bool
    """True for BigTIFF."""
    offset: int
    """Where the directory lies in the file."""
    entries: dict[int, tuple[int, int, bytes]]
    """tag -> field type, count, and the four or eight bytes that hold the values or their offset."""

    def values(self, tag: int, *, most: int = 64) -> tuple[int, ...]:
        """The first values of an integer field; empty where the field is absent or no integer.

        Raises:
            TruncatedImage: the values lie behind the end of the file.
        """
        return tuple(self._array(tag, most).tolist())

    def first(self, tag: int, default: int) -> int:
        """The first value of an integer field, or the default where there is none."""
        values = self.values(tag, most=1)
        return values[0] if values else default

    def all_values(self, tag: int) -> np.ndarray:
        """Every value of an integer field, float64 (n,), exact up to 2^53; for fields with a value for each tile."""
        return self._array(tag, None).astype(np.float64)

    def _array(self, tag: int, most: int | None) -> np.ndarray:
        kind, count, inline = self.entries.get(tag, (0, 0, b""))
        if kind not in _INTEGERS or count == 0:
            return np.empty(0, np.int64)
        dtype = np.dtype(self.order + _INTEGERS[kind])
        if count * dtype.itemsize > len(inline):
            (offset,) = struct.unpack(self.order + ("Q" if self.big else "I"), inline)
            wanted = (count if most is None else min(count, most)) * dtype.itemsize
            inline = _take_at(self.file, offset, wanted, f"the values of TIFF tag {tag}")
        return np.frombuffer(inline, dtype, count=min(count, len(inline) // dtype.itemsize, most or count))


def chain(file: BinaryIO) -> Iterator[Directory]:
    """The directories in the order of the file, pages, overviews and masks alike; sub-directories are left out.

    Raises:
        TruncatedImage: a directory lies behind the end of the file.
        CorruptImage: the chain runs in a circle, is empty, or the file is no TIFF.
    """
    order, big, offset = _start(file)
    size = file.seek(0, io.SEEK_END)
    seen: set[int] = set()
    fields = 0
    while offset:
        if offset in seen:
            raise CorruptImage(f"TIFF: the directory at byte {offset} comes twice; the chain of pages is a circle.")
        seen.add(offset)
        directory, count, offset = _read(file, order, big, offset)
        fields += count
        if fields * _SMALLEST_FIELD > size:  # or a small file could ask for hours of walking
            raise CorruptImage(f"TIFF: {len(seen)} directories need more than the file's {size} bytes; they overlap.")
        yield directory
    if not seen:
        raise CorruptImage("TIFF: no directory, hence no page; the file was not closed by its writer.")


def first_offset_field(order: str, big: bool, offset: int) -> tuple[int, bytes]:
    """Where the header keeps the offset of the first directory, and the bytes that would put another one there."""
    return (8, struct.pack(order + "Q", offset)) if big else (4, struct.pack(order + "I", offset))


def _start(file: BinaryIO) -> tuple[str, bool, int]:
    file.seek(0)
    mark = take(file, 2, "the TIFF header")
    order = {b"II": "<", b"MM": ">"}.get(mark)
    if order is None:
        raise CorruptImage(f"TIFF: the byte order mark is {mark!r}; II or MM is possible.")
    (version,) = unpack(order + "H", file, "the TIFF header")
    if version == 42:
        return order, False, unpack(order + "I", file, "the TIFF header")[0]
    if version == 43:
        return order, True, unpack(order + "HHQ", file, "the BigTIFF header")[2]
    raise CorruptImage(f"TIFF: version {version}; 42 (TIFF) or 43 (BigTIFF) is possible.")


def _read(file: BinaryIO, order: str, big: bool, offset: int) -> tuple[Directory, int, int]:
    """One directory, the count of its fields and the offset of the next directory, in two reads."""
    count_layout, entry_layout, next_layout = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    count_size, entry_size, next_size = (struct.calcsize(order + x) for x in (count_layout, entry_layout, next_layout))
    (count,) = struct.unpack(order + count_layout, _take_at(file, offset, count_size, "a TIFF directory"))
    if not 0 < count <= _MAX_FIELDS:
        raise CorruptImage(f"TIFF: the directory at byte {offset} claims {count} fields; the file is damaged.")
    body = take(file, entry_size * count + next_size, f"the TIFF directory at byte {offset}")
    fields = struct.iter_unpack(order + entry_layout, body[: entry_size * count])
    entries = {tag: (kind, number, inline) for tag, kind, number, inline in fields}
    (following,) = struct.unpack(order + next_layout, body[entry_size * count :])
    return Directory(file, order, big, offset, entries), count, following


def _take_at(file: BinaryIO, offset: int, count: int, what: str) -> bytes:
    """Read `count` bytes at `offset`; the file's length is asked first, since both may be any number."""
    end = file.seek(0, io.SEEK_END)
    if offset + count > end:
        raise TruncatedImage(f"the file ends at byte {end}, before {what} at byte {offset}. Fetch it again.")
    file.seek(offset)
    return take(file, count, what)
