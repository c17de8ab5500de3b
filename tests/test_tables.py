"""The tables a job writes: ids, rows, and what Parquet makes of them."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg import rle, tables
from rayseg.geometry import Size, Window
from rayseg.results import Instances, SemanticMap
from rayseg.rle import Rle
from rayseg.tables import FAILED, OK, STAGES, LedgerRow, Unit, images_table, objects_table, plan_table, unit_id

UNIT = Unit("data/a b.png", page=3, bytes=17, version="etag")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PLACES = st.tuples(
    TEXTS,
    st.integers(0, 3),
    st.none() | st.builds(Window, st.just(0), st.just(0), st.integers(0, 3), st.integers(0, 3)),
)


def through_parquet(table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return pq.read_table(io.BytesIO(sink.getvalue()))


def found(n):
    size = Size(6, 8)
    canvas = np.zeros((n, *size.hw), dtype=bool)
    for i in range(n):
        canvas[i, i : i + 2, :3] = True
    boxes = [[0, i, 3, i + 2] for i in range(n)]
    return Instances(size, boxes, np.linspace(0.25, 0.75, n), range(n), [rle.encode(mask) for mask in canvas])


@given(st.lists(PLACES, unique=True, max_size=20))
def test_different_places_have_different_ids_of_64_bits(places):
    ids = {unit_id(*place) for place in places}
    assert len(ids) == len(places)
    assert all(-(2**63) <= i < 2**63 for i in ids)


@given(TEXTS, st.integers(0, 9))
def test_a_units_id_is_that_of_its_uri_and_page_alone(uri, page):
    assert Unit(uri, page).unit_id == Unit(uri, page, bytes=5, version="x").unit_id == unit_id(uri, page)


def test_ids_are_the_same_in_every_process_and_every_version():
    assert unit_id("s3://bucket/a.png") == -4376004316755694778  # written down, since outputs of old versions hold such ids
    command = "from rayseg.tables import unit_id; print(unit_id('s3://bucket/a.png'))"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert int(said) == unit_id("s3://bucket/a.png")


def test_a_file_name_that_is_no_utf8_has_an_id():
    assert unit_id(b"caf\xe9.png".decode("utf-8", "surrogateescape")) != unit_id("café.png")


def test_the_plan_keeps_every_unit_in_order():
    units = [UNIT, Unit("b.png"), Unit("名前 '\"\n.png", bytes=0)]
    table = through_parquet(plan_table(units))
    assert table.schema.equals(tables.PLAN)
    assert table["unit_id"].to_pylist() == [u.unit_id for u in units]
    for name in [f.name for f in fields(Unit)]:
        assert table[name].to_pylist() == [getattr(u, name) for u in units]
    assert table["window"].null_count == 3


def test_the_ledger_keeps_good_and_failed_rows():
    good = LedgerRow(1, "a.png", 0, OK, width=4, height=3, n_objects=2, seconds={"decode": 0.5, "predict": 0.25})
    bad = LedgerRow(2, "b.png", 0, FAILED, stage="decode", reason="the file is cut short")
    table = through_parquet(images_table([good, bad]))
    assert table.schema.equals(tables.IMAGES)
    first, second = table.to_pylist()
    assert (first["status"], first["stage"], first["n_objects"], first["width"]) == (OK, None, 2, 4)
    assert (first["decode_s"], first["predict_s"], first["fetch_s"]) == (0.5, 0.25, None)
    assert (second["status"], second["stage"], second["reason"]) == (FAILED, "decode", "the file is cut short")
    assert (second["width"], second["n_objects"]) == (None, 0)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_objects_become_rows_that_hold_the_same_objects(n):
    result = found(n)
    table = through_parquet(objects_table(UNIT, result, labels=("a", "b", "c", "d")))
    assert table.schema.equals(tables.OBJECTS)
    assert table["object_id"].to_pylist() == list(range(n))
    assert table["unit_id"].to_pylist() == [UNIT.unit_id] * n
    for row, mask, box, score in zip(table.to_pylist(), result.masks, result.boxes_xyxy, result.scores, strict=True):
        assert Rle(Size(row["rle_h"], row["rle_w"]), row["rle_counts"].encode()) == mask
        assert [row["x0"], row["y0"], row["x1"], row["y1"]] == box.tolist()
        assert (row["score"], row["area_px"], row["page"]) == (score, mask.area, 3)
        assert row["label"] == "abcd"[row["class_id"]]


def test_a_label_map_becomes_a_row_for_each_class_without_a_score():
    labels = np.array([[0, 0, 2], [0, 2, 2]], dtype=np.uint8)
    table = objects_table(UNIT, SemanticMap(labels), labels=("ground", "road", "roof"))
    assert table["label"].to_pylist() == ["ground", "roof"]
    assert table["area_px"].to_pylist() == [3, 3]
    assert table["score"].to_pylist() == [None, None]


def test_tables_without_rows_have_their_schema():
    assert plan_table([]).schema.equals(tables.PLAN) and images_table([]).schema.equals(tables.IMAGES)
    assert objects_table(UNIT, Instances.none(Size(2, 2)), labels=()).schema.equals(tables.OBJECTS)


def test_every_stage_has_its_column_of_seconds():
    assert [name for name in tables.IMAGES.names if name.endswith("_s")] == [f"{stage}_s" for stage in STAGES]


def test_a_class_without_a_label_is_refused():
    with pytest.raises(ValueError, match="class id 1 has no label; the model lists 1 labels"):
        objects_table(UNIT, found(2), labels=("a",))


@pytest.mark.parametrize("status, stage", [(OK, "decode"), (FAILED, None), ("done", None)])
def test_a_ledger_row_that_contradicts_itself_is_refused(status, stage):
    with pytest.raises(ValueError, match="ok without a stage, or failed with one"):
        LedgerRow(1, "a.png", 0, status, stage=stage)


def test_a_stage_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="unknown stage 'paint'; the stages are fetch, decode"):
        LedgerRow(1, "a.png", 0, FAILED, stage="paint", reason="?")


def test_a_time_of_an_unknown_stage_is_refused():
    row = LedgerRow(unit_id=1, uri="a", page=0, width=1, height=1, status="ok", seconds={"predikt": 1.0})
    with pytest.raises(ValueError, match=r"unknown stages \['predikt'\]; known: fetch"):
        images_table([row])
