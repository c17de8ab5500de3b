"""How many trials run at once: never more than fit, and never fewer than could."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rayseg.config.train import Settings
from rayseg.errors import ConfigError
from rayseg.tuning.room import Room, plan_room, slots

NODES = st.lists(
    st.fixed_dictionaries({"CPU": st.integers(0, 9).map(float), "GPU": st.integers(0, 4).map(float)}), min_size=1, max_size=4
)
CPUS = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.0])
GPUS = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.4, 0.5, 0.6, 1.0])


def room(nodes, *, device="cpu", search=None, **cluster) -> Room:
    values = {"Global": {"model": "PP-LiteSeg-T", "device": device}, "Cluster": cluster, "Search": search or {}}
    return plan_room(Settings.from_mapping(values), nodes)


@given(NODES, CPUS, GPUS, st.integers(1, 4))
def test_trials_that_run_at_once_fit_the_cluster_worker_by_worker(nodes, cpus, gpus, workers):
    assume(workers == 1 or gpus in (0.0, 1.0))
    device, extra = ("gpu", {"gpus_per_worker": gpus}) if gpus else ("cpu", {})
    try:
        found = room(nodes, device=device, num_workers=workers, cpus_per_worker=cpus, **extra)
    except ConfigError:
        assert sum(slots(node, {"CPU": cpus} | ({"GPU": gpus} if gpus else {})) for node in nodes) < workers
        return
    placed = place_all(found.at_once * workers, nodes, cpus, gpus)
    assert placed
    assert not place_all((found.at_once + 1) * workers, nodes, cpus, gpus), "one more would have fitted"


def place_all(count: int, nodes, cpus: float, gpus: float) -> bool:
    """The slow way: put workers one by one onto CPUs and single GPUs."""
    for node in nodes:
        free, cards = node["CPU"], [1.0] * int(node["GPU"])
        while count:
            card = next((i for i, left in enumerate(cards) if left + 1e-9 >= gpus), None) if gpus else -1
            if free + 1e-9 < cpus or card is None:
                break
            free -= cpus
            if gpus:
                cards[card] -= gpus
            count -= 1
    return count == 0


def test_two_cpus_run_two_small_trials_or_one_large_one():
    assert room([{"CPU": 2.0}]).at_once == 2
    assert room([{"CPU": 2.0}], num_workers=2).at_once == 1
    assert room([{"CPU": 2.0}], num_workers=[1, 4]).at_once == 1, "starts with what there is"
    assert room([{"CPU": 8.0}], search={"max_concurrent_trials": 3}).at_once == 3
    assert room([{"CPU": 2.0}], search={"max_concurrent_trials": 30}).at_once == 2


def test_a_fraction_of_a_gpu_lies_on_one():
    assert slots({"CPU": 99.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.4}) == 4
    assert room([{"CPU": 16.0, "GPU": 2.0}], device="gpu", gpus_per_worker=0.4).at_once == 4


def test_what_a_trial_reserves_is_its_worker_or_next_to_nothing():
    assert room([{"CPU": 4.0}], cpus_per_worker=1.5).reserved == {"CPU": 1.5}
    light = room([{"CPU": 4.0}], num_workers=2)
    assert not light.direct and light.reserved["CPU"] == 0, "its workers need every CPU there is"
    assert not room([{"CPU": 4.0}], max_failures=2).direct, "Ray Train starts its worker again"


def test_one_trial_that_does_not_fit_is_refused_with_what_is_asked_and_what_there_is():
    with pytest.raises(ConfigError, match="3 workers with 1 CPU each do not fit .* room for 2 .nodes: 2 CPU"):
        room([{"CPU": 2.0}], num_workers=3)
    with pytest.raises(ConfigError, match="1 workers with 1 CPU and 1 GPU each do not fit .*nodes: 8 CPU and 0 GPU"):
        room([{"CPU": 8.0}], device="gpu")
