"""`rayseg verify` on the output of a real job: what is missing, doubled, orphaned or cut is named, exit status 1."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.pipeline.jobs import assert_same_tables

from . import drivers

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def out(undisturbed, tmp_path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


def test_every_planted_damage_is_named_by_verify_and_mended_by_the_next_run(out, undisturbed, images):
    names = [path.name for path in sorted((out / "images").iterdir())]
    missing = _drop_first_row(out / "images" / names[3])
    doubled = _double_first_row(out / "images" / names[10])
    shutil.copy(out / "objects" / names[20], out / "objects" / f"00-00000-99999-{'0' * 12}.parquet")
    (out / "objects" / names[30]).unlink()
    _cut(out / "images" / names[40])
    _cut(out / "objects" / names[50])
    status, said = drivers.run(["verify", str(out)])
    assert status == 1
    for words in (
        f"{missing}) is planned but not in the ledger",
        f"{doubled}) is in the ledger 2 times",
        f"objects/00-00000-99999-{'0' * 12}.parquet has no ledger file: orphan",
        f"images/{names[30]} has no objects file",
        f"images/{names[40]} cannot be read",
        f"objects/{names[50]} cannot be read",
        "NOT COMPLETE: 320 planned",
    ):
        assert words in said
    _as_verify_tells(said, out)
    status, said = drivers.run(drivers.segment(images, out, delay_ms=0))
    assert status == 0, said
    status, said = drivers.run(["verify", str(out)])
    assert status == 0, said
    assert said.startswith("complete: 320 planned, 320 ok, 0 failed, 0 missing")
    assert_same_tables(out, undisturbed)


def test_a_unit_that_all_three_tables_have_lost_is_missed_all_the_same(out):
    (shard,) = (out / "plan").glob("*.parquet")
    name = min(path.name for path in (out / "images").iterdir())
    lost = {_drop_first_row(path) for path in (shard, out / "images" / name)}
    assert len(lost) == 1
    objects = pd.read_parquet(out / "objects" / name)
    objects[~objects["uri"].isin(lost)].to_parquet(out / "objects" / name, index=False)
    status, said = drivers.run(["verify", str(out)])
    assert status == 1
    assert "plan/ holds 319 units, 320 were planned" in said
    assert "NOT COMPLETE: 319 planned, 319 ok, 0 failed, 0 missing" in said


def _drop_first_row(path: Path) -> str:
    rows = pd.read_parquet(path)
    rows[1:].to_parquet(path, index=False)
    return rows["uri"][0]


def _double_first_row(path: Path) -> str:
    rows = pd.read_parquet(path)
    pd.concat([rows[:1], rows]).to_parquet(path, index=False)
    return rows["uri"][0]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _as_verify_tells(said: str, out: Path) -> None:
    """Delete the files it says to delete."""
    for line in said.splitlines():
        _, found, rest = line.partition("Delete ")
        if found:
            (out / rest.split(" and ")[0]).unlink()
