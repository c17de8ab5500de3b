"""The report's sections of charts and tables: what was found, what failed, where the time went."""

from __future__ import annotations

import numpy as np

from rayseg.pipeline.report import charts
from rayseg.pipeline.report.facts import Facts
from rayseg.pipeline.report.markup import (
    cells,
    count,
    duration,
    file_name,
    moment,
    plural,
    rate,
    section,
    share,
    table,
    text,
)
from rayseg.pipeline.report.pictures import label, swatch
from rayseg.pipeline.report.tally import Failure
from rayseg.tables import STAGES

_MOST_CLASSES = 20
_MOST_REASONS = 30
_MOST_RUNS = 8
_MOST_DAMAGED = 10

_STAGE_WORK = {
    "fetch": "read the file",
    "decode": "file to pixels",
    "prepare": "resize, normalise",
    "predict": "run the network",
    "encode": "masks to rows",
}


def found(facts: Facts) -> str:
    """Histograms of scores, sizes and, of images, objects per image; and the classes."""
    sums = facts.sums
    if not sums.objects:
        return section("found", "What was found", "<p>Nothing so far.</p>") if sums.ok else ""
    blocks = [_chart("Scores", charts.score_bars(sums.scores), "objects")] if sums.scores.any() else []
    if sums.areas.any():
        blocks.append(_chart("Sizes", charts.area_bars(sums.areas), "regions" if facts.semantic else "objects"))
    if len(sums.objects_per_image):
        per_image = charts.per_image_bars(sums.objects_per_image, axis=f"{facts.things} in one image")
        blocks.append(_chart(f"{facts.things.capitalize()} per image", per_image, "images"))
    return section("found", "What was found", f'<div class="charts">\n{"".join(blocks)}\n</div>' + _classes(facts))


def failures(facts: Facts) -> str:
    """Failed images by stage and reason, and damaged files; nothing when there are neither."""
    sums = facts.sums
    if not sums.failed and not sums.damaged:
        return ""
    body = damaged(sums.damaged) + reasons(facts)
    note = "A failed image is a row of the ledger and stops nothing. <code>rayseg retry</code> runs these again."
    return section("failures", "Failures", body, note=note)


def reasons(facts: Facts) -> str:
    """The table of failures by stage and reason; nothing when there are none."""
    groups = sorted(facts.sums.failures.values(), key=lambda f: (-f.count, f.stage, f.reason))
    if not groups:
        return ""
    rows = [_failure(group) for group in groups[:_MOST_REASONS]]
    body = table(["stage", f"{facts.unit}s", "reason", "examples"], rows, css="failures")
    if len(groups) > _MOST_REASONS:
        rest = sum(group.count for group in groups[_MOST_REASONS:])
        body += f'<p class="note">{plural(len(groups) - _MOST_REASONS, "more reason")} for {plural(rest, facts.unit)}.</p>'
    return body


def damaged(troubles: list[str]) -> str:
    """A list of files that cannot be read; nothing when there are none."""
    if not troubles:
        return ""
    items = "".join(f"<li>{text(trouble)}</li>" for trouble in troubles[:_MOST_DAMAGED])
    rest = len(troubles) - _MOST_DAMAGED
    more = f"<li>and {count(rest)} more</li>" if rest > 0 else ""
    return f'<h3>Damaged files</h3><ul class="damaged">{items}{more}</ul>'


def time(facts: Facts, *, more: str = "") -> str:
    """Working time of each stage, from the ledger, and the runs with their pace.

    Args:
        more: HTML between the two.
    """
    sums, total = facts.sums, sum(facts.sums.stage_seconds.values())
    if total <= 0:
        return section("time", "Time", more + _runs(facts))
    rows = []
    for i, stage in enumerate(STAGES):
        seconds, images = sums.stage_seconds[stage], sums.stage_images[stage]
        each = duration(seconds / images) if images else "–"
        name = f'<th><i class="stage-{i}"></i>{stage} <small>{_STAGE_WORK[stage]}</small></th>'
        rows.append(name + cells(share(seconds, total), each, duration(seconds)))
    parts = [(stage, sums.stage_seconds[stage], f"stage-{i}") for i, stage in enumerate(STAGES)]
    body = charts.stacked(parts, label="share of time per stage")
    body += table(["stage", "share", facts.each, "in all"], rows, css="stages") + more + _runs(facts)
    note = f"Working time added up over all {facts.unit}s. Stages run side by side, so it is not the time on the clock."
    return section("time", "Time", body, note=note)


