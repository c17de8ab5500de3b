"""Commits, sweeping, forgetting failures; and `verify` says what is wrong, whatever is wrong."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rayseg.config.segment import SegmentSettings
from rayseg.errors import JobMismatch, OutputError
from rayseg.geometry import Size, Window
from rayseg.pipeline import identity, ledger
from rayseg.pipeline.plan import Plan, chunks, parquet_bytes, plan_to_json
from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from rayseg.results import Instances
from rayseg.rle import encode_in_window
from rayseg.tables import FAILED, OBJECTS, OK, LedgerRow, Unit, objects_table, plan_table

SHARD = "00-00000"
SIZE = Size(8, 8)


def _result(n):
    mask = encode_in_window(np.ones((2, 2)), Window(1, 1, 3, 3), SIZE)
    return Instances(SIZE, np.tile([1, 1, 3, 3], (n, 1)), np.full(n, 0.5), np.zeros(n), (mask,) * n)


def _commit(store, chunk, fail=()):
    rows, parts = [], [OBJECTS.empty_table()]
    for i, unit in enumerate(chunk.units):
        bad = unit.uri in fail
        table = objects_table(unit, _result(0 if bad else i), ["a"])
        parts.append(table)
        stage = {"stage": "decode", "reason": "cut"} if bad else {}
        rows.append(LedgerRow(unit.unit_id, unit.uri, 0, FAILED if bad else OK, n_objects=table.num_rows, **stage))
    ledger.commit(store, chunk.name, rows, pa.concat_tables(parts))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


@pytest.fixture
def cut(store):
    """A finished job of 10 units in chunks of 3, one of them failed; returns its chunks."""
    table = plan_table(Unit(f"/a/{i}.png", bytes=1) for i in range(10))
    store.write(f"plan/{SHARD}.parquet", parquet_bytes(table))
    plan = Plan(10, (SHARD,), "d", 3, 2**20, 0)
    store.write("job.json", _job(plan))
    cut = list(chunks(plan, SHARD, table, np.empty(0, np.int64)))
    for chunk in cut:
        _commit(store, chunk, fail={"/a/4.png"})
    return cut


def _job(plan):
    import json

    return json.dumps(
        {"format": identity.FORMAT, "identity": {"model": "m"}, "plan": plan_to_json(plan), "settings": {}}
    ).encode()


def test_a_finished_job_is_complete(store, cut):
    found = verify(store)
    assert found.ok
    assert (found.planned, found.done_ok, found.failed, found.objects) == (10, 9, 1, 0 + 1 + 2 + 0 + 2 + 0 + 1 + 2 + 0)
    assert found.problems == ()


def test_a_missing_row_is_named(store, cut):
    table = ledger.read_ledger(store, cut[1].name)
    objects = f"objects/{cut[1].name}.parquet"
    store.write(f"images/{cut[1].name}.parquet", parquet_bytes(table.slice(1)))
    found = verify(store)
    assert not found.ok
    assert found.missing == 1
    assert "/a/3.png) is planned but not in the ledger" in "\n".join(found.problems)
    store.delete(objects)


def test_a_doubled_row_is_named(store, cut):
    table = ledger.read_ledger(store, cut[0].name)
    store.write(f"images/{cut[0].name}.parquet", parquet_bytes(pa.concat_tables([table, table.slice(0, 1)])))
    found = verify(store)
    assert not found.ok
    assert "/a/0.png) is in the ledger 2 times" in "\n".join(found.problems)


def test_a_row_that_was_never_planned_is_named(store, cut):
    rows = [LedgerRow(77, "/x.png", 0, OK)]
    ledger.commit(store, f"{SHARD}-00009-abc", rows, OBJECTS.empty_table())
    assert any("unit 77 is in the ledger but not in plan/" in p for p in verify(store).problems)


def test_orphans_and_strays_are_named(store, cut):
    store.write(f"objects/{SHARD}-00009-abc.parquet", parquet_bytes(OBJECTS.empty_table()))
    store.write("images/mine.parquet", b"x")
    store.delete(f"objects/{cut[2].name}.parquet")
    said = "\n".join(verify(store).problems)
    assert f"objects/{SHARD}-00009-abc.parquet has no ledger file: orphan" in said
    assert "images/mine.parquet was not written by this job" in said
    assert f"images/{cut[2].name}.parquet has no objects file" in said


@pytest.mark.parametrize("folder", ["images", "objects", "plan"])
@pytest.mark.parametrize("keep", [0, 1, 0.5, 0.99])
def test_a_cut_parquet_file_is_named(store, cut, folder, keep):
    name = f"{folder}/{SHARD if folder == 'plan' else cut[1].name}.parquet"
    data = store.read(name)
    store.write(name, data[: int(len(data) * keep)] if isinstance(keep, float) else data[:keep])
    found = verify(store)
    assert not found.ok
    assert any(p.startswith(f"{name} cannot be read") for p in found.problems)


def test_a_missing_or_doubled_object_is_named(store, cut):
    name = f"objects/{cut[0].name}.parquet"
    import io

    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(store.read(name)))
    store.write(name, parquet_bytes(table.slice(1)))
    assert any("has 0 objects of unit" in p and "the ledger says 1" in p for p in verify(store).problems)
    doubled = pa.concat_tables([table.slice(0, 2), table.slice(1, 1)])
    store.write(name, parquet_bytes(doubled))
    assert any("holds an object twice" in p for p in verify(store).problems)


def test_sweeping_deletes_debris_only(store, cut):
    store.write(f"objects/{SHARD}-00009-abc.parquet", b"half")
    store.write("images/.x.parquet.1234.tmp", b"half")
    store.delete(f"objects/{cut[0].name}.parquet")
    committed = ledger.sweep(store)
    assert committed == {SHARD: [c.name for c in cut[1:]]}
    assert set(store.list("images")) == set(store.list("objects")) == {f"{c.name}.parquet" for c in cut[1:]}


def test_an_unreadable_ledger_file_runs_again(store, cut):
    store.write(f"images/{cut[1].name}.parquet", b"cut")
    ids, failed = ledger.finished(store, [c.name for c in cut])
    assert sorted(ids) == sorted(u.unit_id for c in (cut[0], *cut[2:]) for u in c.units)
    assert failed == 0
    assert f"{cut[1].name}.parquet" not in store.list("images") | store.list("objects")


def test_forgetting_failures_takes_those_rows_and_no_others(store, cut):
    assert ledger.forget_failed(store) == 1
    found = verify(store)
    assert (found.missing, found.failed, found.done_ok, found.n_problems) == (1, 0, 9, 0)
    assert ledger.forget_failed(store) == 0


def test_forgetting_a_chunk_of_failures_removes_its_files(store, cut):
    _commit(store, cut[0], fail={u.uri for u in cut[0].units})
    assert ledger.forget_failed(store) == 4
    assert f"{cut[0].name}.parquet" not in store.list("images") | store.list("objects")


def test_another_job_is_refused_with_the_difference(store, cut):
    job = identity.require(store)
    with pytest.raises(JobMismatch, match="model was 'm', now 'n'"):
        identity.check_same(job, {"model": "n"}, store.url)
    identity.check_same(job, {"model": "m"}, store.url)


def test_a_folder_that_is_no_job_is_refused(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(OutputError, match="no job.json"):
        verify(store)
    store.write("job.json", b"{}")
    with pytest.raises(OutputError, match="not a rayseg job"):
        verify(store)
    store.delete("job.json")
    store.write("images/x.parquet", b"")
    with pytest.raises(OutputError, match="give an empty output folder"):
        identity.check_fresh(store)


def test_credentials_are_not_stored():
    settings = SegmentSettings("s3://a", "o", "m", source_options={"key": "K", "secret": "S", "endpoint_url": "http://x"})
    from dataclasses import asdict

    said = {k: identity._without_secrets(v) for k, v in asdict(settings).items()}
    stored = {"settings": said, "model": {"path": "m"}, "identity": settings.identity()}
    assert "S" not in str(stored["settings"]["source_options"].values())
    assert identity.settings(stored)["source_options"] == {"endpoint_url": "http://x"}
