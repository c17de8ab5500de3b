"""Chunks are a function of the plan alone; what is left of them has names of its own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import SourceError
from rayseg.geometry import Window
from rayseg.pipeline import plan as planning
from rayseg.pipeline.plan import UNKNOWN_BYTES, Plan, chunks, shard_of
from rayseg.tables import Unit, plan_table

BYTES = 2**20
_sizes = st.lists(st.one_of(st.none(), st.integers(0, 2 * BYTES)), min_size=1, max_size=60)


def _table(sizes):
    return plan_table(Unit(f"/a/{i:04d}.png", bytes=size) for i, size in enumerate(sizes))


def _plan(chunk_images):
    return Plan(0, (), "", chunk_images, BYTES, 0)


@given(_sizes, st.integers(1, 9), st.data())
def test_left_chunks_hold_every_unfinished_unit_once_within_the_limits(sizes, chunk_images, data):
    table = _table(sizes)
    ids = table["unit_id"].to_numpy()
    done = np.asarray(data.draw(st.lists(st.sampled_from(ids.tolist()), unique=True)), dtype=np.int64)
    found = list(chunks(_plan(chunk_images), "00-00000", table, done))
    left = [u.unit_id for c in found for u in c.units]
    assert left == [i for i in ids.tolist() if i not in set(done.tolist())]
    for chunk in found:
        assert 1 <= len(chunk.units) <= chunk_images
        assert len(chunk.units) == 1 or sum(UNKNOWN_BYTES if u.bytes is None else u.bytes for u in chunk.units) <= BYTES
        assert shard_of(chunk.name) == "00-00000"


@given(_sizes, st.integers(1, 9), st.data())
def test_a_chunk_keeps_its_name_until_some_of_it_is_done(sizes, chunk_images, data):
    table = _table(sizes)
    all_of = list(chunks(_plan(chunk_images), "00-00000", table, np.empty(0, np.int64)))
    finished = data.draw(st.sampled_from(all_of))
    part = finished.units[: data.draw(st.integers(1, len(finished.units)))]
    done = np.asarray([u.unit_id for u in part], dtype=np.int64)
    again = {c.name for c in chunks(_plan(chunk_images), "00-00000", table, done)}
    others = {c.name for c in all_of if c is not finished}
    assert others <= again
    assert finished.name not in again
    assert len(again) == len(others) + (len(part) < len(finished.units))


def test_doubled_units_are_dropped_and_pages_are_kept():
    units = [Unit("a"), Unit("a"), Unit("a", page=1), Unit("b"), Unit("b")]
    table = planning._without_doubles(plan_table(units))
    assert list(zip(table["uri"].to_pylist(), table["page"].to_pylist(), strict=True)) == [("a", 0), ("a", 1), ("b", 0)]


def test_tiles_of_a_scene_are_units_of_their_own_in_reading_order():
    windows = [Window(x, y, x + 8, y + 8) for y in (0, 8) for x in (0, 8)]
    units = [Unit("b"), *(Unit("a", window=w) for w in reversed(windows)), Unit("a", window=windows[2]), Unit("a")]
    table = planning._without_doubles(planning._in_order(plan_table(units)))
    plan = Plan(table.num_rows, ("00-00000",), "", 100, 10**9, 0)
    (chunk,) = chunks(plan, "00-00000", table, np.empty(0, np.int64))
    assert [(u.uri, u.window) for u in chunk.units] == [*(("a", w) for w in windows), ("a", None), ("b", None)]
    assert [u.unit_id for u in chunk.units] == table["unit_id"].to_pylist()


def test_two_names_with_one_id_are_refused():
    table = plan_table([Unit("a"), Unit("b")])
    same = table.set_column(0, table.schema.field(0), pa.array([7, 7], pa.int64()))
    with pytest.raises(SourceError, match=r"\['a', 'b'\] hash to the same unit id 7"):
        planning._without_doubles(same)
