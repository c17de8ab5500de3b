"""The records of an `inference.pdiparams`: is it whole, and where is each? They are walked without reading their numbers.

The file is a row of records without an index: version (u32), levels of offsets (u64, each a u64 length and as many
bytes), version (u32), length (i32) of a protobuf message with the type (field 1) and the sides (field 2), then the
numbers.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO

from rayseg.errors import ModelError

# Paddle's VarType codes -> bytes of one number.
_ITEM_BYTES = {0: 1, 1: 2, 2: 4, 3: 8, 4: 2, 5: 4, 6: 8, 20: 1, 21: 1, 22: 2, 23: 8, 24: 16}


def check_params_file(path: Path, expected: int | None) -> None:
    """Raise ModelError unless the file ends exactly where a record ends and holds the expected number of tensors.

    Args:
        expected: tensors the program wants; None when unknown.
    """
    count = len(record_spans(path))
    if expected is not None and count != expected:
        raise ModelError(f"{path}: holds {count} tensors, the program wants {expected}; the two files belong to different models")


def record_spans(path: Path) -> list[tuple[int, int]]:
    """First byte of each record, and the first after it, in the file's order.

    Raises:
        ModelError: the file does not end where a record ends.
    """
    size = path.stat().st_size
    spans: list[tuple[int, int]] = []
    with path.open("rb") as file:
        while file.tell() < size:
            start = file.tell()
            try:
                end = _skip_record(file)
            except (ValueError, EOFError) as error:
                raise ModelError(
                    f"{path}: byte {start} does not start a Paddle tensor ({error}); the file is damaged or cut"
                ) from error
            if end > size:
                raise ModelError(
                    f"{path}: tensor {len(spans)} should end at byte {end}, the file has {size}; "
                    "it was cut short, copy the directory again"
                )
            file.seek(end)
            spans.append((start, end))
    return spans


def _skip_record(file: BinaryIO) -> int:
    """Position just after the record that starts here."""
    if _number(file, 4) != 0:
        raise ValueError("unknown version")
    for _ in range(_small(_number(file, 8), "offset levels")):
        file.seek(_number(file, 8), os.SEEK_CUR)
    if _number(file, 4) != 0:
        raise ValueError("unknown tensor version")
    message = _exactly(file, _small(_number(file, 4), "header bytes"))
    code, sides = _describe(message)
    if code not in _ITEM_BYTES:
        raise ValueError(f"unknown number type {code}")
    return file.tell() + math.prod(sides) * _ITEM_BYTES[code]


def _describe(message: bytes) -> tuple[int, list[int]]:
    """Type code and sides from the protobuf message; sides may be packed or not."""
    code, sides, at = -1, [], 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            if key >> 3 == 1:
                code = value
            elif key >> 3 == 2:
                sides.append(value)
        elif key == (2 << 3 | 2):
            length, at = _varint(message, at)
            stop = at + length
            while at < stop:
                value, at = _varint(message, at)
                sides.append(value)
        else:
            raise ValueError(f"unexpected field {key}")
    return code, sides


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("broken header")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _number(file: BinaryIO, size: int) -> int:
    return int.from_bytes(_exactly(file, size), "little")


def _exactly(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) != size:
        raise EOFError("the file ends inside a header")
    return found


def _small(value: int, what: str) -> int:
    if value > 4096:
        raise ValueError(f"{value} {what}")
    return value
