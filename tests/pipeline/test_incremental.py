"""Updating a job from a source that has grown or changed: what is found, what is done again, and dying at every moment of it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rayseg.config.scenes import SceneSettings
from rayseg.errors import ConfigError, SourceError
from rayseg.pipeline import identity, incremental, ledger
from rayseg.pipeline.plan import chunks, plan_to_json, read_shard, write_plan
from rayseg.pipeline.report.page import _vanished
from rayseg.pipeline.sources import open_source
from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from rayseg.tables import OBJECTS, OK, LedgerRow, Unit

from .jobs import archive, assert_same_tables, blobs, run, tables, write_image


class Killed(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class Mortal(Store):
    """A store whose process dies before its n-th change; nothing works after that."""

    fuse: list[int] = field(default_factory=lambda: [10**9])

    def _burn(self) -> None:
        self.fuse[0] -= 1
        if self.fuse[0] < 0:
            raise Killed

    def write(self, name: str, data: bytes) -> None:
        self._burn()
        super().write(name, data)

    def put_file(self, name: str, path: Any) -> None:
        self._burn()
        super().put_file(name, path)

    def delete(self, name: str) -> None:
        self._burn()
        super().delete(name)

    def delete_folder(self, folder: str) -> None:
        """Dies half way, too."""
        self._burn()
        for path in sorted(Path(self.path(folder)).rglob("*.parquet"))[::2]:
            path.unlink()
        self._burn()
        super().delete_folder(folder)


class _Inline:
    """A task that runs at once, in this process."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call


def run_inline(patch: pytest.MonkeyPatch) -> None:
    """Ray's tasks without Ray, and parts of three units, so that small archives have several."""
    patch.setattr(ray, "remote", lambda **options: _Inline)
    patch.setattr(ray, "get", lambda found: found)
    patch.setattr(ray, "wait", lambda refs, num_returns: (refs[:1], refs[1:]))
    patch.setattr(incremental, "_PART_UNITS", 3)


@pytest.fixture
def inline(monkeypatch):
    run_inline(monkeypatch)


