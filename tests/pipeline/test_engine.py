"""A job chooses its engine once, on its own images, writes it down, and keeps to it; scripted engines stand in for real ones."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import replace

import pytest

from rayseg.config.segment import SegmentSettings
from rayseg.errors import BackendError, ConfigError, JobMismatch
from rayseg.pipeline import identity
from rayseg.pipeline.engine import Tries, settled
from rayseg.pipeline.execute import IMAGE_STAGES, Machine
from rayseg.pipeline.progress import Progress
from rayseg.pipeline.report import write_report
from rayseg.pipeline.stages import Context
from rayseg.pipeline.storage import Store
from rayseg.predict.backends.fake import FakeBackend
from rayseg.predict.machine import machine_kind
from rayseg.predict.model_dir import load_model_dir
from tests.pipeline.jobs import archive, run

pytestmark = pytest.mark.usefixtures("ray_local")


class Engine(FakeBackend):
    def __init__(self, spec, name):
        super().__init__(spec)
        self.name = name

    def run(self, inputs):
        if self.name == "crashing":
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(0.05 if self.name == "sure" else 0)
        return super().run(inputs)


def opened(spec, name, *, device, threads, precision, check, least_score):
    return Engine(spec, name)


def known(spec, *, device, precision):
    return ("sure", "crashing", "quick") if precision == "fp32" else ()


def dead(spec, *, device, precision):
    return ("crashing",)


def never(spec, *, device, precision):
    raise AssertionError("nothing was to be tried")


TRIES = Tries(known, opened, budget_s=60, least_units=4, worth=False)
NEVER = replace(TRIES, known=never)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_local):
    """A small job that is done; no test changes it."""
    folder = tmp_path_factory.mktemp("finished")
    run(archive(folder / "images", 6), folder / "out")
    return folder / "out"


@pytest.fixture
def job(tmp_path, finished):
    """(folder, a function that settles the engines of a job in it)"""

    def settle(tries, out="out", *, fresh=True, **settings):
        folder = tmp_path / out
        if not folder.exists():
            shutil.copytree(finished, folder)
        if fresh:
            for name in ("images", "objects"):
                shutil.rmtree(folder / name, ignore_errors=True)
        store, asked = Store(str(folder)), SegmentSettings("images", str(folder), "fake:instance", predictors="1", **settings)
        context = Context(asked, load_model_dir(asked.model), store, None)
        plan, tries = identity.plan(identity.require(store)), replace(tries, cache=str(tmp_path / "cache"))
        return settled(context, plan, Machine.look(asked).budget, IMAGE_STAGES, Progress(quiet=True), tries=tries)

    return tmp_path, settle


def test_the_choice_and_its_numbers_are_in_job_json_and_a_resumed_job_keeps_it(job):
    folder, settle = job
    key = machine_kind("cpu").key
    assert settle(TRIES).engines[key].engine == "quick"
    entry = identity.require(Store(str(folder / "out")))["engine"][key]
    rows = {row["engine"]: row for row in entry["choice"]["trials"]}
    assert rows["quick"]["verdict"] == "right" and rows["quick"]["compared"] > 0
    assert rows["crashing"]["verdict"] == "failed" and "SIGSEGV" in rows["crashing"]["reason"]
    assert settle(NEVER).engines[key].engine == "quick"
    page = write_report(Store(str(folder / "out")))
    with open(page, encoding="utf-8") as file:
        text = file.read()
    assert "its process crashed (SIGSEGV)" in text and "right, taken" in text


def test_another_job_of_the_model_takes_the_remembered_choice(job):
    folder, settle = job
    first = settle(TRIES)
    assert settle(NEVER, "another").engines == first.engines
    assert identity.require(Store(str(folder / "another")))["engine"]


def test_small_jobs_do_not_try(job):
    folder, settle = job
    assert settle(replace(NEVER, least_units=7)).engines == {}
    assert "engine" not in identity.require(Store(str(folder / "out")))


def test_small_jobs_take_what_a_larger_one_chose(job):
    folder, settle = job
    first = settle(TRIES)
    assert settle(replace(NEVER, least_units=7), "small").engines == first.engines
    assert identity.require(Store(str(folder / "small")))["engine"]
    assert settle(replace(NEVER, least_units=7), "other-threshold", threshold=0.7).engines == {}


def test_a_job_with_results_and_no_choice_goes_on_as_it_began(job):
    assert job[1](NEVER, fresh=False).engines == {}


def test_an_engine_that_is_named_is_not_tried(job):
    assert job[1](NEVER, backend="fake").engines == {}


def test_a_trial_that_fails_costs_a_line_and_not_the_job(job):
    folder, settle = job
    assert settle(replace(TRIES, known=dead)).engines == {}
    assert "engine" not in identity.require(Store(str(folder / "out")))


def test_a_choice_outlives_planning_again(job):
    _, settle = job
    context = settle(replace(NEVER, least_units=7))
    store = context.store
    identity.save(store, {**identity.require(store), "engine": {"key": {"machine": "a machine"}}})
    job_file = identity.require(store)
    identity.write(store, context.settings, context.spec, job_file["identity"], identity.plan(job_file))
    assert identity.require(store)["engine"] == job_file["engine"]


def test_a_precision_belongs_to_the_identity_but_for_the_usual_one(tmp_path):
    plain = SegmentSettings("a", "b", "fake:instance")
    assert "precision" not in plain.identity()
    other = replace(plain, precision="bf16")
    assert other.identity() == {**plain.identity(), "precision": "bf16"}
    with pytest.raises(JobMismatch, match="precision was None, now 'bf16'"):
        identity.check_same({"identity": plain.identity()}, other.identity(), "b")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int8"}, "precision 'int8' is unknown; use fp32, bf16 or fp16"),
        ({"backend": "tensorrt"}, "backend 'tensorrt' is unknown; use auto, paddle, "),
    ],
)
def test_words_that_nobody_knows_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SegmentSettings("a", "b", "fake:instance", **settings)


def test_a_precision_that_an_engine_lacks_is_refused_by_name_before_anything_starts(job):
    _, settle = job
    with pytest.raises(BackendError, match=r"precision bf16: model fake-instance computes in fp32 only here"):
        settle(TRIES, precision="bf16")
