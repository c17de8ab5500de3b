"""Some units of a plan, and running them through the real stages in one process, into a folder that is thrown away.

What the seconds say of a whole job is for `forecast.py`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayseg.pipeline.ledger import read_ledger
from rayseg.pipeline.parcel import pack
from rayseg.pipeline.plan import Plan, read_shard, unit_of
from rayseg.pipeline.stages import Context, PredictStage
from rayseg.pipeline.storage import Store
from rayseg.tables import IMAGES, STAGES, Unit


@dataclass(frozen=True)
class Drawn:
    """A unit and the shard of the plan it is in."""

    shard: str
    unit: Unit


@dataclass(frozen=True)
class Sampled:
    """What became of a sample.

    Attributes:
        rows: of the ledger, as a job would have written them.
        objects: that were found.
        start_s: loading the model, up to the first image.
        out_bytes: that were written.
        backend: engine that was chosen.
    """

    rows: pa.Table
    objects: int
    start_s: float
    out_bytes: int
    backend: str

    @property
    def seconds(self) -> np.ndarray:
        """float64 (images, stages), in the order of STAGES; without the images that failed."""
        good = self.rows.filter(pc.equal(self.rows["status"], "ok"))
        return np.stack([good[f"{stage}_s"].fill_null(0.0).to_numpy().astype(np.float64) for stage in STAGES], axis=1)


def draw(store: Store, plan: Plan, n: int, *, seed: int = 0) -> list[Drawn]:
    """At most `n` units spread over a plan, drawn by chance: from as many shards as can be, and from all over each of them.

    Args:
        store: that holds plan/.
    """
    random = np.random.default_rng(seed)
    shards = _spread(len(plan.shards), n, random)
    out: list[Drawn] = []
    for i, number in enumerate(shards):
        name, share = plan.shards[number], n // len(shards) + (i < n % len(shards))
        table = read_shard(store, name)
        rows = table.take(pa.array(_spread(table.num_rows, share, random), pa.int64()))
        picked = rows.select(["uri", "page", "bytes", "version", "window"]).to_pylist()
        out += [Drawn(name, unit_of(**row)) for row in picked]
    return out


def run_sample(drawn: Sequence[Drawn], context: Context, stages: Any, *, device: str, threads: int) -> Sampled:
    """Fetch, decode, predict, encode and commit some units, one batch after another; to be called where a predictor would run.

    Args:
        context: of the job; its output is not touched.
        stages: `execute.Stages` of the job.
        device, threads: of a predictor, as its `Budget` says.
    """
    with tempfile.TemporaryDirectory(prefix="rayseg-sample-") as folder:
        store = Store(folder)
        own = replace(context, store=store, settings=replace(context.settings, out=""))
        begun = time.perf_counter()
        predict = PredictStage(own, device=device, threads=threads)
        start_s = time.perf_counter() - begun
        names = []
        for name, units in _chunks(drawn[:1], 1):  # the first image waits until the decoder's process has started
            stages.fetch(pack(name, units), own)
        for name, units in _chunks(drawn, context.settings.batch_size):
            stages.encode(predict(stages.fetch(pack(name, units), own)), own)
            names.append(name)
        rows = [read_ledger(store, name) for name in names]
        found = sum(int(table["n_objects"].to_numpy().sum()) for table in rows)
        written = sum(os.path.getsize(os.path.join(at, file)) for at, _, files in os.walk(folder) for file in files)
        return Sampled(pa.concat_tables([IMAGES.empty_table(), *rows]), found, start_s, written, predict.backend_name)


def _spread(size: int, n: int, random: np.random.Generator) -> list[int]:
    """`n` numbers below `size`, or all where there are no more: one from each of `n` parts, in order."""
    n = min(n, size)
    edges = np.arange(n + 1) * size // max(1, n)
    return [int(random.integers(low, high)) for low, high in pairwise(edges)]


def _chunks(drawn: Sequence[Drawn], most: int) -> Iterator[tuple[str, tuple[Unit, ...]]]:
    """Units that go together, and what their chunk is called; tiles are looked up by the shard in its name."""
    for shard, group in groupby(drawn, key=lambda one: one.shard):
        units = [one.unit for one in group]
        for number, start in enumerate(range(0, len(units), most)):
            yield f"{shard}-{number:05d}-sample", tuple(units[start : start + most])
