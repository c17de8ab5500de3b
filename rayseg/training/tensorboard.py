"""Scalars in TensorBoard's event files.

A file is a row of records: length (u64), masked CRC-32C of the length, the bytes, masked CRC-32C of the bytes (TensorFlow's
TFRecord), all little-endian. The bytes are protobuf messages of a few fields each, written here by hand: TensorBoard's own
writer would bring its whole package along.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_MASK_DELTA = 0xA282EAD8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SESSION_START = 1


class ScalarWriter:
    """Appends scalars to a new event file in a folder; what was written stays readable after a kill."""

    def __init__(self, folder: Path, *, purge_from: int | None = None) -> None:
        """`purge_from`: TensorBoard drops what earlier files of the folder hold from this step on."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns() % 10**9}"
        self.path = folder / name
        self._write(_text(3, "brain.Event:2"))
        if purge_from is not None:
            self._write(_number(2, purge_from) + _message(7, _number(1, _SESSION_START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write values by tag."""
        summary = b"".join(_message(1, _text(1, tag) + _float(2, value)) for tag, value in values.items())
        self._write(_number(2, step) + _message(5, summary))

    def _write(self, event: bytes) -> None:
        data = _double(1, time.time()) + event
        length = struct.pack("<Q", len(data))
        with self.path.open("ab") as file:
            file.write(length + _masked(length) + data + _masked(data))


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(_row(byte) for byte in range(256))


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _key(field, _FIXED64) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _key(field, _FIXED32) + struct.pack("<f", value)


def _message(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())
