"""`rayseg segment --plan-only`: what a job will read, take and write, from its plan and a sample run through the real stages.

The time is a range. Its ends are what the sample says (5 % and 95 % of what other samples of these images would say) when all
stages run side by side without ever waiting, and when they take turns. Reading, decoding and encoding share all cores; each
predictor on a CPU has its threads of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import pyarrow.compute as pc
import ray

from rayseg.pipeline.board import new_board
from rayseg.pipeline.budget import Budget
from rayseg.pipeline.execute import IMAGE_STAGES, Stages, left_over, task
from rayseg.pipeline.machine import Machine
from rayseg.pipeline.plan import Plan, read_shard
from rayseg.pipeline.planner import CORES, STORAGE, on_cpu, remedy, side_by_side
from rayseg.pipeline.preflight import SAMPLE, Peek, free_bytes
from rayseg.pipeline.sample import Sampled, draw, measure
from rayseg.pipeline.stages import Context
from rayseg.pipeline.storage import Store
from rayseg.tables import FAILED, STAGES

_RESAMPLES = 400
_MOST_SHOWN = 6


@dataclass(frozen=True)
class Sizes:
    """Sums over a plan.

    Attributes:
        bytes: of the files whose size is known, of tiles their pixels; unknown: how many others there are.
        suffixes: units by the end of their file's name.
    """

    bytes: int = 0
    unknown: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(self.bytes + other.bytes, self.unknown + other.unknown, self.suffixes + other.suffixes)


@dataclass(frozen=True)
class Time:
    """How long a job will take, in seconds, `start_s` of loading the model included in both ends of the range.

    Attributes:
        bottleneck: what takes most when all run side by side: fetch, predict, or "cores" for decode, prepare and encode.
    """

    low_s: float
    high_s: float
    start_s: float
    bottleneck: str


@dataclass(frozen=True)
class Forecast:
    """What is known of a job before it runs.

    Attributes:
        noun: what its units are.
        planned, left: units, and those of them that are not in the ledger.
        sizes: of the files.
        sample: of units that were run; None when it could not be, and `trouble` says why.
        time: None without a sample of good images.
        out_bytes: of the tables for what is left; free: room there, None where the storage does not tell.
        notes: of the kind of job.
    """

    noun: str
    planned: int
    left: int
    sizes: Sizes
    budget: Budget
    sample: Sampled | None
    trouble: str | None
    time: Time | None
    out_bytes: int | None
    free: int | None
    notes: tuple[tuple[str, str], ...] = ()

    def lines(self) -> list[str]:
        """For people, one fact a line."""
        rows = [("plan", self._plan()), *self.notes]
        if self.noun == "images":
            rows.append(("names", ", ".join(f"{end} {n}" for end, n in self.sizes.suffixes.most_common(_MOST_SHOWN))))
        rows += [("sample", self._sample())]
        if self.sample is not None and self.time is not None:
            means = self.sample.seconds.mean(axis=0)
            said = ", ".join(f"{name} {_short(value)}" for name, value in zip(STAGES, means, strict=True))
            rows += [
                ("on average", f"{said} ({self.sample.backend})"),
                ("bottleneck", self._bottleneck()),
                ("time", self._time()),
            ]
        rows.append(("output", self._output()))
        return [f"{name:<12}{said}" for name, said in rows]

    def _plan(self) -> str:
        done = f"; {self.planned - self.left} done, {self.left} left" if self.left < self.planned else ""
        unknown = f", {self.sizes.unknown} of unknown size" if self.sizes.unknown else ""
        of = " of files" if self.noun == "images" else " of pixels"
        return f"{self.planned} {self.noun}, {size(self.sizes.bytes)}{of}{unknown}{done}"

    def _sample(self) -> str:
        if self.sample is None:
            return f"not run: {self.trouble}"
        rows = self.sample.rows
        bad = rows.filter(pc.equal(rows["status"], FAILED)).to_pylist()
        said = f"{rows.num_rows} {self.noun}, {self.sample.objects} objects, {len(bad)} failed"
        return said + "".join(f"\n{'':<12}{row['uri']}: {row['stage']}: {row['reason']}" for row in bad[:_MOST_SHOWN])

    def _bottleneck(self) -> str:
        assert self.time is not None
        if self.time.bottleneck == CORES:
            return f"the cores: decode, prepare and encode; {remedy(CORES, self.budget)} make it faster"
        if self.time.bottleneck == STORAGE:
            return f"fetch: the storage; {remedy(STORAGE, self.budget)} make it faster"
        pool, threads = self.budget.max_predictors, self.budget.threads
        return f"predict: {pool} predictors on {self.budget.device}" + (
            f", {threads} threads each" if not self.budget.predictor_gpus else ""
        )

    def _time(self) -> str:
        assert self.time is not None
        return f"{clock(self.time.low_s)} to {clock(self.time.high_s)}, of which {clock(self.time.start_s)} to load the model"

    def _output(self) -> str:
        about = "unknown" if self.out_bytes is None else f"about {size(self.out_bytes)}"
        if self.free is None:
            return about
        short = self.out_bytes is not None and self.out_bytes > self.free
        return f"{about}, {size(self.free)} free" + ("; IT WILL NOT FIT" if short else "")


def forecast(
    context: Context,
    plan: Plan,
    machine: Machine,
    *,
    stages: Stages = IMAGE_STAGES,
    noun: str = "images",
    notes: Sequence[tuple[str, str]] = (),
    n: int = SAMPLE,
    seed: int = 0,
) -> Forecast:
    """Run a sample where a predictor would run, and say what it means for what is left of the plan.

    Args:
        context: of the job; nothing is written to its output.
        stages: of the job.
        n: units in the sample.
    """
    store, budget = context.store, machine.budget
    add_up = task(budget, _sizes)
    sizes = sum(ray.get([add_up.remote(store, shard) for shard in plan.shards]), Sizes())
    left = left_over(store, plan, budget)
    share = machine.shares(context.settings, left.units)
    sample, trouble = measure(draw(store, plan, n, seed=seed), context, stages, budget, new_board(), share=share)
    budget = machine.fit(context.settings, sample, units=left.units, chunks=left.chunks).budget
    seconds = np.zeros((0, len(STAGES))) if sample is None else sample.seconds
    time = None
    if sample is not None and len(seconds) and left.units:
        cpus = machine.resources.get("CPU", 1)
        time = predicted(seconds, left.units, budget, cpus=cpus, chunks=left.chunks, start_s=sample.start_s)
    ran = 0 if sample is None else sample.rows.num_rows
    out_bytes = None if sample is None or not ran else round(sample.out_bytes / ran * left.units)
    return Forecast(
        noun, plan.units, left.units, sizes, budget, sample, trouble, time, out_bytes, free_bytes(store), tuple(notes)
    )


def predicted(
    seconds: np.ndarray, units: int, budget: Budget, *, cpus: float, chunks: int, start_s: float = 0.0, seed: int = 0
) -> Time:
    """The time of a job from the seconds that some of its units took.

    Args:
        seconds: float64 (sampled units, stages), in the order of STAGES; at least one.
        chunks: that the units are in: no more predictors than that have work.
    """
    pool = min(budget.max_predictors, chunks)
    random = np.random.default_rng(seed)
    again = random.integers(0, len(seconds), (_RESAMPLES, len(seconds)))
    fetch, decode, prepare, predict, encode = np.moveaxis(seconds[again].mean(axis=1), 1, 0)
    costs, beside = side_by_side(
        fetch, decode + prepare + encode, predict, pool=pool, threads=budget.threads, cpus=cpus, on_cpu=on_cpu(budget)
    )
    in_turn = np.maximum(sum(costs.values()), beside)
    low, high = np.quantile(beside, 0.05), np.quantile(in_turn, 0.95)
    most = max(costs, key=lambda name: float(costs[name].mean()))
    return Time(float(low * units) + start_s, float(high * units) + start_s, start_s, most)


def said_of(found: Peek) -> str:
    """The formats and sizes of some files, in words."""
    total = sum(found.formats.values()) + len(found.failures)
    formats = ", ".join(f"{name} {n}" for name, n in found.formats.most_common())
    sizes = f"; {min(found.megapixels):.2g} to {max(found.megapixels):.2g} megapixels" if found.megapixels else ""
    bad = f"; {len(found.failures)} cannot be read" if found.failures else ""
    return f"{formats or 'none'} of {total} looked at{sizes}{bad}"


def size(count: float) -> str:
    """Bytes, in words."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def clock(seconds: float) -> str:
    """A duration, in words."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _sizes(store: Store, shard: str) -> Sizes:
    table = read_shard(store, shard)
    suffixes = Counter(PurePosixPath(uri).suffix.lower() or "(none)" for uri in table["uri"].to_pylist())
    return Sizes(pc.sum(table["bytes"]).as_py() or 0, table["bytes"].null_count, suffixes)
