"""A job of scenes from a bucket to a bucket gives what it gives from folder to folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rayseg.pipeline.scenes.check import verify_scenes
from rayseg.pipeline.storage import Store
from tests.faults import drivers
from tests.pipeline.s3_server import SECRET, no_other_credentials, serve_s3

from . import places as made
from . import worlds

pytest.importorskip("s3fs")
pytestmark = [
    *(pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)),
    # What s3fs leaves open when the test ends.
    *(pytest.mark.filterwarnings(f"ignore::{name}") for name in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")),
]


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """rasters/: the worlds of `places`; results/: empty."""
    root = tmp_path_factory.mktemp("s3")
    made.write_all(root / "rasters" / "2024")
    (root / "results").mkdir()
    with no_other_credentials(), serve_s3(root) as server:
        yield server


def named(out: Path) -> list[pd.DataFrame]:
    """The tables with bare file names, and without ids that follow from the full ones."""
    tables = []
    for table in worlds.tables(out):
        table = table.assign(uri=table["uri"].str.rpartition("/")[2]).drop(columns=["unit_id", "scene_id"], errors="ignore")
        order = [name for name in ("uri", "object_id") if name in table]
        tables.append(table if "width" in table and "tiles" not in table else table.sort_values(order, ignore_index=True))
    return tables


def test_a_bucket_gives_what_a_folder_gives(s3, undisturbed):
    url, out = "s3://results/job", s3.root / "results" / "job"
    status, said = drivers.run(made.segment("s3://rasters/2024", url, *s3.flags))
    assert status == 0, said
    assert verify_scenes(Store(url, s3.options), Store(f"{url}/tiles", s3.options)).ok
    (scenes, tiles, objects), (wanted, wanted_tiles, wanted_objects) = named(out), named(undisturbed)
    pd.testing.assert_frame_equal(scenes, wanted)
    pd.testing.assert_frame_equal(objects, wanted_objects)
    assert sorted(tiles["uri"]) == sorted(wanted_tiles["uri"])
    for name, world in made.WORLDS.items():
        assert worlds.found(out).get(name, []) == worlds.truth(world, worlds.windows(out, name))
    assert SECRET not in (out / "job.json").read_text() + (out / "tiles" / "job.json").read_text()
