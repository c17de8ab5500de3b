"""Whole jobs from a bucket to a bucket, through the command line.

Like a folder's, resumable, untouched by a failing tenth of the requests.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pandas as pd
import pytest

from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from tests.faults import drivers

from .jobs import archive, assert_same_tables, tables
from .s3_server import SECRET, flaky, no_other_credentials, serve_s3

pytest.importorskip("s3fs")
pytestmark = [
    *(pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)),
    # What s3fs leaves open when the test ends.
    *(pytest.mark.filterwarnings(f"ignore::{name}") for name in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")),
]
N = 80
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def buckets(tmp_path_factory) -> Path:
    """photos/: an archive; results/: empty."""
    root = tmp_path_factory.mktemp("s3")
    archive(root / "photos" / "2024", N)
    (root / "results").mkdir()
    return root


@pytest.fixture(scope="module")
def s3(buckets):
    with no_other_credentials(), serve_s3(buckets) as server:
        yield server


@pytest.fixture(scope="module")
def local(buckets, tmp_path_factory) -> Path:
    """The same images as plain files, done on the local disk."""
    out = tmp_path_factory.mktemp("local")
    status, said = drivers.run(drivers.segment(buckets / "photos", out, delay_ms=0))
    assert status == 0, said
    return out


@pytest.fixture(scope="module")
def undisturbed(s3, buckets, local) -> Path:
    """The job from bucket to bucket; credentials from the environment."""
    status, said = drivers.run(drivers.segment("s3://photos", "s3://results/undisturbed", delay_ms=0), env=s3.environment)
    assert status == 0, said
    return buckets / "results" / "undisturbed"


def test_a_bucket_gives_the_tables_that_a_folder_gives(undisturbed, local, buckets):
    for ours, wanted in zip(_named(undisturbed, "s3://photos"), _named(local, str(buckets / "photos")), strict=True):
        pd.testing.assert_frame_equal(ours, wanted)
    assert len(tables(undisturbed)[0]) == N


def test_a_job_that_was_killed_is_resumed_and_verified_in_the_bucket(s3, buckets, undisturbed, tmp_path):
    out, url = buckets / "results" / "killed", "s3://results/killed"
    command = drivers.segment("s3://photos", url, *s3.flags)
    assert drivers.kill_when(drivers.start(command), lambda: drivers.commits(out) >= 7)
    assert drivers.commits(out) < N / drivers.CHUNK_IMAGES
    status, said = drivers.run(["verify", url, *s3.flags])
    assert status == 1
    assert "is planned but not in the ledger" in said
    config = tmp_path / "job.yaml"  # its options of the source hold for the output too
    config.write_text(json.dumps({"source_options": s3.options}))
    status, said = drivers.run(drivers.segment("s3://photos", url, "--config", str(config)))
    assert status == 0, said
    status, said = drivers.run(["verify", url], env=s3.environment)
    assert (status, said.split(":")[0]) == (0, "complete"), said
    assert_same_tables(out, undisturbed)
    assert SECRET not in (out / "job.json").read_text()


def test_a_tenth_of_failing_requests_changes_nothing(s3, buckets, undisturbed):
    with flaky(s3, share=0.1, seed=3) as (behind, trouble):
        status, said = drivers.run(drivers.segment("s3://photos", "s3://results/flaky", *behind.flags, delay_ms=0))
    assert status == 0, said
    assert trouble.made.total() > trouble.asked / 20
    assert trouble.asked > 2 * N
    log.info("%d requests, %d faults: %s", trouble.asked, trouble.made.total(), dict(trouble.made))
    assert verify(Store("s3://results/flaky", s3.options)).ok
    assert_same_tables(buckets / "results" / "flaky", undisturbed)


@pytest.mark.parametrize(
    ("source", "out", "secret", "words"),
    [
        ("s3://photos", "s3://results/no", "wrong", r"rayseg: OutputError: s3://results/no: cannot .*credentials"),
        ("s3://photos", "LOCAL", "wrong", r"rayseg: SourceError: s3://photos: cannot be read: .*credentials"),
        ("s3://nowhere", "LOCAL", SECRET, r"rayseg: SourceError: s3://nowhere: there is no such file or folder"),
        (
            "s3://photos",
            "s3://nowhere/x",
            SECRET,
            r"rayseg: OutputError: s3://nowhere/x: cannot write .*bucket does not exist",
        ),
    ],
)
def test_what_the_storage_refuses_ends_with_status_2_and_one_clear_line(s3, tmp_path, source, out, secret, words):
    flags = [
        "--endpoint-url",
        s3.url,
        "--storage-option",
        f"key={s3.options['key']}",
        "--storage-option",
        f"secret={secret}",
    ]
    status, said = drivers.run(drivers.segment(source, out.replace("LOCAL", str(tmp_path / "out")), *flags))
    assert status == 2, said
    assert re.search(words, said), said
    assert "Traceback" not in said


def _named(out: Path, prefix: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables with file names relative to the source, and without the ids that follow from the full ones."""
    images, objects = (table.assign(uri=table["uri"].str.removeprefix(prefix)).drop(columns="unit_id") for table in tables(out))
    return images.sort_values("uri", ignore_index=True), objects.sort_values(["uri", "object_id"], ignore_index=True)
