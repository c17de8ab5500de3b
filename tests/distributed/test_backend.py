"""What the backend tells Paddle, without starting any worker."""

from __future__ import annotations

import pytest

from rayseg.distributed.backend import PaddleConfig, environment, interface_of, position_of_gpu
from rayseg.errors import ConfigError


def test_every_rank_is_told_itself_and_all_others():
    found = environment([("10.0.0.1", 5), ("10.0.0.2", 6)], ("10.0.0.1", 7), "gloo", 60)
    assert [f["PADDLE_TRAINER_ID"] for f in found] == ["0", "1"]
    assert [f["PADDLE_CURRENT_ENDPOINT"] for f in found] == ["10.0.0.1:5", "10.0.0.2:6"]
    assert {f["PADDLE_TRAINER_ENDPOINTS"] for f in found} == {"10.0.0.1:5,10.0.0.2:6"}
    assert {(f["PADDLE_TRAINERS_NUM"], f["PADDLE_MASTER"], f["PADDLE_PG_TIMEOUT"]) for f in found} == {
        ("2", "10.0.0.1:7", "60000")
    }


def test_an_ipv6_address_is_refused():
    with pytest.raises(ConfigError, match="fd00::1; Paddle needs IPv4"):
        environment([("fd00::1", 5)], ("fd00::1", 6), "gloo", 60)


def test_the_interface_of_an_address_is_found_by_its_name():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.77") is None


@pytest.mark.parametrize("mine, visible, place", [(["1"], "0,1", 1), (["3"], "3", 0), (["5", "6"], " 4, 5,6", 1)])
def test_paddle_counts_gpus_by_their_place_among_the_visible_ones(mine, visible, place):
    assert position_of_gpu(mine, visible) == place


@pytest.mark.parametrize(
    "mine, visible, message", [([], "0", "was given none"), (["2"], "0,1", "GPU 2 is not in"), (["0"], "", "GPU 0")]
)
def test_a_gpu_that_is_not_there_is_told(mine, visible, message):
    with pytest.raises(ConfigError, match=message):
        position_of_gpu(mine, visible)


@pytest.mark.parametrize("values, message", [({"backend": "mpi"}, "'mpi'"), ({"timeout_s": 0}, "timeout_s is 0")])
def test_a_group_that_cannot_be_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        PaddleConfig(**values)
