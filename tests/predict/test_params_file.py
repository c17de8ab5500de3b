"""A parameter file that was cut anywhere, or is not one, is refused; a whole one passes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import ModelError
from rayseg.predict.params_file import check_params_file


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def record(array: np.ndarray, *, packed: bool = False) -> bytes:
    """One tensor as Paddle writes it."""
    sides = b"".join(varint(side) for side in array.shape)
    dims = b"\x12" + varint(len(sides)) + sides if packed else b"".join(b"\x10" + varint(side) for side in array.shape)
    message = b"\x08" + varint(5) + dims
    return struct.pack("<IQI i", 0, 0, 0, len(message)) + message + array.tobytes()


TENSORS = [np.ones((3, 200), np.float32), np.ones((), np.float32), np.zeros((2, 1, 3), np.float32)]
WHOLE = b"".join(record(tensor) for tensor in TENSORS)


@pytest.mark.parametrize("packed", [False, True])
def test_a_whole_file_passes(tmp_path, packed):
    path = tmp_path / "inference.pdiparams"
    path.write_bytes(b"".join(record(tensor, packed=packed) for tensor in TENSORS))
    check_params_file(path, 3)
    check_params_file(path, None)


@given(st.integers(1, len(WHOLE) - 1))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "inference.pdiparams"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(ModelError, match=r"inference\.pdiparams: .*(cut|two files belong)"):
        check_params_file(path, 3)


@given(st.binary(min_size=1, max_size=200))
def test_other_bytes_are_refused_with_a_reason_and_nothing_else(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("noise") / "inference.pdiparams"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"inference\.pdiparams"):
        check_params_file(path, 3)


def test_parameters_of_another_program_are_refused(tmp_path):
    path = tmp_path / "inference.pdiparams"
    path.write_bytes(WHOLE)
    with pytest.raises(ModelError, match="holds 3 tensors, the program wants 4; the two files belong to different models"):
        check_params_file(path, 4)
