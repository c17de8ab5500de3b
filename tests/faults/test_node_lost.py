"""A whole node that vanishes takes its tasks and predictors along; the job goes on with what is left."""

from __future__ import annotations

import threading
import time

import pytest
import ray
from ray.cluster_utils import Cluster

from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from tests.pipeline.jobs import assert_same_tables, run

from . import drivers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("ray_absent"),
    *(
        pytest.mark.filterwarnings(f"ignore::{name}")  # of Ray, about the pipes to the node it was told to kill
        for name in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
    ),
]


@pytest.fixture
def cluster():
    """A head without CPUs, where the driver is, and two nodes that do the work."""
    memory = 200 * 2**20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": memory},
    )
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=memory) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.parametrize("predictors", ["2", "auto"])
def test_a_job_that_loses_a_node_completes_with_the_undisturbed_tables(cluster, images, undisturbed, tmp_path, predictors):
    cluster, nodes = cluster
    out, lost = tmp_path / "out", []

    def lose_a_node() -> None:
        while drivers.commits(out) < drivers.CHUNKS // 4:
            time.sleep(0.01)
        lost.append(drivers.commits(out))
        cluster.remove_node(nodes[1], allow_graceful=False)

    killer = threading.Thread(target=lose_a_node, daemon=True)
    killer.start()
    result = run(images, out, model="fake:instance?delay_ms=100", predictors=predictors, chunk_images=drivers.CHUNK_IMAGES)
    killer.join(timeout=60)
    assert lost, "the job was over before the node was lost"
    assert lost[0] < drivers.CHUNKS
    assert result.complete, result.findings.problems
    assert verify(Store(str(out))).ok
    assert drivers.debris(out) == []
    assert_same_tables(out, undisturbed)