def _chart(heading: str, bars: charts.Bars, unit: str) -> str:
    caption = f"<figcaption>{heading} <small>{unit}</small></figcaption>"
    return f'<figure class="chart">{caption}{charts.svg(bars, unit=unit)}</figure>\n'


def _classes(facts: Facts) -> str:
    """The most frequent classes, by objects; for semantic models by pixels. Nothing for models of one class."""
    if len(facts.labels) <= 1:
        return ""
    sums = facts.sums.classes
    weight = sums.pixels if facts.semantic else sums.objects
    order = [int(i) for i in np.argsort(-weight, kind="stable") if weight[i]]
    units = f"{facts.unit}s"
    heads = ["of all pixels", units] if facts.semantic else ["objects", "share", units, "mean score", "mean area"]
    rows = []
    for i in order[:_MOST_CLASSES]:
        meter = f'<td class="wide"><i class="meter" style="width:{100 * weight[i] / weight[order[0]]:.1f}%"></i></td>'
        part, images = share(weight[i], weight.sum()), count(sums.images[i])
        if facts.semantic:
            numbers = cells(part, images)
        else:
            score, area = sums.score_sum[i] / sums.objects[i], sums.pixels[i] / sums.objects[i]
            numbers = cells(count(sums.objects[i]), part, images, f"{score:.2f}", f"{count(area)} px")
        rows.append(f"<th>{swatch(facts, i)}{label(facts, i)}</th>{meter}{numbers}")
    notes, unseen = [], len(facts.labels) - len(order)
    if len(order) > _MOST_CLASSES:
        notes.append(f"{plural(len(order) - _MOST_CLASSES, 'class')} more with fewer")
    if unseen > 0:
        notes.append(f"{plural(unseen, 'class')} of the model never found")
    note = f'<p class="note">{"; ".join(notes)}.</p>' if notes else ""
    return f"<h3>Classes</h3>\n{table(['class', '', *heads], rows, css='classes')}{note}"


def _failure(group: Failure) -> str:
    names = "".join(f'<li title="{text(uri)}">{text(file_name(uri, page))}</li>' for uri, page in group.examples)
    rest = group.count - len(group.examples)
    more = f"<li>and {count(rest)} more</li>" if rest else ""
    reason = f'<td class="reason">{text(group.reason)}</td><td class="examples"><ul>{names}{more}</ul></td>'
    return f"<th>{text(group.stage)}</th>{cells(count(group.count))}{reason}"


def _runs(facts: Facts) -> str:
    if not facts.runs:
        return f'<p class="note">No run has ended in good order yet, so the {facts.unit}s a second are not known.</p>'
    rows = []
    for run in facts.runs[-_MOST_RUNS:]:
        done, wall_s = int(run["done"]), float(run["wall_s"])
        pace = rate(done / wall_s) if done and wall_s else "–"
        predictors = f"{run.get('predictors') or ''} × {run.get('backend') or '–'}".removeprefix(" × ")
        numbers = cells(duration(wall_s), count(done), count(int(run.get("failed") or 0)), pace)
        numbers += cells(_busy(run.get("predictor_seconds") or {}))
        words = f"<td>{text(_machine(run.get('cluster') or {}))}</td><td>{text(predictors)}</td>"
        rows.append(f"<th>{text(moment(run['started']))}</th>{numbers}{words}")
    heads = ["run", "took", f"{facts.unit}s", "failed", f"{facts.unit}s/s", "predictors busy", "machine", "predictors"]
    notes, rest = [], len(facts.runs) - _MOST_RUNS
    if rest > 0:
        notes.append(f"{plural(rest, 'earlier run')} not shown.")
    silent = facts.sums.ok + facts.sums.failed - sum(int(run["done"]) for run in facts.runs)
    if silent > 0:
        notes.append(f"{plural(silent, facts.unit)} more by runs that were killed, or still go on, and left no note.")
    note = f'<p class="note">{" ".join(notes)}</p>' if notes else ""
    return f"<h3>Runs</h3>\n{table(heads, rows, css='runs')}{note}"


def _busy(seconds: dict[str, float]) -> str:
    """The share of their time in which predictors had work: the series rayseg_predictor_seconds_total."""
    total = sum(seconds.values())
    return share(seconds.get("busy", 0.0), total) if total > 0 else "–"


def _machine(cluster: dict[str, float]) -> str:
    parts = [(int(cluster.get(key) or 0), word) for key, word in (("cpus", "CPU"), ("gpus", "GPU"), ("nodes", "node"))]
    return ", ".join(plural(n, word) for n, word in parts if n) or "–"
