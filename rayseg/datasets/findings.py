"""What a check found wrong: one value per finding, and a count of them that stays small whatever the data set's size.

What counts as wrong is decided in check_coco.py and check_semantic.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        level: "error" where training would fail or learn something false, "warning" where it is odd but usable.
        kind: short name, the same for all findings of one sort, such as "size-mismatch".
        file: the image, mask or annotation file.
        where: which part of it: an annotation id, a line; "" for the whole.
        problem: what is wrong, with the value.
        remedy: what to do.
    """

    level: str
    kind: str
    file: str
    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.where}" if self.where else self.file
        return f"{place}: {self.problem}; {self.remedy}"


def error(kind: str, file: str, where: str, problem: str, remedy: str) -> Finding:
    """A finding that fails the check."""
    return Finding(ERROR, kind, file, where, problem, remedy)


def warning(kind: str, file: str, where: str, problem: str, remedy: str) -> Finding:
    """A finding that does not."""
    return Finding(WARNING, kind, file, where, problem, remedy)


@dataclass
class Findings:
    """Counts of all findings, and the first of each kind by file name, in whatever order they come.

    Attributes:
        keep: how many of each kind are kept.
        counts: (level, kind) -> how many there were.
        kept: by kind, those kept and up to as many more; `rows` gives those kept.
    """

    keep: int
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    kept: dict[str, list[Finding]] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Iterable[Finding], *, keep: int) -> Findings:
        """Count some findings."""
        out = cls(keep)
        out.extend(found)
        return out

    def extend(self, found: Iterable[Finding]) -> None:
        """Count more findings."""
        for one in found:
            key = (one.level, one.kind)
            self.counts[key] = self.counts.get(key, 0) + 1
            self._keep([one])

    def add(self, other: Findings) -> None:
        """Take over another count."""
        for key, count in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count
        for found in other.kept.values():
            self._keep(found)

    @property
    def errors(self) -> int:
        """How many errors there were, kept or not."""
        return self._total(ERROR)

    @property
    def warnings(self) -> int:
        """How many warnings there were, kept or not."""
        return self._total(WARNING)

    def summary(self, level: str, *, examples: int = 3) -> list[dict[str, Any]]:
        """One row for each kind of a level, the most frequent first: kind, count and the first few as text."""
        kinds = sorted(((count, kind) for (found, kind), count in self.counts.items() if found == level), reverse=True)
        return [
            {
                "kind": kind,
                "count": count,
                "examples": [str(one) for one in self._of_kind(kind)[:examples]],
            }
            for count, kind in kinds
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Those kept, errors first, as plain dicts."""
        found = [one for kind in self.kept for one in self._of_kind(kind)]
        return [asdict(one) for one in sorted(found, key=lambda one: (one.level != ERROR, one.kind, one.file, one.where))]

    def _total(self, level: str) -> int:
        return sum(count for (found, _), count in self.counts.items() if found == level)

    def _of_kind(self, kind: str) -> list[Finding]:
        return sorted(self.kept.get(kind, []), key=lambda one: (one.file, one.where))[: self.keep]

    def _keep(self, found: Sequence[Finding]) -> None:
        for one in found:
            kept = self.kept.setdefault(one.kind, [])
            kept.append(one)
            if len(kept) > 2 * self.keep:
                self.kept[one.kind] = self._of_kind(one.kind)
