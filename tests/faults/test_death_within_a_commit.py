"""A commit is two files. Death before the first, between them and after the second changes nothing in the end."""

from __future__ import annotations

import signal

import pytest

from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from tests.pipeline.jobs import assert_same_tables

from . import drivers

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

PLACES = ("objects", "images", "after")


def test_workers_that_die_within_a_commit_are_replaced_in_the_same_run(images, undisturbed, tmp_path):
    out, marks = tmp_path / "out", tmp_path / "marks"
    marks.mkdir()
    status, said = _run(images, out, die_at=PLACES, marks=marks, victim="worker")
    assert status == 0, said
    assert {mark.name for mark in marks.iterdir()} == set(PLACES), "the faults did not happen"
    assert verify(Store(str(out))).ok
    assert_same_tables(out, undisturbed)


def test_a_driver_that_dies_within_a_commit_leaves_debris_that_the_next_run_sweeps(images, undisturbed, tmp_path):
    out, marks = tmp_path / "out", tmp_path / "marks"
    marks.mkdir()
    for place in PLACES:
        status, said = _run(images, out, die_at=(place,), marks=marks, victim="driver")
        assert status == -signal.SIGKILL, said
        assert (marks / place).exists()
        found = drivers.debris(out)
        assert any(name.startswith(f"{place}/.") for name in found) == (place != "after"), found
        if place == "images":
            assert any(name.startswith("objects/00-") for name in found), "no objects file without its ledger file"
    status, said = drivers.run(drivers.segment(images, out))
    assert status == 0, said
    assert verify(Store(str(out))).ok
    assert drivers.debris(out) == []
    assert_same_tables(out, undisturbed)


def _run(images, out, *, die_at, marks, victim):
    env = {"RAYSEG_TEST_DIE_AT": ",".join(die_at), "RAYSEG_TEST_MARKS": str(marks), "RAYSEG_TEST_VICTIM": victim}
    return drivers.run(drivers.segment(images, out), module="tests.faults.hooked", env=env)
