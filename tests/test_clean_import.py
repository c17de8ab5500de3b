"""What importing loads, each time in a fresh process: who needs neither Ray nor Paddle must not wait for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rayseg

HEAVY = ("paddle", "ray", "rasterio", "cv2")


def loaded_by(statement: str, packages=HEAVY) -> list[str]:
    """Which of some packages are in sys.modules after a statement."""
    command = f"import sys; {statement}; print(*[p for p in {tuple(packages)!r} if p in sys.modules])"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", command], capture_output=True, text=True, check=True)
    return found.stdout.split()


def test_importing_rayseg_loads_nothing_heavy():
    assert loaded_by("import rayseg", [*HEAVY, "numpy", "pyarrow"]) == []


def test_the_version_and_the_list_of_names_cost_nothing():
    assert loaded_by("import rayseg; rayseg.__version__; dir(rayseg); rayseg.errors.RaysegError") == []


@pytest.mark.parametrize("name", ["errors", "geometry", "results", "rle", "tables", "config.load", "config.segment"])
def test_values_load_nothing_heavy(name):
    assert loaded_by(f"import rayseg.{name}") == []


@pytest.mark.parametrize(
    "name", ["cli", "pipeline.verify", "pipeline.ledger", "pipeline.storage", "pipeline.report", "pipeline.export_coco"]
)
def test_what_works_on_finished_output_loads_neither_ray_nor_paddle(name):
    assert loaded_by(f"import rayseg.{name}", ["ray", "paddle"]) == []


def test_a_command_line_that_only_answers_a_question_loads_neither_ray_nor_paddle():
    statement = "import rayseg.cli, contextlib; exec('with contextlib.suppress(SystemExit): rayseg.cli.main([\"--version\"])')"
    assert loaded_by(statement, ["ray", "paddle"])[2:] == []


@pytest.mark.parametrize("package", ["cv2", "ray"])
def test_a_heavy_import_would_be_noticed(package):
    assert loaded_by(f"import {package}") == [package]


@pytest.mark.parametrize("name", rayseg.__all__)
def test_every_public_name_is_there(name):
    assert getattr(rayseg, name) is not None
    assert name in dir(rayseg)


def test_public_names_are_the_things_themselves():
    from rayseg import results
    from rayseg.errors import RaysegError

    assert rayseg.Instances is results.Instances and rayseg.errors.RaysegError is RaysegError


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'rayseg' has no attribute 'Nothing'"):
        rayseg.Nothing  # noqa: B018


def test_the_version_is_the_installed_one_or_says_that_there_is_none():
    assert rayseg.__version__[0].isdigit()
