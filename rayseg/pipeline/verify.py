"""`rayseg verify`: the join of plan, ledger and objects, from the files alone.

Every planned unit exactly once in the ledger; nothing in the ledger that was not planned; every objects file with its
ledger file and the other way round; in each pair the objects the ledger counts, and no others. Needs neither Ray nor
the model.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayseg.pipeline import identity, ledger
from rayseg.pipeline.plan import Plan, read_shard, shard_of
from rayseg.pipeline.storage import Store
from rayseg.tables import FAILED, INCOMPLETE

_SHOWN = 20
_READERS = 8


@dataclass(frozen=True)
class Findings:
    """What a check saw. `problems` holds the first of each kind and `n_problems` counts all of them.

    Attributes:
        planned, ok, failed, objects: rows of the three tables; ok and failed count ledger rows.
        incomplete: of those that are ok, scenes that lack some of their tiles.
        missing: planned units without a ledger row.
    """

    planned: int = 0
    done_ok: int = 0
    failed: int = 0
    objects: int = 0
    missing: int = 0
    incomplete: int = 0
    n_problems: int = 0
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True when every planned unit is there exactly once and nothing else is wrong. Failed images are no problem here."""
        return self.missing == 0 and self.n_problems == 0


def verify(store: Store) -> Findings:
    """Check a whole output in this process.

    Raises:
        OutputError: the folder holds no job.
    """
    job = identity.require(store)
    plan = identity.plan(job)
    committed = ledger.names(store)
    strays = _strays(plan.shards, committed)
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda shard: check_shard(store, shard, committed), plan.shards))
    return against_plan(merge_findings([*found, strays, _half_updated(job)]), plan)


def against_plan(found: Findings, plan: Plan) -> Findings:
    """The findings, and whether the plan's files still hold as many units as were planned."""
    if found.planned == plan.units:
        return found
    text = f"plan/ holds {found.planned} units, {plan.units} were planned. Restore its files; or start anew in another folder"
    return replace(found, n_problems=found.n_problems + 1, problems=(text, *found.problems)[:_SHOWN])


def merge_findings(parts: Iterable[Findings]) -> Findings:
    """Sum of the parts; keeps the first problems."""
    parts = list(parts)
    names = ("planned", "done_ok", "failed", "objects", "missing", "incomplete", "n_problems")
    problems = tuple(p for part in parts for p in part.problems)[:_SHOWN]
    return Findings(**{name: sum(getattr(part, name) for part in parts) for name in names}, problems=problems)


