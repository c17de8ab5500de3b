"""The report of a job of scenes: the frame and style of `page.py`, with scenes, seams and tiles in place of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayseg.errors import ConfigError
from rayseg.pipeline.report import charts, query
from rayseg.pipeline.report.engines import engines
from rayseg.pipeline.report.facts import Facts
from rayseg.pipeline.report.markup import (
    cells,
    count,
    document,
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
from rayseg.pipeline.report.numbers import damaged, found, reasons, time
from rayseg.pipeline.report.page import code, details, footer, title
from rayseg.pipeline.report.scene_pictures import ScenePicture, pictures
from rayseg.pipeline.report.scene_tally import SceneRow, SceneTally
from rayseg.tables import INCOMPLETE

_MOST_READINGS = 8


@dataclass(frozen=True)
class SceneFacts:
    """All that the page says.

    Attributes:
        scenes: of the job; its sums are those of `sums`.
        tiles: of the job of its tiles.
        drawn: pictures, or why there are none.
    """

    scenes: Facts
    tiles: Facts
    sums: SceneTally
    drawn: Sequence[ScenePicture] | ConfigError

    @property
    def whole(self) -> int:
        return self.scenes.sums.ok - self.sums.incomplete

    @property
    def scaling(self) -> dict[str, Any]:
        return dict(self.scenes.job["scenes"]["scaling"])


def render(facts: SceneFacts) -> str:
    """The whole page."""
    parts = [_header(facts), _figures(facts), pictures(facts.scenes, facts.drawn)]
    if facts.scenes.sums.objects or not facts.scenes.semantic:
        parts.append(found(facts.scenes))
    parts += [_scenes(facts), _failures(facts), time(facts.tiles, more=_stitching(facts)), engines(facts.tiles), _reading(facts)]
    parts += [_queries(facts.scenes), details(facts.scenes), footer(facts.scenes)]
    return document(f"{title(facts.scenes)} · rayseg report", parts)


def _header(facts: SceneFacts) -> str:
    scenes, tiles, model = facts.scenes, facts.tiles, facts.scenes.job["model"]
    said = [text(model.get("name", "unnamed model")), "label maps of scenes" if scenes.semantic else "instances in scenes"]
    if not scenes.semantic and model.get("threshold") is not None:
        said.append(f"score ≥ {float(model['threshold']):.3g}")
    said.append(f"planned {text(moment(scenes.job.get('created', 'at an unknown time')))}")
    of_tiles = [
        ("predicted", tiles.sums.ok - tiles.sums.noted, "ok"),
        ("without data", tiles.sums.noted, "nothing"),
        ("failed", tiles.sums.failed, "failed"),
        ("left", max(0, tiles.left), "left"),
    ]
    of_scenes = [
        ("whole", facts.whole, "ok"),
        ("incomplete", facts.sums.incomplete, "holed"),
        ("failed", scenes.sums.failed, "failed"),
        ("left", max(0, scenes.left), "left"),
    ]
    css, verdict = _verdict(facts)
    return f"""<header>
