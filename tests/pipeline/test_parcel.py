"""Chunks travel unchanged and without copies on arrival."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rayseg.pipeline.parcel import pack, unpack

_arrays = arrays(st.sampled_from([np.uint8, np.float32, np.int64]), array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))


@given(st.lists(_arrays, max_size=6), st.text(max_size=8))
def test_what_is_unpacked_is_what_was_packed(content, name):
    ((found_name, found),) = unpack(pack(name, content))
    assert found_name == name
    assert len(found) == len(content)
    for a, b in zip(content, found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_two_parcels_in_one_table_stay_apart():
    table = pa.concat_tables([pack("a", [np.arange(3)]), pack("b", {"x": np.ones((2, 2), np.float32), "y": None})])
    (first, one), (second, two) = unpack(table)
    assert (first, second) == ("a", "b")
    assert one[0].tolist() == [0, 1, 2]
    assert two["x"].sum() == 4
    assert two["y"] is None


def test_arrays_arrive_as_views_of_the_table():
    big = np.arange(1_000_000, dtype=np.uint8)
    table = pack("a", big)
    ((_, found),) = unpack(table)
    buffer = table["body"].chunk(0).buffers()[2]
    assert buffer.address <= found.ctypes.data < buffer.address + buffer.size
    assert not found.flags.writeable
