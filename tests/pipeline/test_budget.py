"""A job always leaves room for one task, whatever the machine, and refuses what can never be reserved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError
from rayseg.pipeline.budget import plan_budget


def _settings(**values) -> SegmentSettings:
    return SegmentSettings("a", "b", "m", **values)


@given(st.integers(1, 256), st.one_of(st.just("auto"), st.integers(1, 300).map(str)))
def test_predictors_never_hold_the_cpu_a_task_needs(cpus, predictors):
    budget = plan_budget(_settings(predictors=predictors), cpus=cpus, gpus=0)
    assert budget.max_predictors * budget.predictor_cpus + budget.task_cpus <= cpus + 1e-6
    assert budget.predictor_cpus > 0
    assert budget.list_cpus < budget.task_cpus
    assert 1 <= budget.min_predictors <= budget.max_predictors


@given(st.lists(st.integers(1, 64), min_size=1, max_size=50), st.one_of(st.just("auto"), st.integers(1, 300).map(str)))
def test_all_predictors_and_a_task_fit_on_the_smallest_node_should_it_be_the_last(nodes, predictors):
    budget = plan_budget(_settings(predictors=predictors), cpus=sum(nodes), gpus=0, node_cpus=min(nodes))
    assert budget.max_predictors * budget.predictor_cpus + budget.task_cpus <= min(nodes) + 1e-6


@pytest.mark.parametrize("cpus", [1, 2, 3, 8])
def test_without_gpus_there_is_one_predictor_a_cpu_with_one_thread(cpus):
    budget = plan_budget(_settings(), cpus=cpus, gpus=0)
    assert (budget.min_predictors, budget.max_predictors, budget.threads, budget.device) == (cpus, cpus, 1, "cpu")
    assert budget.predictor_gpus == 0


@pytest.mark.parametrize(("per", "pool"), [(None, 4), (0.5, 8), (2.0, 2), (0.25, 16)])
def test_with_gpus_the_pool_fills_them(per, pool):
    budget = plan_budget(_settings(gpus_per_predictor=per), cpus=16, gpus=4)
    assert (budget.max_predictors, budget.device) == (pool, "gpu")
    assert budget.predictor_gpus == (per or 1.0)


def test_the_cpu_can_be_chosen_where_there_are_gpus():
    assert plan_budget(_settings(device="cpu"), cpus=4, gpus=2).device == "cpu"
    assert plan_budget(_settings(gpus_per_predictor=0.0), cpus=4, gpus=2).predictor_gpus == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "gpu"}, "cluster has none"),
        ({"gpus_per_predictor": 1.0}, "cluster has none"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error_and_no_silent_fall_back(values, message):
    with pytest.raises(ConfigError, match=message):
        plan_budget(_settings(**values), cpus=4, gpus=0)


def test_a_pool_larger_than_the_cluster_is_refused():
    with pytest.raises(ConfigError, match=r"3 predictors with 1 GPUs each need 3 GPUs, the cluster has 2"):
        plan_budget(_settings(predictors="3"), cpus=8, gpus=2)
    with pytest.raises(ConfigError, match="only whole GPUs"):
        plan_budget(_settings(gpus_per_predictor=1.5), cpus=8, gpus=2)


@pytest.mark.parametrize(
    ("device", "cluster", "predictors", "gpus", "extra"),
    [
        ("gpu:0,2", {"GPU": 4}, (2, 2), 1, {}),
        ("gpu:5", {"GPU": 4}, (1, 1), 1, {}),
        ("dcu", {"GPU": 2}, (1, 2), 1, {}),
        ("npu", {"NPU": 8, "GPU": 1}, (1, 8), 0, {"NPU": 1}),
        ("npu:0,1", {"NPU": 8}, (2, 2), 0, {"NPU": 1}),
        ("xpu", {"XPU": 3}, (1, 3), 0, {"XPU": 1}),
    ],
)
def test_a_device_string_chooses_what_ray_reserves_and_its_numbers_how_many_predictors(device, cluster, predictors, gpus, extra):
    budget = plan_budget(_settings(device=device), cpus=16, gpus=cluster.get("GPU", 0), others=cluster)
    assert (budget.min_predictors, budget.max_predictors) == predictors
    assert (budget.predictor_gpus, budget.predictor_resources, budget.device) == (gpus, extra, device.partition(":")[0])


@pytest.mark.parametrize("device", ["npu", "xpu:0", "dcu"])
def test_a_device_the_cluster_does_not_have_is_refused_and_nothing_falls_back(device):
    with pytest.raises(ConfigError, match="is asked for, but the cluster has none"):
        plan_budget(_settings(device=device), cpus=16, gpus=0, others={"CPU": 16})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"device": "gpu:0,0"}, "names a device twice"),
        ({"device": "cpu:0"}, "the CPU is one device"),
        ({"device": "tpu"}, "'tpu' is unknown"),
        ({"device": "gpu:0,1", "predictors": "3"}, "is 2 predictors, predictors says 3"),
        ({"device": "gpu:0,1", "gpus_per_predictor": 0.5}, "drop gpus_per_predictor, or the numbers"),
        ({"device": "npu", "gpus_per_predictor": 1.0}, "device npu contradicts"),
    ],
)
def test_a_device_string_that_cannot_be_honoured_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        _settings(**values)
