"""What is looked at before a job starts, and what `--plan-only` says of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.config.scenes import SceneSettings
from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError, OutputError, SourceError
from rayseg.pipeline import forecast as forecasting
from rayseg.pipeline import preflight
from rayseg.pipeline.budget import Budget, plan_budget
from rayseg.pipeline.forecast import Sizes, predicted
from rayseg.pipeline.job import forecast_job
from rayseg.pipeline.plan import plan_of, write_shards
from rayseg.pipeline.progress import Progress
from rayseg.pipeline.sample import draw
from rayseg.pipeline.storage import Store
from rayseg.predict.model_dir import load_model_dir
from rayseg.tables import Unit, plan_table

from .jobs import archive, assert_same_tables, run, write_image


def settings(source: object = "in", out: object = "out", **values) -> SegmentSettings:
    return SegmentSettings(str(source), str(out), "fake:instance", **{"predictors": "1", **values})


def gpu_budget(wanted: SegmentSettings, nodes: list[dict[str, float]]) -> Budget:
    return plan_budget(wanted, cpus=sum(n["CPU"] for n in nodes), gpus=sum(n.get("GPU", 0) for n in nodes))


@pytest.mark.parametrize(
    "values, gpus, message",
    [
        ({"gpus_per_predictor": 2.0}, [1, 1], "no node has more than 1 GPUs"),
        ({"gpus_per_predictor": 2.0, "predictors": "3"}, [3, 3], "2 fit on the nodes, which have 3, 3"),
        ({"gpus_per_predictor": 0.7, "predictors": "2", "device": "gpu"}, [1, 0.9], None),
        ({"gpus_per_predictor": 1.0, "predictors": "2"}, [1, 1, 0], None),
        ({"threads_per_predictor": 9, "device": "cpu"}, [0], "no node has more than 8 CPUs"),
        ({"threads_per_predictor": 8, "device": "cpu"}, [0], None),
    ],
)
def test_a_pool_that_can_never_be_placed_is_refused(values, gpus, message):
    nodes = [{"CPU": 8.0, "GPU": float(n)} if n else {"CPU": 8.0} for n in gpus]
    wanted = settings(**values)
    budget = gpu_budget(wanted, nodes)
    if message is None:
        preflight.check_resources(wanted, budget, nodes)
    else:
        with pytest.raises(ConfigError, match=message):
            preflight.check_resources(wanted, budget, nodes)


def test_the_probe_leaves_nothing_and_an_output_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "out"), attempts=1)
    preflight.check_output(store)
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        preflight.check_output(Store(str(tmp_path / "file"), attempts=1))
    monkeypatch.setattr(Store, "read", lambda self, name: b"other")
    with pytest.raises(OutputError, match="is not what is read back"):
        preflight.check_output(store)


def test_a_full_disk_is_refused_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    store = Store(str(tmp_path))
    preflight.check_disk(store, 100)
    with pytest.raises(OutputError, match="0 MB are free there, and 1000 images take"):
        preflight.check_disk(store, 1000)


def test_headers_say_formats_and_sizes_and_what_cannot_be_read(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((10, 20, 3), dtype=np.uint8))
    write_image(tmp_path / "b.png", np.zeros((40, 50, 3), dtype=np.uint8)).rename(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_text("no image")
    units = [Unit(str(tmp_path / name)) for name in ("a.png", "b.jpg", "c.jpg", "gone.jpg")]
    found = preflight.peek(units, settings(tmp_path))
    assert found.formats == {"PNG": 2}, "the content decides, not the name"
    assert found.megapixels == (200 / 1e6, 2000 / 1e6)
    assert [kind for _, kind, _ in found.failures] == ["UnsupportedImage", "FileNotFoundError"]
    assert "PNG 2 of 4 looked at; 0.0002 to 0.002 megapixels; 2 cannot be read" in forecasting.said_of(found)


def test_a_source_that_lists_but_does_not_open_is_refused(tmp_path, monkeypatch):
    units = [Unit(str(archive(tmp_path, 1) / "part-0" / "0000.png"))]

    def refuse(*args, **kwargs):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(preflight, "filesystem", refuse)
    with pytest.raises(SourceError, match=r"none of 1 files tried may be read: Forbidden\. Check the permissions"):
        preflight.peek(units, settings(tmp_path))


@pytest.mark.usefixtures("ray_local")
def test_a_node_without_the_model_or_with_another_output_is_named(tmp_path, monkeypatch):
    spec = load_model_dir("fake:instance")
    monkeypatch.setattr(preflight, "_here", lambda: "another node than the one there is")
    store = Store(str(tmp_path / "out"))
    wanted = settings(tmp_path, tmp_path / "out")
    preflight.check_nodes(wanted, spec, store)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ConfigError, match=r"nowhere: node \S+ has no such source"):
        preflight.check_nodes(settings(tmp_path / "nowhere", tmp_path / "out"), spec, store)
    monkeypatch.setattr(preflight, "_model_path", lambda spec: "/not/there")
    with pytest.raises(ConfigError, match=r"/not/there: node \S+ has no such model directory"):
        preflight.check_nodes(wanted, spec, store)
    monkeypatch.setattr(preflight, "_model_path", lambda spec: None)
    monkeypatch.setattr(Store, "write", lambda self, name, data: None)
    with pytest.raises(OutputError, match="has another folder there than the driver"):
        preflight.check_nodes(wanted, spec, store)


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8), n=st.integers(1, 25), seed=st.integers(0, 5))
def test_a_sample_is_of_the_plan_without_doubles_and_from_all_over_it(tmp_path_factory, sizes, n, seed):
    store, start, shards = Store(str(tmp_path_factory.mktemp("s"))), 0, []
    for i, size in enumerate(sizes):
        shards += write_shards(store, plan_table(Unit(f"{start + k:04d}") for k in range(size)), f"{i:02d}")
        start += size
    plan = plan_of(shards, chunk_images=1, chunk_bytes=1)
    drawn = draw(store, plan, n, seed=seed)
    names = [int(one.unit.uri) for one in drawn]
    assert names == sorted(set(names)) and len(names) <= n and set(names) <= set(range(start))
    assert {one.shard for one in drawn} >= ({s.name for s in shards} if len(shards) <= n else set())
    assert drawn == draw(store, plan, n, seed=seed)


def a_budget(**values) -> Budget:
    same = {"min_predictors": 2, "max_predictors": 2, "predictor_cpus": 0.4, "predictor_gpus": 0.0, "threads": 1}
    return Budget(**{**same, "task_cpus": 0.5, "list_cpus": 0.25, "device": "cpu", **values})


def test_the_time_is_that_of_the_slowest_stage_up_to_that_of_all_in_turn():
    seconds = np.tile([0.08, 0.1, 0.0, 1.0, 0.1], (5, 1))  # fetch, decode, prepare, predict, encode
    time = predicted(seconds, 100, a_budget(predictor_gpus=1.0), cpus=2, chunks=100, start_s=7.0)
    assert time.bottleneck == "predict"
    assert time.low_s == pytest.approx(100 * 1.0 / 2 + 7)
    assert time.high_s == pytest.approx(100 * (1.0 / 2 + 0.2 / 2 + 0.08 / 16) + 7)
    on_cpus = predicted(seconds, 100, a_budget(), cpus=2, chunks=100)
    assert on_cpus.low_s == pytest.approx(100 * (1.0 + 0.2) / 2), "predictors and decoding share the cores"
    assert predicted(seconds, 100, a_budget(predictor_gpus=1.0), cpus=2, chunks=1).low_s == pytest.approx(100)
    slow = np.tile([0.0, 3.0, 0.0, 1.0, 0.1], (5, 1))
    assert predicted(slow, 100, a_budget(predictor_gpus=1.0), cpus=2, chunks=9).bottleneck == "cores"


def test_images_that_differ_more_give_a_wider_range():
    even, uneven = np.zeros((10, 5)), np.zeros((10, 5))
    even[:, 3], uneven[:, 3] = 1.0, [0.1] * 9 + [9.1]
    ranges = [predicted(s, 10, a_budget(predictor_gpus=1.0), cpus=4, chunks=10) for s in (even, uneven)]
    assert ranges[0].high_s - ranges[0].low_s < 1e-6 < ranges[1].high_s - ranges[1].low_s
    assert ranges[1].low_s < ranges[0].low_s < ranges[1].high_s


def test_sums_over_a_plan_add_up():
    assert Sizes(3, 1, forecasting.Counter({".a": 1})) + Sizes(4, 0, forecasting.Counter({".a": 2})) == Sizes(
        7, 1, forecasting.Counter({".a": 3})
    )


@pytest.mark.usefixtures("ray_local")
def test_a_forecast_says_what_a_job_will_do_and_leaves_it_its_plan(tmp_path):
    source, out = archive(tmp_path / "in", 30), tmp_path / "out"
    (source / "bad.png").write_text("no image")
    wanted = settings(source, out, chunk_images=4, predictors="2")
    found = forecast_job(wanted, progress=Progress(quiet=True))
    assert (found.planned, found.left, found.noun) == (31, 31, "images")
    assert found.sizes.bytes == sum(p.stat().st_size for p in source.rglob("*.png"))
    assert found.sample is not None and found.sample.rows.num_rows == 20
    assert found.time is not None and 0 < found.time.start_s < found.time.low_s < found.time.high_s
    assert sorted(os.listdir(out)) == [".lock", "job.json", "plan"], "nothing but the plan"
    said = "\n".join(found.lines())
    assert re.search(r"^plan +31 images, .* kB of files$", said, re.MULTILINE)
    assert re.search(r"^formats +PNG \d+ of 20 looked at", said, re.MULTILINE)
    assert re.search(r"^output +about .* free$", said, re.MULTILINE)
    plan = {p: p.read_bytes() for p in (out / "plan").iterdir()}
    assert run(source, out, chunk_images=4).complete
    assert {p: p.read_bytes() for p in (out / "plan").iterdir()} == plan
    written = sum(p.stat().st_size for name in ("images", "objects") for p in (out / name).iterdir())
    assert 0.3 < found.out_bytes / written < 3
    after = forecast_job(wanted, progress=Progress(quiet=True))
    assert after.left == 0 and after.time is None
    fresh = tmp_path / "fresh"
    assert run(source, fresh).complete
    assert_same_tables(out, fresh)


@pytest.mark.usefixtures("ray_local")
def test_a_forecast_of_scenes_is_of_their_tiles(tmp_path):
    pytest.importorskip("rasterio")
    source, out = archive(tmp_path / "in", 3), tmp_path / "out"
    scenes = SceneSettings(tile_px=32, overlap_px=8)
    found = forecast_job(settings(source, out, scenes=scenes), progress=Progress(quiet=True))
    said = "\n".join(found.lines())
    assert found.noun == "tiles" and found.planned > 6 and found.time is not None
    assert found.sample is not None and found.sample.rows.num_rows == min(20, found.planned)
    for line in (r"^scenes +3, 3 of them readable$", r"^values +\S", r"^reading +\d scenes: stream"):
        assert re.search(line, said, re.MULTILINE), said
    assert sorted(os.listdir(out / "tiles")) == ["job.json", "plan"]
    assert run(source, out, scenes=scenes).findings.planned == found.planned


@pytest.mark.usefixtures("ray_local")
def test_an_image_that_kills_the_sample_is_said_and_not_fatal(tmp_path):
    source: Path = archive(tmp_path / "in", 2)
    blue = np.zeros((30, 30, 3), dtype=np.uint8)
    blue[0, 0] = (0, 0, 255)
    write_image(source / "blue.png", blue)
    deadly = SegmentSettings(str(source), str(tmp_path / "out"), "fake:instance?kill_on=0,0,255", predictors="1")
    found = forecast_job(deadly, progress=Progress(quiet=True))
    assert found.sample is None and "killed its process" in "\n".join(found.lines())
