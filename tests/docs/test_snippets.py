"""Every command and snippet of docs/ that can run here runs: page by page and in order, in a folder that looks like a checkout.

A page has a folder of its own, so each can be read alone. All share one Ray of two CPUs, but for blocks marked `run alone`.
What a block prints is compared with the `text output` below it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, Block, blocks

_RUNNING = [page for page in PAGES if any(block.runs for block in blocks(page))]
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]
CHECKOUT = ("demo", "bench", "configs", "jobs", "docs")
PATIENCE_S = 240


@pytest.fixture(scope="module")
def ray_address(ray_absent) -> Iterator[str]:
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """`rayseg` and `python`, as an activated environment has them."""
    folder = tmp_path_factory.mktemp("bin")
    for name, call in (("rayseg", "-W ignore -m rayseg.cli"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("page", _RUNNING, ids=[str(page.relative_to(DOCS)) for page in _RUNNING])
def test_the_blocks_of_a_page_run_and_print_what_it_says(page, ray_address, programs, tmp_path):
    for name in CHECKOUT:
        (tmp_path / name).symlink_to(ROOT / name)
    env = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAYSEG_CACHE": str(tmp_path / ".cache"),
    }
    env.pop("RAY_ADDRESS", None)
    said = ""
    for block in blocks(page):
        if block.runs:
            said = _run(block, env if "alone" in block.words else {**env, "RAY_ADDRESS": ray_address}, tmp_path)
        elif block.words == ("output",):
            _compare(block, said)


def _run(block: Block, env: dict[str, str], folder: Path) -> str:
    command = ["bash", "-euo", "pipefail", "-c", block.text] if block.language == "sh" else [sys.executable, "-c", block.text]
    done = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, f"{block.where} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def _compare(block: Block, said: str) -> None:
    """Each line of the block is a line of what was said, in this order; spaces in a row count as one."""
    left = iter([" ".join(line.split()) for line in said.splitlines()])
    for line in filter(None, (" ".join(line.split()) for line in block.text.splitlines())):
        wanted = re.compile(".*".join(re.escape(part.strip()) for part in line.split("...")))
        assert any(wanted.fullmatch(found) for found in left), f"{block.where}: {line!r} is not in order among:\n{said}"


@pytest.mark.parametrize("line, fits", [("1 new, ... vanished", True), ("1 new", False), ("2 new ...", False), ("...", True)])
def test_an_ellipsis_stands_for_anything_and_nothing_else_does(line, fits):
    block = Block(DOCS / "index.md", 1, "text", ("output",), line + "\n")
    if fits:
        _compare(block, "first\n1 new,  3 vanished\n")
    else:
        with pytest.raises(AssertionError, match="not in order"):
            _compare(block, "first\n1 new,  3 vanished\n")
