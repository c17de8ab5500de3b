"""How a search ended: which trial is the best, what it cost, and the tables for programs and people.

tune_result.json    everything
trials.csv          one row a trial
to_text()           one aligned table a stage
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayseg.tuning.records import TRIALS, Record, write_json, write_text

RESULT, TABLE = "tune_result.json", "trials.csv"


@dataclass(frozen=True)
class TuneResult:
    """How a search ended."""

    folder: Path
    model: str
    metric: str
    mode: str
    keys: list[str]
    """All settings that were searched."""
    stages: list[list[Record]]
    shown: dict[str, dict[str, Any]]
    """By trial: its value of each key, searched in its own stage or not."""
    best: Record
    best_model: Path
    seconds: float
    """Of this run of the search; trials that had ended before cost nothing here."""
    at_once: int
    """Trials that ran at the same time, at most."""

    @property
    def trials(self) -> list[Record]:
        """Of all stages, in order."""
        return [record for records in self.stages for record in records]

    @property
    def cost(self) -> dict[str, float]:
        """Seconds of training over all runs of the search, of workers and of GPUs, without the start of processes."""
        ran = [record for record in self.trials if record.same_as is None]
        return {
            "trial_seconds": round(sum(r.seconds for r in ran), 1),
            "worker_seconds": round(sum(r.seconds * r.workers for r in ran), 1),
            "gpu_seconds": round(sum(r.seconds * r.workers * r.gpus for r in ran), 1),
        }

    def to_json(self) -> dict[str, Any]:
        """The content of tune_result.json; paths are relative to the search's folder."""
        best = self.best
        return {
            "done_flag": True,
            "model_name": self.model,
            "metric": self.metric,
            "mode": self.mode,
            "best": {
                "trial": best.id,
                "score": best.best_score,
                "parameters": best.parameters,
                "folder": folder_name(best),
                "best_model": str(self.best_model.relative_to(self.folder)),
                "config": "config.yaml",
            },
            "seconds": self.seconds,
            "max_concurrent_trials": self.at_once,
            "cost": self.cost,
            "counts": {status: sum(r.status == status for r in self.trials) for status in ("done", "stopped", "failed")},
            "trials": [{**asdict(record), "folder": folder_name(record)} for record in self.trials],
        }

    def to_text(self) -> str:
        """One table a stage, columns aligned, the best of each marked."""
        parts = []
        for number, records in enumerate(self.stages, start=1):
            best = best_record(records, self.mode)
            rows = [self._row(record, marked=best is not None and record.id == best.id) for record in records]
            heads = ["trial", *self.keys, "status", self.metric, "epochs", "steps", "minutes", ""]
            keys = ", ".join(dict.fromkeys(key for key in self.keys if len({repr(self.shown[r.id][key]) for r in records}) > 1))
            parts.append(f"Stage {number}" + (f": {keys}" if keys else "") + "\n" + aligned(heads, rows))
        if any(record.status == "failed" for record in self.trials):
            where = self.folder / TRIALS
            parts.append(f"A failed trial is tried again by the same command once its folder below {where} is removed.")
        return "\n\n".join(parts)

    def _row(self, record: Record, *, marked: bool) -> list[str]:
        note = "best" if marked else ""
        if record.same_as:
            note = f"{note} (is {record.same_as})".strip()
        if record.status == "failed":
            note = record.reason or ""
        numbers = [str(record.epochs), str(record.steps), f"{record.seconds / 60:.1f}"]
        return [
            record.id,
            *(shown_value(self.shown[record.id][key]) for key in self.keys),
            record.status,
            shown_score(record.best_score),
            *numbers,
            note,
        ]


def best_record(records: Sequence[Record], mode: str) -> Record | None:
    """The trial with the best score, the first of equal ones; failed trials and those without a score do not count."""
    found = [record for record in records if record.best_score is not None and record.status in ("done", "stopped")]
    if not found:
        return None
    sign = 1 if mode == "max" else -1
    return max(found, key=lambda record: sign * float(record.best_score or 0.0))


def write_tables(result: TuneResult) -> None:
    """tune_result.json and trials.csv."""
    write_json(result.folder / RESULT, result.to_json())
    text = io.StringIO()
    columns = ["trial", "stage", *result.keys, "status", "reason", "best_score", "best_epoch", "best_step", "epochs", "steps"]
    columns += ["seconds", "first_rate", "highest_rate", "workers", "gpus", "same_as", "folder"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in result.trials:
        writer.writerow({**asdict(record), "trial": record.id, **result.shown[record.id], "folder": folder_name(record)})
    write_text(result.folder / TABLE, text.getvalue())


def folder_name(record: Record) -> str:
    """Of the trial, relative to the search's folder."""
    return f"{TRIALS}/{record.same_as or record.id}"


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns as wide as their widest cell."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([texts[0], "  ".join("-" * width for width in widths if width), *texts[1:]])


def shown_value(value: Any) -> str:
    """A setting's value for reading."""
    return f"{value:.5g}" if isinstance(value, float) else "–" if value is None else str(value)


def shown_score(score: float | None) -> str:
    """Four digits."""
    return "–" if score is None else f"{score:.4f}"
