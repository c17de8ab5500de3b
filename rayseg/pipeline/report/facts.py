"""All that a report's page says, in one value; the sections read it and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayseg.pipeline.report.gallery import Picture
from rayseg.pipeline.report.markup import without_credentials
from rayseg.pipeline.report.tally import Tally


@dataclass(frozen=True)
class Facts:
    """What is known about a job.

    Attributes:
        job: job.json.
        runs: notes of finished runs, oldest first.
        groups: pictures by group, as `Picks.chosen` names them.
        seed: of the random sample.
        out: the output, as a reader elsewhere would name it.
        written: ISO time of the report.
        unit: what one row of the ledger is.
    """

    job: dict[str, Any]
    runs: list[dict[str, Any]]
    sums: Tally
    groups: dict[str, list[Picture]]
    seed: int
    out: str
    written: str
    unit: str = "image"

    @property
    def each(self) -> str:
        """One of them."""
        return f"{'an' if self.unit[0] in 'aeiou' else 'a'} {self.unit}"

    @property
    def semantic(self) -> bool:
        return bool(self.job["model"].get("task") == "semantic")

    @property
    def thing(self) -> str:
        """What one row of the objects table is."""
        return "class" if self.semantic else "object"

    @property
    def things(self) -> str:
        return "classes" if self.semantic else "objects"

    @property
    def labels(self) -> list[str]:
        return list(self.job["model"]["labels"])

    @property
    def planned(self) -> int:
        return int(self.job["plan"]["units"])

    @property
    def left(self) -> int:
        """Planned units without a ledger row; below zero only when the output is damaged."""
        return self.planned - self.sums.ok - self.sums.failed

    @property
    def source(self) -> str:
        return without_credentials(str((self.job.get("settings") or {}).get("source", "unknown source")))
