"""The strips of a scene, put together in this process from the tiles of a finished job: how many there are changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from rayseg.pipeline import identity, ledger
from rayseg.pipeline.scenes import instances
from rayseg.pipeline.scenes.collect import planned_tiles, survey
from rayseg.pipeline.scenes.job import read_plans
from rayseg.pipeline.scenes.records import all_records
from rayseg.pipeline.storage import Store

from . import places, worlds

SCENE = "utm.tif"
STRIPS = {"one": 10**6, "two": 18, "three": 12, "one for each row of tiles": 1}  # -> tiles in a strip, of 5 rows of 6


@pytest.fixture
def work(undisturbed, tmp_path) -> instances.Stitching:
    """All there is to know of one scene; what strips leave goes to a folder of this test."""
    store, tiles = Store(str(undisturbed)), Store(str(tmp_path / "tiles"))
    (tmp_path / "tiles").mkdir()
    for folder in ("images", "objects", "plan"):
        (tmp_path / "tiles" / folder).symlink_to(undisturbed / "tiles" / folder)
    (record,) = (r for r in all_records(store) if r.uri.endswith(SCENE))
    plan = read_plans(identity.require(store), identity.require(store.below("tiles"))).tiles
    rows = planned_tiles(tiles, plan, record)
    committed = {shard: images for shard, (images, _) in ledger.names(tiles).items()}
    assert (len(record.grid.rows), len(record.grid.columns)) == (5, 6)
    return instances.Stitching(
        tiles, record, rows, survey(tiles, record, rows, committed), committed, ("red", "green", "blue"), 0.0, tmp_path
    )


def put_together(work: instances.Stitching, monkeypatch, tiles_in_strip: int) -> tuple[int, pd.DataFrame, object]:
    monkeypatch.setattr(instances, "_STRIP_TILES", tiles_in_strip)
    strips = instances.strips_of(work)
    n, stats = instances.join_strips(work, strips, work.scratch / "objects.parquet")
    table = pd.read_parquet(work.scratch / "objects.parquet")
    assert n == len(table) == stats.objects
    assert table["object_id"].tolist() == list(range(n))
    order = [table["window"].map(lambda w: (w["y0"], w["x0"], w["y1"], w["x1"])), table["rle_counts"]]
    table = table.assign(place=order[0]).sort_values(["place", "rle_counts"], ignore_index=True)
    return len(strips), table.drop(columns=["object_id", "place"]), stats


@pytest.mark.parametrize("name", [name for name in STRIPS if name != "one"])
def test_a_scene_is_the_same_in_any_number_of_strips(work, monkeypatch, name):
    n, whole, stats = put_together(work, monkeypatch, STRIPS["one"])
    assert n == 1
    n, table, same = put_together(work, monkeypatch, STRIPS[name])
    assert n == {"two": 2, "three": 3}.get(name, 5)
    pd.testing.assert_frame_equal(table, whole)
    assert same == stats
    assert stats.joined > 0


def test_strips_are_the_objects_of_the_job_and_the_true_ones(work, undisturbed, monkeypatch):
    put_together(work, monkeypatch, 12)
    (work.scratch / "objects").mkdir()
    (work.scratch / "objects.parquet").rename(work.scratch / "objects" / "0.parquet")
    assert worlds.found(work.scratch)[SCENE] == worlds.found(undisturbed)[SCENE]
    assert worlds.found(undisturbed)[SCENE] == worlds.truth(places.WORLDS[SCENE], worlds.windows(undisturbed, SCENE))


def test_strips_done_in_any_order_and_twice_are_taken_and_swept(work, monkeypatch):
    _, whole, _ = put_together(work, monkeypatch, 10**6)
    monkeypatch.setattr(instances, "_STRIP_TILES", 1)
    strips = instances.strips_of(work)
    for strip in [strips[3], strips[0], strips[3], strips[4]]:
        instances.stitch_strip(work, strip)
    assert len(work.tiles.list(instances.STRIPS)) == 6
    _, table, _ = put_together(work, monkeypatch, 1)
    pd.testing.assert_frame_equal(table, whole)
    instances.sweep_strips(work, strips)
    assert work.tiles.list(instances.STRIPS) == {}


def test_a_strip_is_done_again_when_what_it_depends_on_has_changed(work, monkeypatch):
    monkeypatch.setattr(instances, "_STRIP_TILES", 12)
    names = [strip.name for strip in instances.strips_of(work)]
    assert [strip.name for strip in instances.strips_of(replace(work, scratch=work.scratch / "other"))] == names
    simpler = [strip.name for strip in instances.strips_of(replace(work, simplify_px=1.0))]
    without = [strip.name for strip in instances.strips_of(replace(work, survey=replace(work.survey, failed=(0,))))]
    assert not {*names} & {*simpler}
    assert [a == b for a, b in zip(without, names, strict=True)] == [False, True, True]
