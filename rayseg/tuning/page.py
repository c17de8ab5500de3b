"""OUT/tune.html: one page without network or scripts: which settings were best, how every trial went, what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rayseg.config.train import Settings
from rayseg.pipeline.report.markup import count, document, duration, lines, moment, plural, section, short, table, text
from rayseg.tuning.records import Record, write_text
from rayseg.tuning.result import TuneResult, best_record, folder_name, shown_score, shown_value

NAME = "tune.html"
_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 36
_STYLE = """
.curves { display: grid; gap: 28px 36px; margin-top: 20px; }
.curves { grid-template-columns: repeat(auto-fill, minmax(min(480px, 100%), 1fr)); }
.curves figcaption { font-weight: 650; margin-bottom: 6px; }
svg polyline { fill: none; stroke-width: 1.6; }
svg polyline.best { stroke-width: 3.2; }
tr.best td { font-weight: 650; }
tr.failed td { color: var(--bad); }
tr.stopped td { color: var(--soft); }
td i.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px; }
"""


def write_page(result: TuneResult, *, settings: Settings) -> Path:
    """Write the page of a search that has ended.

    Args:
        settings: of the search, for the details.
    """
    path = result.folder / NAME
    write_text(path, render(result, settings=settings))
    return path


def render(result: TuneResult, *, settings: Settings) -> str:
    """The whole page."""
    body = [_header(result), _figures(result), _best(result), _curves(result)]
    body += [_stage(result, number, records) for number, records in enumerate(result.stages, start=1)]
    body += [_details(settings), f"<footer>Written {text(moment(datetime.now(UTC).isoformat()))}</footer>"]
    return document(f"{result.model} · rayseg tune", body, style=_STYLE)


def _header(result: TuneResult) -> str:
    failed = sum(record.status == "failed" for record in result.trials)
    found = ", ".join(f"{text(key)} {text(shown_value(value))}" for key, value in result.shown[result.best.id].items())
    score = f"{text(result.metric)} {shown_score(result.best.best_score)}"
    verdict = f"<strong>{score}</strong> by trial {text(result.best.id)}: {found}."
    if failed:
        verdict += f" {plural(failed, 'trial')} failed; the tables say why."
    return f"""<header>
