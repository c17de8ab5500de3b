"""A machine is shared out as the costs of the work ask for, within cores and memory, and never against what the user said."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.config.segment import SegmentSettings
from rayseg.pipeline import planner
from rayseg.pipeline.board import Tally
from rayseg.pipeline.budget import plan_budget
from rayseg.pipeline.job import forecast_job
from rayseg.pipeline.machine import Machine, _better
from rayseg.pipeline.planner import CORES, PREDICT, STORAGE, Costs, Expected, Node
from rayseg.pipeline.progress import Progress
from rayseg.pipeline.sample import Sampled, shared_rates

from .jobs import archive, run

GB = 2**30
seconds = st.floats(0, 10)


def asked(**values) -> SegmentSettings:
    return SegmentSettings("a", "b", "m", **values)


def fit(costs: Costs, nodes: list[Node], *, resident: float = 0.0, rates=None, gpus: float = 0.0, **values):
    wanted = asked(**values)
    budget = plan_budget(wanted, cpus=sum(n.cpus for n in nodes), gpus=gpus, node_cpus=min(n.cpus for n in nodes))
    return planner.fitted(budget, wanted, costs, nodes=nodes, resident=resident, shared_rates=rates)


@given(
    st.builds(Costs, seconds, seconds, seconds),
    st.lists(st.builds(Node, st.integers(1, 64), st.sampled_from([0.0, 4.0 * GB, 64.0 * GB])), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.5 * GB, 3.0 * GB, 100.0 * GB]),
    st.sampled_from(["auto", "3", "2:9"]),
)
def test_whatever_the_costs_a_task_always_has_room_and_memory_is_kept(costs, nodes, resident, predictors):
    budget = fit(costs, nodes, resident=resident, predictors=predictors)
    smallest = min(node.cpus for node in nodes)
    assert budget.max_predictors * budget.predictor_cpus + budget.task_cpus <= smallest + 1e-6
    assert budget.predictor_cpus > 0 and 1 <= budget.min_predictors <= budget.max_predictors
    assert 1 <= budget.threads <= smallest
    if predictors != "auto":
        assert f"{budget.min_predictors}:{budget.max_predictors}" in (predictors, f"{predictors}:{predictors}")
    elif resident and all(node.memory for node in nodes) and budget.max_predictors > 1:
        assert budget.max_predictors * resident <= 0.7 * sum(node.memory for node in nodes)


def test_a_heavy_network_gets_a_predictor_a_core():
    budget = fit(Costs(0.001, 0.02, 1.0), [Node(8, 64 * GB)], resident=GB)
    assert (budget.max_predictors, budget.threads) == (8, 1)


def test_a_light_network_leaves_the_cores_to_decoding():
    budget = fit(Costs(0.0, 0.09, 0.01), [Node(16, 64 * GB)], resident=GB)
    assert budget.max_predictors == 2, "a tenth of 16 cores, and a quarter to spare"
    tasks = int((16 - budget.max_predictors * budget.predictor_cpus) / budget.task_cpus)
    assert tasks >= 15


def test_where_memory_holds_few_predictors_each_has_more_threads():
    budget = fit(Costs(0.0, 0.01, 1.0), [Node(8, 16 * GB)], resident=4 * GB)
    assert (budget.max_predictors, budget.threads) == (2, 4)
    assert fit(Costs(0.0, 0.01, 1.0), [Node(8, 16 * GB)], resident=4 * GB, threads_per_predictor=1).threads == 1
    two = fit(Costs(0.0, 0.01, 1.0), [Node(8, 16 * GB)] * 2, resident=4 * GB)
    assert (two.max_predictors, two.threads) == (4, 4)
    alone = fit(Costs(0.0, 0.01, 1.0), [Node(8, 16 * GB)], resident=400 * GB)
    assert (alone.max_predictors, alone.threads) == (1, 8)


def test_what_the_user_said_stays_and_a_pool_too_large_for_memory_is_said():
    budget = fit(Costs(0.0, 0.09, 0.01), [Node(8, 16 * GB)], resident=4 * GB, predictors="5", threads_per_predictor=2)
    assert (budget.min_predictors, budget.max_predictors, budget.threads) == (5, 5, 2)
    warning = planner.too_large(budget, [Node(8, 16 * GB)], 4 * GB)
    assert warning is not None and "5 predictors of 4096 MB" in warning and "lower --predictors" in warning
    assert planner.too_large(budget, [Node(8, 64 * GB)], 4 * GB) is None
    assert planner.too_large(budget, [Node(8, 0)], 4 * GB) is None


@pytest.mark.parametrize(
    ("rates", "pool", "share"),
    [({1: 10.0}, 2, 1.0), ({1: 10.0, 2: 17.0, 4: 18.0}, 8, 0.25), ({1: 10.0, 2: 17.0, 4: 15.0}, 4, 0.5), ({}, 2, 1.0)],
)
def test_a_gpu_is_shared_by_as_many_predictors_as_gave_most(rates, pool, share):
    budget = fit(Costs(0.0, 0.01, 0.01), [Node(16, 64 * GB)], rates=rates, gpus=2)
    assert (budget.max_predictors, budget.predictor_gpus) == (pool, share)
    kept = fit(Costs(0.0, 0.01, 0.01), [Node(16, 64 * GB)], rates=rates, gpus=2, gpus_per_predictor=1.0)
    assert (kept.max_predictors, kept.predictor_gpus) == (2, 1.0)


@pytest.mark.parametrize(
    ("costs", "bottleneck", "unit_s"),
    [
        (Costs(0.0, 0.1, 1.0), PREDICT, 1.1 / 4),
        (Costs(0.0, 1.0, 0.1), CORES, 1.1 / 4),
        (Costs(90.0, 0.1, 0.1), STORAGE, 90 / 32),
    ],
)
def test_the_bottleneck_is_what_takes_most_and_cores_are_shared(costs, bottleneck, unit_s):
    budget = plan_budget(asked(), cpus=4, gpus=0)
    assert planner.expected(costs, budget, cpus=4) == Expected(bottleneck, pytest.approx(unit_s))


def test_no_more_predictors_than_chunks_are_counted_or_started():
    budget = plan_budget(asked(), cpus=8, gpus=0)
    assert planner.expected(Costs(0.0, 0.0, 1.0), budget, cpus=8, chunks=2).unit_s == pytest.approx(0.5)
    assert planner.enough_for(budget, asked(), 3).max_predictors == 3
    assert planner.enough_for(budget, asked(), 0).max_predictors == 1
    assert planner.enough_for(plan_budget(asked(predictors="6"), cpus=8, gpus=0), asked(predictors="6"), 3).max_predictors == 6


def test_a_sample_is_run_only_where_it_can_change_something_and_pays():
    on_cpu, enough = plan_budget(asked(), cpus=4, gpus=0), planner.SAMPLE_FROM
    assert planner.worth_a_sample(asked(), on_cpu, enough)
    assert not planner.worth_a_sample(asked(), on_cpu, enough - 1)
    assert not planner.worth_a_sample(asked(predictors="4"), on_cpu, enough)
    on_gpu = plan_budget(asked(), cpus=4, gpus=2)
    assert planner.worth_a_sample(asked(), on_gpu, enough)
    assert not planner.worth_a_sample(
        asked(gpus_per_predictor=0.5), plan_budget(asked(gpus_per_predictor=0.5), cpus=4, gpus=2), enough
    )


def test_the_plan_is_one_line():
    budget = replace(plan_budget(asked(), cpus=2, gpus=0), threads=1)
    line = planner.said(Expected(PREDICT, 0.084), budget, 10_000, "images")
    assert line == "predict is the bottleneck: 2 predictors x 1 thread; about 14 min for 10,000 images"
    gpu = planner.said(Expected(CORES, 0.5), plan_budget(asked(), cpus=2, gpus=1), 100, "tiles")
    assert gpu == "decoding and encoding are the bottleneck: 1 predictor on gpu; about 50 s for 100 tiles"


def tallies(*, decode: float, predict: float, units: int = 100) -> dict[str, Tally]:
    return {
        "decode": Tally(units, seconds={"fetch": 0.0, "decode": decode * units, "prepare": 0.0}),
        "predict": Tally(units, seconds={"predict": predict * units}),
        "encode": Tally(units, seconds={"encode": 0.01 * units}),
    }


def test_a_running_job_knows_its_costs_once_enough_units_have_passed():
    assert Costs.of_tallies({}) is None
    assert Costs.of_tallies(tallies(decode=1, predict=1, units=19)) is None
    assert Costs.of_tallies(tallies(decode=1, predict=2)) == Costs(0.0, pytest.approx(1.01), pytest.approx(2))


@pytest.mark.parametrize(
    ("planned", "words"),
    [
        (Expected(PREDICT, 0.1), "decoding and encoding are the bottleneck, not predict: more CPUs would help"),
        (Expected(CORES, 0.1), None),
        (None, "decoding and encoding are the bottleneck: 2 predictors x 1 thread; about 45 s for 90 images"),
    ],
)
def test_a_job_that_is_held_up_elsewhere_says_so_once(caplog, planned, words):
    caplog.set_level("INFO")
    budget, progress = plan_budget(asked(), cpus=2, gpus=0), Progress()
    progress._planned = 100
    progress.resumed(10, 0)
    progress.expects(budget, planned, cpus=2)
    progress.show(tallies(decode=0.9, predict=0.1))
    assert "bottleneck" not in caplog.text, "nothing is told from the first chunks"
    progress._started -= 60
    for _ in range(3):
        progress.show(tallies(decode=0.9, predict=0.1))
    assert [r.getMessage() for r in caplog.records if "bottleneck" in r.getMessage()] == ([words] if words else [])


def test_the_time_left_is_told_from_what_was_done_lately():
    progress = Progress(quiet=True)
    progress._planned = 1000
    progress.resumed(0, 0)
    progress._started -= 1000
    now = time.monotonic()
    progress._recent.extend([(now - 900, 10), (now - 125, 100), (now - 60, 350)])
    progress.committed(600, 0)
    assert (line := progress._line()) and "4.0/s" in line and "1:40 left" in line


def test_sharing_is_tried_until_it_gives_no_more_or_does_not_fit():
    def sleeper(chunk):
        time.sleep(0.02)

    assert list(shared_rates(sleeper, lambda: sleeper, None)) == [1, 2, 4], "sleepers do not disturb each other"

    def refuse():
        raise RuntimeError("Out of memory")

    assert list(shared_rates(sleeper, refuse, None)) == [1]


@pytest.mark.usefixtures("ray_local")
def test_a_long_job_measures_a_sample_first_and_notes_what_it_planned_and_found(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(planner, "SAMPLE_FROM", 40)
    source, out = archive(tmp_path / "in", 60), tmp_path / "out"
    found = forecast_job(SegmentSettings(str(source), str(out), "fake:instance"), progress=Progress(quiet=True))
    assert run(source, out, predictors="auto").complete
    (note,) = [json.loads(path.read_text()) for path in (out / "runs").iterdir()]
    assert note["expected"]["bottleneck"] in (PREDICT, CORES, STORAGE) and note["expected"]["unit_s"] > 0
    assert note["found"]["unit_s"] > 0
    assert note["predictors"] <= 4 and note["threads"] == 1
    assert found.budget.threads == 1 and found.time is not None
    small = tmp_path / "small"
    assert run(archive(tmp_path / "few", 9), small, predictors="auto").complete
    (note,) = [json.loads(path.read_text()) for path in (small / "runs").iterdir()]
    assert note["expected"] is None and note["predictors"] == 2, "two chunks need no third predictor"


def test_costs_of_a_sample_are_means_of_its_units():
    rows = np.asarray([[0.1, 0.2, 0.3, 4.0, 0.5], [0.3, 0.2, 0.1, 2.0, 0.7]])
    assert Costs.of_sample(rows) == Costs(pytest.approx(0.2), pytest.approx(1.0), pytest.approx(3.0))


@pytest.mark.parametrize(("by_four", "threads"), [(0.3, 4), (0.9, 4), (1.1, 1), (None, 1)])
def test_more_threads_are_kept_only_where_a_sample_with_them_was_faster(by_four, threads):
    """Two predictors fit into the memory of eight cores; one thread each takes a second a unit."""
    fitting = fit(Costs(0.0, 0.01, 1.0), [Node(8, 16 * GB)], resident=4 * GB)
    many = Machine({"CPU": 8}, fitting, (Node(8, 16 * GB),))
    found = _better(many, 1, sampled(1.0), None if by_four is None else sampled(by_four), 100)
    assert found.budget.threads == threads and found.budget.max_predictors == 2
    assert found.expected is not None and found.expected.unit_s == pytest.approx((by_four if threads > 1 else 1.0) / 2, rel=0.1)


def sampled(predict: float) -> Sampled:
    rows = pa.Table.from_pylist(
        [{"status": "ok", "fetch_s": 0.0, "decode_s": 0.01, "prepare_s": 0.0, "predict_s": predict, "encode_s": 0.0}]
    )
    return Sampled(rows, 0, 0.0, 0, "fake")
