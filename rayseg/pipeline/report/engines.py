"""The section of a report that says which engines were tried, how fast they were, and why each was taken or not."""

from __future__ import annotations

from typing import Any

from rayseg.pipeline.report.facts import Facts
from rayseg.pipeline.report.markup import cells, section, table, text

_HEADS = ["engine", "an image", "at once", "verdict", "reason"]
_NOTE = (
    "Tried once, on images of this job: results must be those of the plain engine. An object is excused only at the threshold, "
    "where the plain engine itself is unsure, or where two near-equal ones suppress each other."
)


def engines(facts: Facts) -> str:
    """A table for each kind of machine; nothing for jobs that took their engine without a trial."""
    stored: dict[str, Any] = facts.job.get("engine") or {}
    blocks = [_machine(entry, facts.unit) for entry in stored.values()]
    return section("engines", "Engines", "".join(blocks), note=_NOTE) if blocks else ""


def _machine(entry: dict[str, Any], unit: str) -> str:
    choice = entry["choice"]
    rows = [_row(row, row["engine"] == choice["engine"] and row["precision"] == choice["precision"]) for row in choice["trials"]]
    images = choice["images"]
    said = f"{entry['machine']}: compared on {images} {unit}{'s' if images != 1 else ''}"
    if choice["engine"] is None:
        said += f"; none was chosen: {choice['reason']}"
    return f"<h3>{text(said)}</h3>\n{table(_HEADS, rows, css='engines')}"


def _row(row: dict[str, Any], chosen: bool) -> str:
    name = row["engine"] + ("" if row["precision"] == "fp32" else f" {row['precision']}")
    shown = f"<strong>{text(name)}</strong>" if chosen else text(name)
    speed = "–" if row["ms_per_image"] is None else f"{row['ms_per_image']:.3g} ms"
    batch = "–" if row["batch"] is None else str(row["batch"])
    words = f'<td>{text(row["verdict"])}{", taken" if chosen else ""}</td><td class="reason">{text(row["reason"])}</td>'
    return f"<th>{shown}</th>{cells(speed, batch)}{words}"
