"""A full disk stops the job with a message that says what to do; with more room the same command completes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from tests.pipeline.jobs import assert_same_tables

from . import drivers

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

# All in one session of mounts that nobody else sees: a disk that is too small, the job, again without more room, again
# with more. What the disk held is copied out, since it vanishes with the session.
SCRIPT = """
set -u
disk=$1 keep=$2; shift 2
mount -t tmpfs -o "size=$SIZE" none "$disk" || exit 77
for room in full still_full more; do
  [ $room = more ] && mount -o remount,size=64m "$disk"
  "$@" > "$keep/$room.txt" 2>&1
  echo $? > "$keep/$room.status"
done
cp -a "$disk" "$keep/disk"
"""


@pytest.fixture(scope="module")
def mounts() -> list[str]:
    """The command that gives a session with mounts of its own."""
    command = ["unshare", "--map-root-user", "--mount"]
    try:
        done = subprocess.run([*command, "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs unshare (util-linux)")
    if done.returncode:
        pytest.skip(f"no mounts without privileges here: {done.stderr.strip()}")
    return command


def _fill(mounts: list[str], tmp_path: Path, size: str, command: list[str]) -> tuple[Path, list[tuple[int, str]]]:
    """Run a command on a disk of some size, twice, and once more with enough room.

    Returns:
        A copy of the disk, and the exit status and the words of each run.
    """
    disk, keep = tmp_path / "disk", tmp_path / "keep"
    disk.mkdir()
    keep.mkdir()
    done = subprocess.run(
        [*mounts, "sh", "-c", SCRIPT, "sh", str(disk), str(keep), *command],
        env=drivers.environment() | {"SIZE": size},
        cwd=drivers.ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=3 * drivers.PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    rooms = ("full", "still_full", "more")
    return keep / "disk", [(int((keep / f"{r}.status").read_text()), (keep / f"{r}.txt").read_text()) for r in rooms]


@pytest.mark.parametrize("size", ["500k", "12k"], ids=["while working", "while planning"])
def test_a_full_disk_stops_the_job_and_with_more_room_the_same_command_completes(mounts, images, undisturbed, tmp_path, size):
    command = [sys.executable, "-m", "rayseg.cli", *drivers.segment(images, tmp_path / "disk", delay_ms=5)]
    disk, (first, second, third) = _fill(mounts, tmp_path, size, command)
    for status, said in (first, second):
        assert status == 2, said
        (line,) = [line for line in said.splitlines() if line.startswith("rayseg: ")]
        assert "OutputError" in line
        assert "No space left on device" in line
        assert "free space" in line.lower()
        assert "Traceback" not in said
    status, said = third
    assert status == 0, said
    assert verify(Store(str(disk))).ok
    assert drivers.debris(disk) == []
    assert_same_tables(disk, undisturbed)