def put(path: Path, text: str, *, mtime: int = 0, pages: int = 0) -> None:
    """A file of a given content and age; a TIFF of so many pages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pages:
        shown = [Image.fromarray(np.full((4, 4 + len(text)), i, dtype=np.uint8)) for i in range(pages)]
        shown[0].save(path, format="TIFF", save_all=True, append_images=shown[1:])
    else:
        path.write_text(text)
    os.utime(path, ns=(10**18 + mtime, 10**18 + mtime))


def planned(source: Path, out: Path) -> None:
    """A job with a plan and nothing done."""
    store = Store(str(out))
    plan = write_plan(open_source(str(source)), store, chunk_images=3, chunk_bytes=10**9, parallelism=2)
    identity.save(store, {"format": 1, "identity": {}, "settings": {}, "plan": plan_to_json(plan)})


def work(out: Path, mark: int) -> None:
    """Do what is left; rows and objects carry the mark of this run."""
    store = Store(str(out))
    plan = identity.plan(identity.require(store))
    committed = ledger.sweep(store)
    for shard in plan.shards:
        done, _ = ledger.finished(store, committed.get(shard, []))
        for chunk in list(chunks(plan, shard, read_shard(store, shard), done)):
            rows = [LedgerRow(u.unit_id, u.uri, u.page, OK, width=mark, n_objects=2) for u in chunk.units]
            ledger.commit(store, chunk.name, rows, pa.concat_tables([objects(u, mark) for u in chunk.units]))


def objects(unit: Unit, mark: int) -> pa.Table:
    same = {"unit_id": unit.unit_id, "uri": unit.uri, "page": unit.page, "class_id": mark, "label": "x", "score": 0.5}
    same |= dict.fromkeys(("x0", "y0", "x1", "y1"), 0.0) | {"area_px": 1, "rle_h": 1, "rle_w": 1, "rle_counts": "1"}
    return pa.Table.from_pylist([same | {"object_id": i} for i in range(2)], schema=OBJECTS)


def marks(out: Path) -> dict[tuple[str, int], int]:
    """(file name, page) -> the run that its row and its two objects are from."""
    rows, found = pd.read_parquet(out / "images"), pd.read_parquet(out / "objects")
    keys = [(Path(uri).name, page) for uri, page in zip(rows["uri"], rows["page"], strict=True)]
    assert max(Counter(keys).values()) == 1
    said = dict(zip(rows["unit_id"], rows["width"], strict=True))
    assert Counter(zip(found["unit_id"], found["class_id"], strict=True)) == Counter(dict.fromkeys(said.items(), 2))
    return dict(zip(keys, rows["width"].astype(int), strict=True))


def update(source: Path, out: Path, *, fuse: int = 10**9) -> incremental.Changes:
    """As `rayseg segment --update` begins."""
    store = Mortal(str(out), fuse=[fuse])
    job = incremental.finish(store, identity.require(store))
    return incremental.update(open_source(str(source)), store, job, parallelism=2)[1]


def vanished(out: Path) -> set[tuple[str, int]]:
    found = pd.read_parquet(out / "vanished.parquet")
    return {(Path(uri).name, page) for uri, page in zip(found["uri"], found["page"], strict=True)}


@pytest.fixture
def done(tmp_path, inline) -> tuple[Path, Path]:
    """A source and its finished job: 7 files and a TIFF of three pages."""
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(7):
        put(source / f"part-{i % 2}" / f"{i}.txt", f"file {i}")
    put(source / "t.tif", "", pages=3)
    planned(source, out)
    work(out, 1)
    assert verify(Store(str(out))).ok
    return source, out


def change(source: Path) -> dict[tuple[str, int], int]:
    """Every kind of change at once; returns the marks that a second run has to leave."""
    put(source / "part-0" / "0.txt", "longer than it was")
    put(source / "part-1" / "1.txt", "file 1", mtime=5)
    (source / "part-0" / "2.txt").unlink()
    put(source / "new" / "8.txt", "file 8")
    put(source / "part-0" / "9.txt", "file 9")
    put(source / "t.tif", "x", pages=2, mtime=9)
    new = {("0.txt", 0), ("1.txt", 0), ("8.txt", 0), ("9.txt", 0), ("t.tif", 0), ("t.tif", 1)}
    old = {(f"{i}.txt", 0) for i in (2, 3, 4, 5, 6)}
    return {**dict.fromkeys(old, 1), **dict.fromkeys(new, 2)}


def test_what_is_new_or_changed_is_done_and_nothing_else(done):
    source, out = done
    wanted = change(source)
    assert update(source, out) == incremental.Changes(new=2, changed=4, gone=1, vanished=1)
    assert marks(out) == {key: 1 for key, mark in wanted.items() if mark == 1}, "old rows of changed files are gone at once"
    assert verify(Store(str(out))).missing == 6
    work(out, 2)
    assert marks(out) == wanted
    assert verify(Store(str(out))).ok
    assert vanished(out) == {("2.txt", 0)}


def test_an_unchanged_source_changes_nothing_but_the_note(done):
    source, out = done
    before = {p: p.read_bytes() for p in out.rglob("*.parquet")}
    assert update(source, out) == incremental.Changes()
    assert {p: p.read_bytes() for p in out.rglob("*.parquet") if p.name != "vanished.parquet"} == before
    assert vanished(out) == set()
    assert verify(Store(str(out))).ok
    assert [note["new"] for note in identity.require(Store(str(out)))["updates"]] == [0]


def test_wherever_the_update_dies_the_same_command_mends_it(done, tmp_path):
    source, out = done
    before = marks(out)
    wanted = change(source)
    deaths = halves = 0
    for fuse in range(200):
        copy = tmp_path / f"copy-{fuse}"
        shutil.copytree(out, copy)
        try:
            update(source, copy, fuse=fuse)
            break
        except Killed:
            deaths += 1
        store = Store(str(copy))
        job = identity.require(store)
        if identity.updating(job):
            halves += 1
            assert not verify(store).ok and "update of the source was stopped" in " ".join(verify(store).problems)
        elif "updates" not in job:
            assert verify(store).ok and marks(copy) == before, "an update that is not decided has no effect"
        if fuse % 2 or "updates" in job:  # the plain command ends what was decided; before that it has nothing to do
            identity_after = incremental.finish(store, job)
            assert not identity.updating(identity_after)
            if "updates" in job:
                assert vanished(copy) == {("2.txt", 0)}
            work(copy, 2)
            assert verify(store).ok
        update(source, copy)
        work(copy, 2)
        assert marks(copy) == wanted
        assert verify(store).ok
        assert vanished(copy) == {("2.txt", 0)}
        shutil.rmtree(copy)
    else:
        pytest.fail("the update never ended")
    assert deaths > 20 and halves > 5, "the test saw both sides of the decision"


def test_a_resume_in_the_middle_of_the_first_run_and_an_update_go_together(tmp_path, inline):
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(9):
        put(source / f"{i}.txt", f"file {i}")
    planned(source, out)
    work(out, 1)
    for path in sorted((out / "images").glob("*.parquet"))[:1]:
        path.unlink()  # three of them were never done
    put(source / "8.txt", "other")
    put(source / "0.txt", "other")
    update(source, out)
    work(out, 2)
    assert verify(Store(str(out))).ok
    assert Counter(marks(out).values()) == {1: 5, 2: 4}


OPERATIONS = st.lists(
    st.dictionaries(st.integers(0, 5), st.sampled_from(["put", "touch", "grow", "remove", "pages"]), max_size=4),
    min_size=1,
    max_size=3,
)


@settings(max_examples=30)
@given(rounds=OPERATIONS, fuse=st.integers(0, 60))
def test_after_any_rounds_of_changes_every_unit_is_there_once_and_from_its_last_version(tmp_path_factory, rounds, fuse):
    folder = tmp_path_factory.mktemp("u")
    source, out = folder / "in", folder / "out"
    put(source / "always.txt", "x")
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        planned(source, out)
        work(out, 0)
        wanted = {("always.txt", 0): 0}
        pages: dict[str, int] = {}
        for number, operations in enumerate(rounds, 1):
            for i, operation in operations.items():
                _apply(source, f"{i}.tif", operation, number, wanted, pages)
            try:
                update(source, out, fuse=fuse)
            except Killed:
                update(source, out)
            work(out, number)
            assert verify(Store(str(out))).ok
            assert marks(out) == wanted
            assert {name for name, _ in wanted} - {name for name, _ in vanished(out)} == {p.name for p in source.iterdir()}


def _apply(source: Path, name: str, operation: str, number: int, wanted: dict, pages: dict[str, int]) -> None:
    """Do one thing to one file, and to the marks that are wanted."""
    path, there = source / name, (source / name).exists()
    if operation == "remove":
        path.unlink(missing_ok=True)
        return
    if operation == "touch" and there:
        os.utime(path, ns=(10**18 + number * 7, 10**18 + number * 7))
    elif operation in ("put", "grow", "pages") or not there:
        n = {"put": 1, "grow": pages.get(name, 1) + 1, "pages": max(1, pages.get(name, 2) - 1)}.get(operation, 1)
        put(path, "y" * number, pages=n, mtime=number * 7)
        pages[name] = n
    for page in [p for key, p in wanted if key == name and p >= pages[name]]:
        del wanted[name, page]
    wanted.update({(name, page): number for page in range(pages[name])})


def test_a_manifest_that_has_grown_is_followed(tmp_path, inline):
    for i in range(4):
        put(tmp_path / "in" / f"{i}.txt", f"file {i}")
    manifest, out = tmp_path / "list.txt", tmp_path / "out"
    manifest.write_text("in/0.txt\nin/1.txt\nin/2.txt\n")
    planned(manifest, out)
    work(out, 1)
    manifest.write_text("in/3.txt\nin/1.txt\nin/2.txt\n")
    assert update(manifest, out) == incremental.Changes(new=1, vanished=1)
    work(out, 2)
    assert marks(out) == {("0.txt", 0): 1, ("1.txt", 0): 1, ("2.txt", 0): 1, ("3.txt", 0): 2}


def test_an_empty_source_is_not_taken_for_an_archive_that_vanished(done, tmp_path):
    source, out = done
    source.rename(tmp_path / "elsewhere")
    source.mkdir()
    with pytest.raises(SourceError, match="nothing to do"):
        update(source, out)
    assert verify(Store(str(out))).ok


def test_a_damaged_commit_with_changed_files_is_dropped_and_done_again(done):
    source, out = done
    change(source)
    broken = min((out / "images").glob("*.parquet"))
    broken.write_bytes(b"PAR1 cut")
    update(source, out)
    work(out, 2)
    assert verify(Store(str(out))).ok


@pytest.mark.usefixtures("ray_local")
def test_an_updated_job_equals_one_made_anew(tmp_path):
    source, out = archive(tmp_path / "in", 12), tmp_path / "out"
    asked = {"model": "fake:semantic?labels=a,b", "save_label_maps": True}
    assert run(source, out, chunk_images=4, **asked).complete
    write_image(source / "part-0" / "0003.png", blobs(99, 64, 64))
    write_image(source / "new" / "0100.png", blobs(100))
    (source / "part-1" / "0004.png").write_bytes(b"no image any more")
    assert run(source, out, **asked).findings.planned == 12, "without --update a plan is fixed"
    assert run(source, out, update=True, **asked).complete
    fresh = tmp_path / "fresh"
    assert run(source, fresh, **asked).complete
    assert_same_tables(out, fresh)
    maps = {p.name: p.read_bytes() for p in (fresh / "label_maps").iterdir()}
    assert {p.name: p.read_bytes() for p in (out / "label_maps").iterdir()} == maps
    assert tables(out)[0]["status"].eq("failed").sum() == 1


def test_scenes_are_not_updated(tmp_path):
    with pytest.raises(ConfigError, match="scenes are planned once"):
        run(archive(tmp_path / "in", 1), tmp_path / "out", update=True, scenes=SceneSettings())


def test_the_report_says_what_vanished_and_nothing_otherwise():
    notes = [{"when": "2026-11-21T03:04:05+00:00", "vanished": 2}, {"when": "2026-11-22T03:04:05+00:00", "vanished": 0}]
    said = _vanished(SimpleNamespace(job={"updates": notes[:1]}))
    assert "2 planned images not found" in said and "2026-11-21 03:04 UTC" in said and "vanished.parquet" in said
    assert _vanished(SimpleNamespace(job={"updates": notes})) == _vanished(SimpleNamespace(job={})) == ""
