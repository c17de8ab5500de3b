"""Fixtures and settings every test may use.

`shared_dir` skips a test where the reference data is missing; `ray_local` gives it a running Ray, `ray_absent` a
process without one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a token would be written to the home directory
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ROOT = Path(__file__).resolve().parent.parent

# No deadlines: the machine may be busy. The same examples in every run; --hypothesis-profile=search looks for new ones.
settings.register_profile(
    "rayseg", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rayseg")


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A temporary folder that all test processes of a session have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` where there is none, and `zoo` unless it is asked for."""
    if item.get_closest_marker("zoo") and os.environ.get("RAYSEG_ZOO") != "all":
        pytest.skip("half a minute or more for one network; RAYSEG_ZOO=all runs it")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("needs an NVIDIA GPU and paddlepaddle-gpu")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with reference numbers and real images: beside the checkout, or where RAYSEG_SHARED says."""
    path = Path(os.environ.get("RAYSEG_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"reference data not found at {path}")
    return path


@pytest.fixture(scope="module")
def ray_local(_ray_ends: None) -> None:
    """A Ray with 4 logical CPUs, one for each test process; started by the first test that asks for it."""
    import ray

    if not ray.is_initialized():
        keep_workers = {"idle_worker_killing_time_threshold_ms": 60_000}  # starting one costs a second
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, _system_config=keep_workers)


@pytest.fixture(scope="module")
def ray_absent(_ray_ends: None) -> Iterator[None]:
    """No Ray in this process: the module starts its own, of which nothing is left at its end."""
    import ray

    ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def _ray_ends() -> Iterator[None]:
    """Whatever Ray is running at the end of the session is stopped."""
    yield
    import ray

    ray.shutdown()


def _has_gpu() -> bool:
    import paddle

    return bool(paddle.is_compiled_with_cuda()) and paddle.device.cuda.device_count() > 0
