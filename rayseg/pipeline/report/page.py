"""The report's page: its frame, what stands at the top, and the sections in reading order.

`pictures.py` and `numbers.py` write the larger sections; the style is in style.css, which the page carries along.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rayseg.pipeline.report import charts, query
from rayseg.pipeline.report.engines import engines
from rayseg.pipeline.report.facts import Facts
from rayseg.pipeline.report.markup import count, document, duration, lines, moment, plural, rate, section, share, text
from rayseg.pipeline.report.numbers import failures, found, time
from rayseg.pipeline.report.pictures import pictures

_MOST_LABELS = 40
# Said elsewhere on the page, or able to hold credentials.
_UNLISTED = ("source", "out", "model", "source_options", "out_options")


def render(facts: Facts) -> str:
    """The whole page."""
    parts = [_header(facts), _figures(facts), pictures(facts), found(facts), failures(facts), time(facts), engines(facts)]
    parts += [_queries(facts), details(facts), footer(facts)]
    return document(f"{title(facts)} · rayseg report", parts)


def title(facts: Facts) -> str:
    """The last two parts of the source: folders of images are often called "images"."""
    path = facts.source.rpartition("://")[2]
    return "/".join(path.strip("/").split("/")[-2:])


def _header(facts: Facts) -> str:
    model, sums = facts.job["model"], facts.sums
    said = [text(model.get("name", "unnamed model")), "class regions" if facts.semantic else "instances"]
    if not facts.semantic and model.get("threshold") is not None:
        said.append(f"score ≥ {float(model['threshold']):.3g}")
    said.append(f"planned {text(moment(facts.job.get('created', 'at an unknown time')))}")
    parts = [("ok", sums.ok, "ok"), ("failed", sums.failed, "failed"), ("left", max(0, facts.left), "left")]
    legend = "".join(f'<li><i class="{css}"></i>{count(n)} {name}</li>' for name, n, css in parts if n or name == "ok")
    css, verdict = _verdict(facts)
    return f"""<header>
<p class="brand">rayseg report</p>
<h1>{text(title(facts))}</h1>
<p class="facts">{" · ".join(said)}</p>
<p class="source">{text(facts.source)}</p>
<div class="verdict {css}"><p>{verdict}</p>
{charts.stacked(parts, label="images done, failed and left")}
<ul class="legend">{legend}</ul></div>
{_vanished(facts)}</header>"""


def _vanished(facts: Facts) -> str:
    """What the last update of the source did not find any more."""
    last: dict[str, Any] = (facts.job.get("updates") or [{}])[-1]
    if not last.get("vanished"):
        return ""
    what = plural(int(last["vanished"]), "planned image")
    said = f"{what} not found when the source was listed again, {text(moment(str(last['when'])))}: their rows stay here, and"
    return f'<p class="note">{said} <code>vanished.parquet</code> names them.</p>\n'


def _verdict(facts: Facts) -> tuple[str, str]:
    """(CSS class, sentence as HTML)"""
    sums = facts.sums
    what_to_do = f"<code>rayseg verify {text(facts.out)}</code> says what to do."
    failed = f"{plural(sums.failed, 'image')} failed ({share(sums.failed, facts.planned)}): "
    failed += '<a href="#failures">why</a>.'
    if sums.damaged:
        what = plural(len(sums.damaged), "pair") + " of files cannot be read"
        return "bad", f"<strong>Damaged.</strong> {what}: {what_to_do}"
    if facts.left < 0:
        return "bad", f"<strong>Damaged.</strong> There are more finished images than planned ones: {what_to_do}"
    if facts.left:
        left = f"{plural(facts.left, 'image')} left ({share(facts.left, facts.planned)})"
        also = f" {failed}" if sums.failed else ""
        return "warn", f"<strong>Not finished.</strong> {left}; the same command again goes on from here.{also}"
    if sums.failed:
        return "warn", f"<strong>Complete.</strong> Every planned image is accounted for; {failed}"
    return "good", f"<strong>Complete.</strong> {plural(facts.planned, 'image')} planned and segmented, none failed."


def _figures(facts: Facts) -> str:
    sums = facts.sums
    tiles = [(count(sums.ok), "images segmented", f"of {count(facts.planned)} planned")]
    each = f"{sums.objects / sums.ok:.3g}" if sums.ok else "–"
    if facts.semantic:
        classes = plural(int((sums.classes.objects > 0).sum()), "class")
        tiles.append((f"{sums.pixels / 1e6:,.3g} M", "pixels labelled", f"{classes} found"))
        tiles.append((each, "classes an image", _median(sums.objects_per_image)))
    else:
        tiles.append((count(sums.objects), "objects", f"in {plural(sums.ok - sums.empty, 'image')}"))
        tiles.append((each, "objects an image", _median(sums.objects_per_image)))
        tiles.append((count(sums.empty), "without objects", f"{share(sums.empty, sums.ok)} of the images"))
    tiles.append((count(sums.failed), "failed", f"{share(sums.failed, facts.planned)} of the plan"))
    done, wall_s = sum(int(run["done"]) for run in facts.runs), sum(float(run["wall_s"]) for run in facts.runs)
    if done and wall_s:
        tiles.append((rate(done / wall_s), "images a second", f"{duration(wall_s)}, start-up included"))
    cells = (f'<div><dd>{value}</dd><dt>{name}</dt><dd class="note">{note}</dd></div>' for value, name, note in tiles)
    return f'<dl class="figures">{"".join(cells)}</dl>'


def _median(histogram: np.ndarray) -> str:
    total = int(histogram.sum())
    return f"median {int(np.searchsorted(np.cumsum(histogram), total / 2))}" if total else "no images yet"


def _queries(facts: Facts) -> str:
    left = code("DuckDB", query.sql(facts.out)) + code("Shell", query.shell(facts.out))
    right = code("pandas", query.pandas(facts.out))
    return section("query", "Query it", f'<div class="queries"><div>{left}</div><div>{right}</div></div>')


def code(heading: str, typed: str) -> str:
    """Lines to type, as HTML."""
    return f"<h3>{heading}</h3><pre><code>{lines(typed)}</code></pre>"


def details(facts: Facts) -> str:
    """The section that says what was asked and with what."""
    job, model, plan = facts.job, facts.job["model"], facts.job["plan"]
    settings = {k: v for k, v in (job.get("settings") or {}).items() if k not in _UNLISTED}
    settings |= settings.pop("scenes", None) or {}
    rows: list[tuple[str, object]] = [
        ("output", facts.out),
        ("model", f"{model.get('name')} ({model.get('task')}, {model.get('flavour')})"),
        ("model directory", model.get("path")),
        ("model fingerprint", model.get("fingerprint")),
        ("labels", _shortened(facts.labels)),
        ("plan digest", plan.get("digest")),
        ("listed twice, taken once", plan.get("duplicates") or None),
        *((name.replace("_", " "), value) for name, value in settings.items()),
        ("rayseg", job.get("rayseg")),
        ("versions", ", ".join(f"{k} {v}" for k, v in (job.get("versions") or {}).items())),
    ]
    shown = [(name, value) for name, value in rows if value not in (None, "")]
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in shown)
    summary = "<summary><h2>Details</h2></summary>"
    return f'<section id="details"><details>{summary}<dl class="details">{items}</dl></details></section>'


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_LABELS} more" if len(names) > _MOST_LABELS else ""
    return ", ".join(names[:_MOST_LABELS]) + more


def footer(facts: Facts) -> str:
    """The last line."""
    return f"<footer>Written {text(moment(facts.written))} from the files of {text(facts.out)}</footer>"
