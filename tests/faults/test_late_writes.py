"""A task of a driver that was killed may write once more from a node that has not heard of it. That changes nothing."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from rayseg.pipeline.plan import parquet_bytes, read_shard, write_plan
from rayseg.pipeline.sources import open_source
from rayseg.pipeline.storage import Store
from tests.pipeline.jobs import archive

pytestmark = pytest.mark.usefixtures("ray_local")


def test_a_late_listing_of_an_earlier_planning_does_not_get_into_the_plan(tmp_path):
    source = open_source(str(archive(tmp_path / "images", 30)))
    earlier, store = Store(str(tmp_path / "earlier")), Store(str(tmp_path / "out"))
    half: dict[str, bytes] = {}

    def remember(listed: int) -> None:
        for path in (tmp_path / "earlier/plan/.runs").glob("*.parquet"):
            half[path.name] = parquet_bytes(pq.read_table(path).slice(0, 3))

    def write_late(listed: int) -> None:
        for name, data in half.items():
            store.write(f"plan/.runs/{name}", data)

    options = {"chunk_images": 4, "chunk_bytes": 2**20, "parallelism": 2}
    wanted = write_plan(source, earlier, report=remember, **options)
    assert half
    plan = write_plan(source, store, report=write_late, **options)
    assert plan == wanted
    assert sum(read_shard(store, shard).num_rows for shard in plan.shards) == 30
    assert store.list("plan/.runs") == {}
