"""What a run reserves, and what is refused before it starts."""

from __future__ import annotations

import pytest

from rayseg.config.train import Settings
from rayseg.distributed.resources import Resources, plan_resources
from rayseg.errors import ConfigError

LAPTOP = [{"CPU": 2.0}]
GPUS = [{"CPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}]


def settings(device: str = "auto", **cluster: object) -> Settings:
    return Settings.from_mapping({"Global": {"model": "PP-LiteSeg-T", "device": device}, "Cluster": cluster})


@pytest.mark.parametrize(
    "given, nodes, wanted",
    [
        ({}, LAPTOP, Resources(1, 1, False, 1.0, 0.0)),
        ({"num_workers": 2, "cpus_per_worker": 0.5}, LAPTOP, Resources(2, 2, False, 0.5, 0.0)),
        ({"num_workers": [1, 9]}, LAPTOP, Resources(1, 9, False, 1.0, 0.0)),
        ({"num_workers": 8}, GPUS, Resources(8, 8, True, 1.0, 1.0)),
        ({"num_workers": 30, "use_gpu": False}, GPUS, Resources(30, 30, False, 1.0, 0.0)),
        ({"device": "cpu", "num_workers": 3}, GPUS, Resources(3, 3, False, 1.0, 0.0)),
        ({"gpus_per_worker": 0.25}, GPUS, Resources(1, 1, True, 1.0, 0.25)),
    ],
)
def test_workers_reserve_what_settings_say(given, nodes, wanted):
    assert plan_resources(settings(**given), nodes) == wanted


@pytest.mark.parametrize(
    "given, nodes, message",
    [
        ({"num_workers": 3}, LAPTOP, r"3 workers with 1 CPU each do not fit the cluster, which has room for 2 \(nodes: 2 CPU\)"),
        ({"num_workers": 9}, GPUS, "has room for 8"),
        ({"num_workers": 2, "cpus_per_worker": 1.5}, [{"CPU": 2.0}, {"CPU": 1.0}], "room for 1"),
        ({"device": "gpu"}, LAPTOP, "1 CPU and 1 GPU each do not fit the cluster, which has room for 0"),
        ({"num_workers": 2, "gpus_per_worker": 0.5}, GPUS, "workers that share a GPU cannot talk over NCCL"),
        ({"gpus_per_worker": 2}, GPUS, "a worker trains on one"),
        ({}, [], "room for 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(given, nodes, message):
    with pytest.raises(ConfigError, match=message):
        plan_resources(settings(**given), nodes)


def test_rounding_takes_no_worker_away():
    assert plan_resources(settings(num_workers=10, cpus_per_worker=0.1), [{"CPU": 1.0}]).least == 10