def check_shard(store: Store, shard: str, committed: dict[str, tuple[list[str], list[str]]]) -> Findings:
    """Check one shard of the plan against the files whose names say they belong to it."""
    check = _Check()
    images, objects = (set(names) for names in committed.get(shard, ([], [])))
    plan = _read_plan(store, shard, check)
    for name in sorted(objects - images):
        check.problem(f"objects/{name}.parquet has no ledger file: orphan. `rayseg segment` again sweeps it")
    for name in sorted(images - objects):
        check.problem(f"images/{name}.parquet has no objects file. Run `rayseg segment` again to redo its images")
    seen = {name: check.pair(store, name) for name in sorted(images & objects)}
    ids = np.concatenate([np.empty(0, dtype=np.int64), *seen.values()])
    unique, counts = np.unique(ids, return_counts=True)
    uris = dict(zip(plan["unit_id"].to_pylist(), plan["uri"].to_pylist(), strict=True)) if plan is not None else {}
    for unit, n in zip(unique[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        files = [f"images/{name}.parquet" for name, rows in seen.items() if unit in rows]
        check.problem(
            f"unit {unit} ({uris.get(unit, 'not planned')}) is in the ledger {n} times, in {' and '.join(files)}. "
            f"Delete {files[-1]} and run `rayseg segment` again"
        )
    planned = np.asarray(list(uris), dtype=np.int64)
    for unit in np.setdiff1d(unique, planned).tolist():
        check.problem(f"unit {unit} is in the ledger but not in plan/{shard}.parquet")
    missing = np.setdiff1d(planned, unique)
    for unit in missing.tolist()[:_SHOWN]:
        check.say(f"unit {unit} ({uris[unit]}) is planned but not in the ledger. Run `rayseg segment` again to do it")
    return check.findings(planned=len(planned), missing=len(missing))


@dataclass
class _Check:
    """Collects what a walk over files sees."""

    done_ok: int = 0
    failed: int = 0
    objects: int = 0
    incomplete: int = 0
    n_problems: int = 0
    said: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        self.n_problems += 1
        self.say(text)

    def say(self, text: str) -> None:
        if len(self.said) < _SHOWN:
            self.said.append(text)

    def pair(self, store: Store, name: str) -> np.ndarray:
        """Check one ledger file with its objects file; returns the ledger's ids."""
        rows = self._read(store, f"images/{name}.parquet", ["unit_id", "status", "n_objects"])
        found = self._read(store, f"objects/{name}.parquet", ["unit_id", "object_id"])
        if rows is None:
            return np.empty(0, dtype=np.int64)
        ids, status = rows["unit_id"].to_numpy(), np.asarray(rows["status"].to_pylist(), dtype=object)
        self.done_ok += int((status != FAILED).sum())
        self.failed += int((status == FAILED).sum())
        self.incomplete += int((status == INCOMPLETE).sum())
        if found is not None:
            self.objects += found.num_rows
            self._compare(name, ids, rows["n_objects"].to_numpy(), found)
        return ids

    def _compare(self, name: str, ids: np.ndarray, promised: np.ndarray, found: pa.Table) -> None:
        wanted = dict(zip(ids.tolist(), promised.tolist(), strict=True))
        units, counts = np.unique(found["unit_id"].to_numpy(), return_counts=True)
        have = dict(zip(units.tolist(), counts.tolist(), strict=True))
        for unit in sorted({*wanted, *have}):
            if wanted.get(unit, 0) != have.get(unit, 0):
                self.problem(
                    f"objects/{name}.parquet has {have.get(unit, 0)} objects of unit {unit}, "
                    f"the ledger says {wanted.get(unit, 0)}. "
                    f"Delete images/{name}.parquet and run `rayseg segment` again"
                )
        keys = found.select(["unit_id", "object_id"])
        if keys.group_by(["unit_id", "object_id"]).aggregate([]).num_rows != keys.num_rows:
            self.problem(f"objects/{name}.parquet holds an object twice. Delete images/{name}.parquet and run again")

    def _read(self, store: Store, name: str, columns: list[str]) -> pa.Table | None:
        try:
            return pq.read_table(io.BytesIO(store.read(name)), columns=columns)
        except (pa.ArrowException, FileNotFoundError) as error:
            stem = name.split("/", 1)[1]
            self.problem(f"{name} cannot be read ({error}). Delete images/{stem} and run `rayseg segment` again")
            return None

    def findings(self, *, planned: int, missing: int) -> Findings:
        counts = (planned, self.done_ok, self.failed, self.objects, missing, self.incomplete, self.n_problems)
        return Findings(*counts, tuple(self.said))


def _read_plan(store: Store, shard: str, check: _Check) -> pa.Table | None:
    try:
        return read_shard(store, shard)
    except (pa.ArrowException, FileNotFoundError, ValueError) as error:
        check.problem(f"plan/{shard}.parquet cannot be read ({error}). Without its plan this job cannot go on; restore the file")
        return None


def _half_updated(job: dict[str, Any]) -> Findings:
    """Whether old results of files that have changed may still be there."""
    check = _Check()
    if identity.updating(job):
        check.problem("an update of the source was stopped before its end. Run `rayseg segment` again to finish it")
    return check.findings(planned=0, missing=0)


def _strays(shards: Sequence[str], committed: dict[str, tuple[list[str], list[str]]]) -> Findings:
    """Files in images/ and objects/ that belong to no shard of the plan."""
    check = _Check()
    for shard in sorted(set(committed) - set(shards)):
        images, objects = committed[shard]
        for name in [*(f"images/{n}" for n in images), *(f"objects/{n}" for n in objects)]:
            check.problem(
                f"{name}.parquet was not written by this job: no shard {shard_of(name.split('/')[1])!r} in its plan. Remove it"
            )
    return check.findings(planned=0, missing=0)
