"""Prometheus series: what Ray exports after a job is what happened, under the table's names; and the dashboard made from it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from rayseg.pipeline.board import Tally, _Board
from rayseg.pipeline.metrics import JOB, SERIES, job_tag
from rayseg.pipeline.report.numbers import _STAGE_WORK
from rayseg.tables import STAGES

from .jobs import archive, run

DASHBOARDS = Path(__file__).resolve().parents[2] / "dashboards"
LINE = re.compile(r"ray_(rayseg_\w+)\{(.*)\} (\S+)")


def exposition(text: str) -> dict[tuple[str, str], float]:
    """(series, its own tags as text) -> sum over processes, of a page in Prometheus' format."""
    out: dict[tuple[str, str], float] = {}
    tags = {s.name: s.tags for s in SERIES}
    for name, labels, value in LINE.findall(text):
        own = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        key = (name, ",".join(own[tag] for tag in (JOB, *tags[name])))
        out[key] = out.get(key, 0.0) + float(value)
    return out


@pytest.mark.usefixtures("ray_absent")
def test_ray_exports_what_a_job_did_under_the_names_of_the_table(tmp_path):
    import ray

    source = archive(tmp_path / "in", 12)
    (source / "bad.png").write_text("no image")
    fast = {"metrics_report_interval_ms": 500}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config=fast)
    out = tmp_path / "out"
    assert run(source, out, chunk_images=4).complete
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    job, objects = job_tag(str(out)), len(pd.read_parquet(out / "objects"))
    wanted = {
        ("rayseg_images_total", f"{job},decode,ok"): 12,
        ("rayseg_images_total", f"{job},decode,failed"): 1,
        ("rayseg_images_total", f"{job},encode,ok"): 13,
        ("rayseg_objects_total", job): objects,
        ("rayseg_images_planned", job): 13,
        ("rayseg_images_done", f"{job},ok"): 12,
        ("rayseg_images_done", f"{job},failed"): 1,
        ("rayseg_chunks_waiting", f"{job},predict"): 0,
    }
    seen: dict[tuple[str, str], float] = {}
    for _ in range(60):
        with urllib.request.urlopen(address, timeout=10) as page:
            for key, value in exposition(page.read().decode()).items():
                gauge = key[0] in ("rayseg_chunks_waiting", "rayseg_images_done", "rayseg_images_planned")
                seen[key] = value if gauge else max(value, seen.get(key, 0.0))
        if wanted.items() <= seen.items():
            break
        time.sleep(0.5)
    assert {key: seen.get(key) for key in wanted} == wanted
    assert {name for name, _ in seen} == {s.name for s in SERIES}
    stages = {tags.split(",")[1] for name, tags in seen if name == "rayseg_stage_seconds_total"}
    assert stages == set(STAGES)
    assert seen["rayseg_predictor_seconds_total", f"{job},busy"] > 0
    (note,) = [json.loads(p.read_text()) for p in out.glob("runs/*.json")]
    assert note["predictor_seconds"]["busy"] == pytest.approx(seen["rayseg_predictor_seconds_total", f"{job},busy"], abs=0.01)


def test_the_report_calls_stages_as_the_series_do():
    assert tuple(_STAGE_WORK) == STAGES


def test_a_job_is_called_after_its_output_and_unlike_any_other():
    assert job_tag("/a/b/photos") == job_tag("/a/b/../b/photos/") == job_tag("file:///a/b/photos")
    names = {job_tag(out) for out in ("/a/photos", "/b/photos", "s3://a/photos", "s3://b/photos")}
    assert len(names) == 4 and all(name.startswith("photos-") for name in names)


def test_queues_are_chunks_between_stages_and_never_below_none():
    board = _Board()
    for stage, n in (("decode", 5), ("predict", 3), ("encode", 3)):
        for _ in range(n):
            board.add(stage, Tally(images=8, chunks=1))
    assert board.queues() == {"predict": 2, "encode": 0}
    board.add("encode", Tally(chunks=1))  # a task that was repeated
    assert board.queues() == {"predict": 2, "encode": 0}
    assert board.read()[0]["decode"].images == 40


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_grafana", DASHBOARDS / "make_grafana.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_grafana"] = module
    spec.loader.exec_module(module)
    return module


def test_the_dashboard_is_the_one_that_the_table_makes(maker):
    assert (DASHBOARDS / "grafana.json").read_text(encoding="utf-8") == maker.text(), "run dashboards/make_grafana.py"


def test_every_series_and_tag_in_the_dashboard_exists_and_every_series_is_shown(maker):
    tags = {f"ray_{s.name}": {JOB, *s.tags} for s in SERIES}
    queries = [target["expr"] for panel in maker.dashboard()["panels"] for target in panel["targets"]]
    shown = set()
    for query in queries:
        names = set(re.findall(r"ray_\w+", query.replace(JOB, "")))
        assert names and names <= set(tags), query
        used = set(re.findall(r"(\w+)=~?\"", query)) | {t for by in re.findall(r"by \(([^)]*)\)", query) for t in by.split(", ")}
        assert used <= set.union(*(tags[name] for name in names)), query
        shown |= names
    assert shown == set(tags)


def test_a_dashboard_cannot_name_a_series_that_is_not_in_the_table(maker):
    with pytest.raises(KeyError, match="has no such series"):
        maker.chosen("rayseg_imges_total")


def test_reading_the_table_loads_no_ray():
    script = "import rayseg.pipeline.metrics, sys; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "False"
