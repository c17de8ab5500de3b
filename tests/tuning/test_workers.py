"""What a stopped trial's workers held is free again for the next one."""

from __future__ import annotations

import time

import pytest
import ray
from ray.util import placement_group, placement_group_table

from rayseg.tuning.workers import NOTE, release


@pytest.mark.usefixtures("ray_local")
def test_what_a_trial_has_noted_is_given_back_once(tmp_path):
    group = placement_group([{"CPU": 2}, {"CPU": 2}])
    assert group.wait(30)
    (tmp_path / NOTE).write_text(group.id.hex())
    assert release(tmp_path) and not (tmp_path / NOTE).exists()
    deadline = time.monotonic() + 30
    while placement_group_table(group)["state"] != "REMOVED" or ray.available_resources().get("CPU", 0) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (tmp_path / NOTE).write_text(group.id.hex())
    assert not release(tmp_path), "it is gone already"


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("note", [None, "", "not an id"])
def test_without_a_note_that_names_a_group_nothing_happens(tmp_path, note):
    if note is not None:
        (tmp_path / NOTE).write_text(note)
    assert not release(tmp_path)