<p class="brand">rayseg tune</p>
<h1>{text(result.model)}</h1>
<p class="source">{text(result.folder)}</p>
<div class="verdict {"warn" if failed else "good"}"><p>{verdict}</p></div>
</header>"""


def _figures(result: TuneResult) -> str:
    cost, trials = result.cost, result.trials
    ran = [record for record in trials if record.same_as is None]
    stopped = sum(record.status == "stopped" for record in ran)
    tiles = [
        (shown_score(result.best.best_score), text(result.metric), f"best of {plural(len(trials), 'trial')}"),
        (count(len(ran)), "trials run", f"{stopped} stopped early, at most {result.at_once} at once"),
        (duration(cost["trial_seconds"]), "of training", "all trials, over all restarts"),
        (duration(cost["worker_seconds"]), "of workers", f"{duration(cost['gpu_seconds'])} of GPUs"),
        (duration(result.seconds), "on the clock", "of the last run of the search"),
    ]
    cells = (f'<div><dd>{value}</dd><dt>{name}</dt><dd class="note">{note}</dd></div>' for value, name, note in tiles)
    return f'<dl class="figures">{"".join(cells)}</dl>'


def _best(result: TuneResult) -> str:
    best = result.best
    rows = [
        *((key, shown_value(value)) for key, value in result.shown[best.id].items()),
        (result.metric, f"{shown_score(best.best_score)}, after epoch {best.best_epoch}, step {best.best_step}"),
        ("learning rate read back", f"first {_first(best)}, highest {_rate(best.highest_rate)}"),
        ("trial", folder_name(best)),
        ("weights", f"{result.best_model}"),
        ("settings", f"{result.folder / 'config.yaml'}"),
    ]
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    command = f"rayseg segment IMAGES OUT --model {result.best_model}/inference"
    use = f"<h3>Use it</h3><pre><code>{lines(command)}</code></pre>"
    return section("best", "Best settings", f'<dl class="details">{items}</dl>{use}')


def _stage(result: TuneResult, number: int, records: Sequence[Record]) -> str:
    best = best_record(records, result.mode)
    heads = [
        "trial",
        *result.keys,
        "status",
        result.metric,
        "best at",
        "epochs",
        "steps",
        "first rate",
        "highest rate",
        "time",
        "",
    ]
    rows = []
    for place, record in enumerate(records):
        css = "best" if best is not None and record.id == best.id else record.status
        at = "–" if record.best_step is None else f"epoch {record.best_epoch}, step {record.best_step}"
        note = f"is {record.same_as}; not run again" if record.same_as else record.reason or ""
        values = [
            *(shown_value(result.shown[record.id][key]) for key in result.keys),
            record.status,
            shown_score(record.best_score),
            at,
            count(record.epochs),
            count(record.steps),
            _first(record),
            _rate(record.highest_rate),
            duration(record.seconds),
            note,
        ]
        key = f'<td><i class="key" style="background:{_colour(place, len(records))}"></i>{text(record.id)}</td>'
        rows.append((css, key + "".join(f"<td>{text(value)}</td>" for value in values)))
    made = table([text(head) for head in heads], (f"{row}" for _, row in rows), css="trials")
    for css, row in rows:
        made = made.replace(f"<tr>{row}", f'<tr class="{css}">{row}', 1)
    found = "" if best is None else f"The best is {text(best.id)}; the next stage begins with its settings."
    return section(f"stage-{number}", f"Stage {number}", made, note=found if number < len(result.stages) else "")


def _curves(result: TuneResult) -> str:
    figures = [
        f"<figure><figcaption>Stage {number}</figcaption>{curves(records, metric=result.metric, mode=result.mode)}</figure>"
        for number, records in enumerate(result.stages, start=1)
        if any(_points(record) for record in records)
    ]
    if not figures:
        return ""
    note = f"{text(result.metric)} at each evaluation; the thick line is the stage's best trial."
    return section("curves", "Curves", f'<div class="curves">{"".join(figures)}</div>', note=note)


def curves(records: Sequence[Record], *, metric: str, mode: str) -> str:
    """Scores over steps as SVG, one line a trial in the colour it has in the table."""
    drawn = [(place, record, _points(record)) for place, record in enumerate(records)]
    xs = [x for _, _, points in drawn for x, _ in points]
    ys = [y for _, _, points in drawn for _, y in points]
    low, high = min(ys), max(ys)
    low, high = (low, high) if high > low else (low - 0.05, high + 0.05)
    right = max(xs)
    best = best_record(records, mode)

    def at(x: float, y: float) -> str:
        across = _LEFT + x / right * (_WIDTH - _LEFT - _RIGHT)
        return f"{across:.1f},{_TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(metric)} over steps">']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (high - low)
        y = float(at(0, value).split(",")[1])
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{value:.3g}</text>')
        x = float(at(share * right, low).split(",")[0])
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{short(round(share * right))}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">steps</text>')
    for place, record, points in drawn:
        if points:
            css = ' class="best"' if best is not None and record.id == best.id else ""
            title = f"<title>{text(record.id)}: {shown_score(record.best_score)}</title>"
            colour = _colour(place, len(records))
            parts.append(f'<polyline{css} stroke="{colour}" points="{" ".join(at(*p) for p in points)}">{title}</polyline>')
            parts += [
                f'<circle r="2.5" fill="{colour}" cx="{at(*p).split(",")[0]}" cy="{at(*p).split(",")[1]}">{title}</circle>'
                for p in points
                if len(points) < 40
            ]
    return "".join(parts) + "</svg>"


def _points(record: Record) -> list[tuple[float, float]]:
    found = [(score["step"], score["score"]) for score in record.scores]
    return [(x, y) for x, y in found if y is not None and math.isfinite(y)]


def _details(settings: Settings) -> str:
    summary = "<summary><h2>Settings of the search</h2></summary>"
    return f'<section id="details"><details>{summary}<pre><code>{lines(settings.to_yaml())}</code></pre></details></section>'


def _colour(place: int, of: int) -> str:
    return f"hsl({round(360 * place / max(of, 1) + 205) % 360} 55% 48%)"


def _first(record: Record) -> str:
    """The first rate, with its step where that is not the trial's first."""
    before = record.first_rate_step or 0
    return _rate(record.first_rate) + (f" at step {before + 1}, after a restart" if before else "")


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.4g}"
