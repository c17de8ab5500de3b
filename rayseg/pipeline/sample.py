"""Some units of a plan, and running them through the real stages in one process, into a folder that is thrown away.

What the seconds say of a whole job is for `planner.py` and `forecast.py`.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.exceptions

from rayseg.errors import RaysegError
from rayseg.pipeline.budget import Budget
from rayseg.pipeline.ledger import read_ledger
from rayseg.pipeline.parcel import pack
from rayseg.pipeline.plan import Plan, read_shard, unit_of
from rayseg.pipeline.stages import Context, PredictStage, only
from rayseg.pipeline.storage import Store
from rayseg.predict.memory import resident_bytes
from rayseg.predict.prepare import Prepared
from rayseg.tables import IMAGES, STAGES, Unit

log = logging.getLogger(__name__)

_TOGETHER = 8  # units in a batch of the sample


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
        resident: bytes of the process with the model loaded and used; 0 where the system does not tell.
        shared_rates: images a second of this device, by how many predictors shared it; empty where that was not tried.
    """

    rows: pa.Table
    objects: int
    start_s: float
    out_bytes: int
    backend: str
    resident: int = 0
    shared_rates: Mapping[int, float] = field(default_factory=dict)

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


def measure(
    drawn: Sequence[Drawn],
    context: Context,
    stages: Any,
    budget: Budget,
    board: Any,
    *,
    limit_s: float | None = None,
    share: bool = False,
) -> tuple[Sampled | None, str | None]:
    """The sample, or why there is none. Its process has what a predictor has.

    Args:
        context, stages: of the job.
        board: for the sample alone; it ends with it.
        limit_s, share: as in `run_sample`.
    """
    own = replace(context, board=board)
    run: Callable[..., Any] = ray.remote(
        num_cpus=budget.predictor_cpus,
        num_gpus=budget.predictor_gpus or None,
        resources=budget.predictor_resources or None,
        max_retries=0,
    )(run_sample).remote
    try:
        return ray.get(run(drawn, own, stages, device=budget.device, threads=budget.threads, limit_s=limit_s, share=share)), None
    except ray.exceptions.WorkerCrashedError:
        return None, "an image of it killed its process. The job itself would go on, and fail that image alone"
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RaysegError):
            raise
        return None, f"{type(error.cause).__name__}: {error.cause}"
    finally:
        ray.kill(board)


def run_sample(
    drawn: Sequence[Drawn],
    context: Context,
    stages: Any,
    *,
    device: str,
    threads: int,
    limit_s: float | None = None,
    share: bool = False,
) -> Sampled:
    """Fetch, decode, predict, encode and commit some units, one batch after another; to be called where a predictor would run.

    Args:
        context: of the job; its output is not touched.
        stages: `execute.Stages` of the job.
        device, threads: of a predictor, as its `Budget` says.
        limit_s: the batch that is at work then is the last one.
        share: also find how many predictors this device serves best.
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
        begun = time.perf_counter()
        together = context.settings.batch_size or (_TOGETHER if limit_s is None else _TOGETHER // 2)
        for name, units in _chunks(drawn, together):
            fetched = stages.fetch(pack(name, units), own)
            stages.encode(predict(fetched), own)
            names.append(name)
            if limit_s is not None and time.perf_counter() - begun > limit_s:
                break
        resident = resident_bytes()
        rates = (
            shared_rates(predict, lambda: PredictStage(own, device=device, threads=threads), fetched) if share and names else {}
        )
        rows = [read_ledger(store, name) for name in names]
        found = sum(int(table["n_objects"].to_numpy().sum()) for table in rows)
        written = sum(os.path.getsize(os.path.join(at, file)) for at, _, files in os.walk(folder) for file in files)
        all_rows = pa.concat_tables([IMAGES.empty_table(), *rows])
        return Sampled(all_rows, found, start_s, written, predict.backend_name, resident, rates)


def prepared(drawn: Sequence[Drawn], context: Context, stages: Any) -> list[Prepared]:
    """The units that can be read, fetched and prepared by the real stages.

    Args:
        context: of the job, with a board and a store that the stages may talk to.
        stages: `execute.Stages` of the job.
    """
    out: list[Prepared] = []
    for name, units in _chunks(drawn, len(drawn)):
        _, work = only(stages.fetch(pack(name, units), context))
        out += [item.content for item in work if isinstance(item.content, Prepared)]
    return out


def shared_rates(
    first: Callable[[Any], Any], another: Callable[[], Callable[[Any], Any]], chunk: Any, *, most: int = 4, rounds: int = 3
) -> dict[int, float]:
    """Chunks a second that 1, 2, 4 predictors on one device do at the same time; ends where more of them do not do a tenth more,
    or where one more does not fit.

    They run as threads of this process, which is not quite what processes of their own would do.

    Args:
        first: a predictor that is loaded.
        another: loads one more.
        chunk: what each is given, some times over.
    """
    predictors, rates = [first], {}
    sharing = 1
    while sharing <= most:
        try:
            predictors += [another() for _ in range(sharing - len(predictors))]
            with ThreadPoolExecutor(sharing) as pool:
                list(pool.map(lambda predictor: predictor(chunk), predictors))
                begun = time.perf_counter()
                list(pool.map(lambda predictor: [predictor(chunk) for _ in range(rounds)], predictors))
                rates[sharing] = sharing * rounds / (time.perf_counter() - begun)
        except Exception as error:  # noqa: BLE001 - engines raise anything; here it means that so many do not fit
            log.info("%d predictors do not share this device: %s", sharing, error)
            break
        if sharing > 1 and rates[sharing] < 1.1 * rates[sharing // 2]:
            break
        sharing *= 2
    return rates


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