<p class="brand">rayseg report</p>
<h1>{text(title(scenes))}</h1>
<p class="facts">{" · ".join(said)}</p>
<p class="source">{text(scenes.source)}</p>
<div class="verdict {css}"><p>{verdict}</p>
{_bar("tile", tiles.planned, of_tiles)}
{_bar("scene", scenes.planned, of_scenes)}</div>
</header>"""


def _bar(unit: str, planned: int, parts: list[tuple[str, int, str]]) -> str:
    legend = "".join(f'<li><i class="{css}"></i>{count(n)} {name}</li>' for name, n, css in parts if n or css == "ok")
    bar = charts.stacked(parts, label=f"{unit}s done, failed and left")
    return f'{bar}<ul class="legend"><li>{plural(planned, unit)}:</li>{legend}</ul>'


def _verdict(facts: SceneFacts) -> tuple[str, str]:
    """(CSS class, sentence as HTML)"""
    scenes, tiles = facts.scenes, facts.tiles
    what_to_do = f"<code>rayseg verify {text(scenes.out)}</code> says what to do."
    lost = [
        (facts.sums.incomplete, "scene", "incomplete"),
        (scenes.sums.failed, "scene", "failed"),
        (tiles.sums.failed, "tile", f"failed ({share(tiles.sums.failed, tiles.planned)})"),
    ]
    failed = ", ".join(f"{plural(n, unit)} {words}" for n, unit, words in lost if n)
    failed = f' {failed}: <a href="#failures">why</a>.' if failed else ""
    if facts.scenes.sums.damaged or tiles.sums.damaged:
        what = plural(len(scenes.sums.damaged) + len(tiles.sums.damaged), "file")
        return "bad", f"<strong>Damaged.</strong> {what} cannot be read: {what_to_do}"
    if scenes.left < 0 or tiles.left < 0:
        return "bad", f"<strong>Damaged.</strong> There are more finished scenes or tiles than planned ones: {what_to_do}"
    if scenes.left or tiles.left:
        left = f"{plural(tiles.left, 'tile')} left ({share(tiles.left, tiles.planned)})" if tiles.left else "All tiles are done"
        left += f", {plural(scenes.left, 'scene')} to put together" if scenes.left else ""
        return "warn", f"<strong>Not finished.</strong> {left}; the same command again goes on from here.{failed}"
    if failed:
        return "warn", f"<strong>Complete, but not whole.</strong> Every planned tile and scene is accounted for;{failed}"
    those = "1 scene, whole; of its" if scenes.planned == 1 else f"{plural(scenes.planned, 'scene')}, all whole; of their"
    return "good", f"<strong>Complete.</strong> {those} {plural(tiles.planned, 'tile')} none failed."


def _figures(facts: SceneFacts) -> str:
    scenes, tiles, sums = facts.scenes, facts.tiles, facts.sums
    shown = [(count(facts.whole), "scenes whole", f"of {count(scenes.planned)} planned")]
    shown.append((f"{scenes.sums.pixels / 1e6:,.4g} M", "pixels put together", f"in {plural(scenes.sums.ok, 'scene')}"))
    if not scenes.semantic:
        joined = f"{count(sums.counts['joined'])} of them over seams"
        shown.append((count(scenes.sums.objects), "objects", joined))
    elif scenes.sums.objects:
        shown.append((count(scenes.sums.objects), "regions", "as polygons"))
    shown.append((count(tiles.sums.ok), "tiles seen", f"of {count(tiles.planned)} planned"))
    shown.append((count(tiles.sums.failed), "tiles failed", f"{share(tiles.sums.failed, tiles.planned)} of the plan"))
    done, wall_s = sum(int(run["done"]) for run in tiles.runs), sum(float(run["wall_s"]) for run in tiles.runs)
    if done and wall_s:
        shown.append((rate(done / wall_s), "tiles a second", f"{duration(wall_s)}, start-up included"))
    inner = (f'<div><dd>{value}</dd><dt>{name}</dt><dd class="note">{note}</dd></div>' for value, name, note in shown)
    return f'<dl class="figures">{"".join(inner)}</dl>'


def _scenes(facts: SceneFacts) -> str:
    """The largest scenes and the incomplete ones, each with its tiles and what happened at its seams; and the sums."""
    rows = sorted([*facts.sums.largest, *facts.sums.holed], key=lambda row: (-row.pixels, row.uri))
    if not rows:
        return ""
    seams = ["regions"] if facts.scenes.semantic else ["fragments", "objects", "joined", "dropped"]
    heads = ["scene", "", "pixels", "tiles", "no data", "failed", "outside", *seams, "took"]
    lines = [_scene(row, semantic=facts.scenes.semantic) for row in rows]
    counts, done = facts.sums.counts, facts.scenes.sums
    of_seams = (
        [done.objects] if facts.scenes.semantic else [counts["fragments"], done.objects, counts["joined"], counts["dropped"]]
    )
    tiles = [counts[name] for name in ("tiles", "empty_tiles", "failed_tiles", "unasked_tiles")]
    numbers = cells(*(count(n) for n in (done.pixels, *tiles, *of_seams)), duration(facts.sums.stitch_s))
    if done.ok > 1:
        lines.append(f"<th>all {count(done.ok)}</th><td></td>{numbers}")
    body = table(heads, lines, css="scenes-table summed" if done.ok > 1 else "scenes-table")
    note = "Tiles outside the polygons were not asked for. " if counts["unasked_tiles"] else ""
    if not facts.scenes.semantic:
        note += (
            "Joined are objects made of fragments from several tiles; dropped are fragments that were cut by their tile's edge "
        )
        note += "and that no neighbour confirmed."
    heading = "Scenes and tiles" if facts.scenes.semantic else "Scenes and seams"
    few = f" The largest {len(rows)} of {count(done.ok)}." if done.ok > len(rows) else ""
    return section("seams", heading, body, note=note + few)


def _scene(row: SceneRow, *, semantic: bool) -> str:
    values = row.values
    status = '<i class="holed"></i>incomplete' if row.status == INCOMPLETE else '<i class="ok"></i>whole'
    names = ["tiles", "empty_tiles", "failed_tiles", "unasked_tiles"]
    names += ["n_objects"] if semantic else ["fragments", "n_objects", "joined", "dropped"]
    numbers = cells(count(row.pixels), *(count(values[name]) for name in names), duration(values["stitch_s"] or 0.0))
    return f'<th title="{text(row.uri)}">{text(file_name(row.uri, 0))}</th><td class="state">{status}</td>{numbers}'


def _failures(facts: SceneFacts) -> str:
    """What failed, of tiles and of scenes, by stage and reason; nothing when nothing did."""
    body = damaged([*facts.scenes.sums.damaged, *(f"tiles: {trouble}" for trouble in facts.tiles.sums.damaged)])
    for of, heading in ((facts.tiles, "Tiles"), (facts.scenes, "Scenes that could not be opened")):
        if of.sums.failures:
            body += f"<h3>{heading}</h3>{reasons(of)}"
    if not body:
        return ""
    note = (
        "A tile that failed leaves a hole in its scene and stops nothing. <code>rayseg retry</code> runs these again, and puts "
    )
    return section("failures", "Failures", body, note=note + "their scenes together anew.")


def _stitching(facts: SceneFacts) -> str:
    n = facts.scenes.sums.ok
    if not n:
        return ""
    each = f", {duration(facts.sums.stitch_s / n)} a scene" if n > 1 else ""
    return f'<p class="note">Putting {plural(n, "scene")} together took {duration(facts.sums.stitch_s)} more{each}.</p>'


def _reading(facts: SceneFacts) -> str:
    """How values became colours, how scenes were cut, and what reading them costs."""
    sums, scaling = facts.sums, facts.scaling
    rows: list[tuple[str, str]] = []
    if sums.tile_px:
        rows.append(("tiles", f"{sums.tile_px} px a side; neighbours share {sums.overlap_px} px"))
    if sums.coarse:
        rows.append(("second look", f"{sums.coarse} times coarser, for objects longer than a tile"))
    pairs = list(zip(scaling["low"], scaling["high"], strict=True))
    ranges = pairs[:1] if len(set(pairs)) == 1 else pairs
    values = "; ".join(f"{low:g} to {high:g}" for low, high in ranges)
    rows.append(("values to 8 bits", f"{values} ({scaling.get('origin') or 'given'}), the same for the whole job"))
    if sums.bands:
        said = "; ".join(f"{names} in {plural(n, 'scene')}" for names, n in sums.bands.most_common(3))
        rows.append(("bands", said + _more(len(sums.bands) - 3)))
    if sums.crs:
        said = "; ".join(f"{name or 'pixels'} for {plural(n, 'scene')}" for name, n in sums.crs.most_common(3))
        rows.append(("coordinates", said + _more(len(sums.crs) - 3)))
    for layout, n in sums.reading.most_common(_MOST_READINGS):
        words = sums.reading_words[layout]
        rows.append((f"reading {plural(n, 'scene')}", words if n == 1 else f"{words} (one of them)"))
    if len(sums.reading) > _MOST_READINGS:
        rows.append(("reading", f"{len(sums.reading) - _MOST_READINGS} more layouts"))
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    return section("reading", "Reading and cutting", f'<dl class="details">{items}</dl>')


def _more(n: int) -> str:
    return f"; {n} more" if n > 0 else ""


def _queries(facts: Facts) -> str:
    left = code("DuckDB", query.sql(facts.out)) + code("Shell", query.scene_shell(facts.out))
    right = code("GeoPandas", query.geopandas(facts.out))
    return section("query", "Query it", f'<div class="queries"><div>{left}</div><div>{right}</div></div>')
