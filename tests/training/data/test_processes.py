"""Functions run elsewhere: results in order, errors told, and no death goes unnoticed."""

from __future__ import annotations

import gc
import os
import signal
import time
from multiprocessing.connection import Connection

import numpy as np
import pytest

from rayseg.errors import DatasetError, RaysegError
from rayseg.training.data.processes import ProcessDied, Processes


def answer(kind: str, value: int = 0):
    """What the processes of these tests do."""
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "die while answering":
        pipe = next(thing for thing in gc.get_objects() if isinstance(thing, Connection))
        os.write(pipe.fileno(), (10**6).to_bytes(4, "big") + b"x" * 1000)  # announces more than it sends
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "refuse":
        raise DatasetError(f"no image {value}")
    if kind == "fail":
        raise ValueError(f"no {value}")
    return os.getpid(), np.full(300_000, value, np.uint8)


@pytest.fixture
def two():
    pool = Processes(answer, 2)
    yield pool
    pool.close()


def test_results_belong_to_their_calls_and_come_from_other_processes(two):
    found = [future.result(timeout=60) for future in [two.submit("work", i) for i in range(20)]]
    assert [int(array[-1]) for _, array in found] == list(range(20))
    assert {pid for pid, _ in found} <= {member.process.pid for member in two.members}
    assert os.getpid() not in {pid for pid, _ in found}


@pytest.mark.parametrize("how", ["die", "die while answering"])
def test_a_death_is_an_error_and_leaves_the_others_at_work(two, how):
    with pytest.raises(ProcessDied, match="ended without an answer"):
        two.submit(how).result(timeout=60)
    outcomes = [two.submit("work", i).exception(timeout=60) for i in range(4)]
    assert {type(outcome) for outcome in outcomes} == {type(None), ProcessDied}


def test_errors_of_ours_arrive_as_they_were_and_others_with_their_traceback(two):
    with pytest.raises(DatasetError, match="^no image 3$"):
        two.submit("refuse", 3).result(timeout=60)
    with pytest.raises(RaysegError, match=r"(?s)^Traceback .* in answer.*ValueError: no 7"):
        two.submit("fail", 7).result(timeout=60)
    assert two.submit("work", 1).result(timeout=60)[1].sum() == 300_000


def test_closing_ends_the_processes_and_may_be_done_twice():
    pool = Processes(answer, 2)
    later = [pool.submit("work", i) for i in range(8)]
    pool.close()
    pool.close()
    assert not any(member.process.is_alive() for member in pool.members)
    assert all(future.cancelled() or future.result() for future in later)


def test_a_pool_that_is_forgotten_ends_its_processes():
    pool = Processes(answer, 1)
    process = pool.members[0].process
    del pool
    gc.collect()
    for _ in range(200):
        if not process.is_alive():
            break
        time.sleep(0.05)
    assert not process.is_alive()
