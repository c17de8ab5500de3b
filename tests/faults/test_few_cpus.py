"""No number of logical CPUs and predictors makes a job wait for itself, and none changes its tables."""

from __future__ import annotations

import pytest

from tests.pipeline.jobs import assert_same_tables

from . import drivers

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.parametrize("num_cpus, predictors", [(1, "1"), (1, "1:4"), (2, "3"), (3, "1:4"), (8, "3")])
def test_a_job_ends_on_so_many_logical_cpus(images, undisturbed, tmp_path, num_cpus, predictors):
    more = ["--predictors", predictors]
    status, said = drivers.run(drivers.segment(images, tmp_path, *more, delay_ms=2, num_cpus=num_cpus), timeout_s=240)
    assert status == 0, said
    assert_same_tables(tmp_path, undisturbed)
