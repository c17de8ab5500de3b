"""Which devices a Ray that a job starts may see."""

from __future__ import annotations

import os

import pytest

from rayseg.config.device import parse_device
from rayseg.errors import ConfigError
from rayseg.pipeline.runtime import _only


@pytest.mark.parametrize(
    ("before", "device", "inside"),
    [
        (None, "gpu:1,3", "1,3"),
        ("4,5,6", "gpu:2,0", "6,4"),
        ("GPU-a,GPU-b", "gpu:1", "GPU-b"),
        ("4,5", "gpu", "4,5"),
        ("4,5", "cpu", "4,5"),
        (None, "npu:1", None),
    ],
)
def test_numbers_in_the_device_string_hide_all_other_devices_for_the_time(monkeypatch, before, device, inside):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with _only(parse_device(device)):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == inside
        assert os.environ.get("ASCEND_RT_VISIBLE_DEVICES") == ("1" if device == "npu:1" else None)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    assert "ASCEND_RT_VISIBLE_DEVICES" not in os.environ


def test_a_device_that_is_hidden_already_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(ConfigError, match="gpu:2: CUDA_VISIBLE_DEVICES=4,5 shows 2"), _only(parse_device("gpu:2")):
        pytest.fail("must not get here")
