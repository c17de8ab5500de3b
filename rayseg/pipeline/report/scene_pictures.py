"""Pictures of scenes in a report: which are shown, their drawing, and the section as HTML.

Drawing is `pipeline/scenes/overview.py`'s, which needs the extra `geo`; without it the page has no pictures and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayseg.errors import ConfigError, RaysegError
from rayseg.geometry import Size
from rayseg.pipeline.report.facts import Facts
from rayseg.pipeline.report.gallery import background, jpeg_within
from rayseg.pipeline.report.markup import count, file_name, plural, section, share, text
from rayseg.pipeline.report.pictures import frame, label, swatch
from rayseg.pipeline.report.scene_tally import SceneRow, SceneTally
from rayseg.pipeline.storage import Store
from rayseg.tables import INCOMPLETE

if TYPE_CHECKING:
    from rayseg.pipeline.scenes.overview import Overview

MOST_SCENES = 6
_LARGEST = 2
_MOST_BYTES = 560_000
_MOST_CHIPS = 12


@dataclass(frozen=True)
class ScenePicture:
    """One scene of the report.

    Attributes:
        jpeg: the picture; None when there is none.
        size: of the JPEG.
        found: what is on it.
        trouble: why there is none.
    """

    row: SceneRow
    jpeg: bytes | None = None
    size: Size | None = None
    found: Overview | None = None
    trouble: str = ""


def shown(sums: SceneTally) -> list[SceneRow]:
    """The two largest scenes, those with holes, those at work, and more of the largest: six at most, large ones first."""
    rows = [*sums.largest[:_LARGEST], *sums.holed, *sums.waiting[:_LARGEST], *sums.largest[_LARGEST:], *sums.waiting[_LARGEST:]]
    return sorted(rows[:MOST_SCENES], key=lambda row: (-row.pixels, row.uri))


def draw_scenes(
    store: Store, rows: Sequence[SceneRow], *, job: Mapping[str, Any], source_options: Mapping[str, Any], budget_bytes: int
) -> list[ScenePicture]:
    """One picture each, one at a time; a scene that cannot be drawn costs nothing but its own.

    Raises:
        ConfigError: the extra `geo` is not installed.
    """
    from rayseg.geo.scaling import Scaling
    from rayseg.pipeline.scenes.overview import Committed, overview, record_of

    labels, scaling = list(job["model"]["labels"]), Scaling.from_dict(job["scenes"]["scaling"])
    most_bytes = min(_MOST_BYTES, budget_bytes // max(1, len(rows)))
    out = []
    for row in rows:
        done = None
        if row.status is not None:
            done = Committed(f"objects/{row.chunk}.parquet", row.values["label_map"], row.values["holes"])
        try:
            record = record_of(store, row.batch, row.unit_id)
            found = overview(store, record, done, labels=labels, scaling=scaling, storage=source_options, skip=background(labels))
        except Exception as error:  # noqa: BLE001 - GDAL and storage raise their own trees; all of them cost this picture only
            trouble = str(error) if isinstance(error, RaysegError) else f"{type(error).__name__}: {error}"
            out.append(ScenePicture(row, trouble=trouble[:300]))
            continue
        out.append(ScenePicture(row, *jpeg_within(found.rgb, most_bytes), found))
    return out


def pictures(facts: Facts, drawn: Sequence[ScenePicture] | ConfigError) -> str:
    """The section; nothing when there is no scene yet.

    Args:
        facts: of the scenes.
        drawn: or why there is nothing.
    """
    if isinstance(drawn, ConfigError):
        return section("pictures", "Scenes", f'<p class="note">No pictures here: {text(drawn)}</p>')
    if not drawn:
        return ""
    note = "The largest, and those with holes. " if facts.sums.ok > len(drawn) else ""
    holes = any(picture.found is not None and picture.found.holes for picture in drawn)
    note += "Thin lines are the seams between tiles" + ("; what no tile saw is hatched in red. " if holes else ". ")
    note += "Click a picture to enlarge it."
    figures = "\n".join(_figure(facts, picture) for picture in drawn)
    legend = "" if facts.semantic else _legend(facts)
    return section("pictures", "Scenes", f'{legend}<div class="gallery scenes">\n{figures}\n</div>', note=note)


def _legend(facts: Facts) -> str:
    """Colours of the commonest classes; nothing for models of one class, where each object has a colour of its own."""
    objects = facts.sums.classes.objects
    if len(facts.labels) <= 1 or not objects.any():
        return ""
    order = [i for i in (-objects).argsort(kind="stable").tolist() if objects[i]]
    chips = [f"<li>{swatch(facts, i)}{label(facts, i)}</li>" for i in order[:_MOST_CHIPS]]
    more = [f"<li>+{len(order) - _MOST_CHIPS}</li>"] if len(order) > _MOST_CHIPS else []
    return f'<ul class="chips">{"".join(chips + more)}</ul>'


def _figure(facts: Facts, picture: ScenePicture) -> str:
    row = picture.row
    name = text(file_name(row.uri, 0))
    lines = [f"{count(row.width)} × {count(row.height)} px"]
    if row.status is None:
        lines.append("Not put together yet: tiles are at work.")
    else:
        lines[0] += f" · {text(_crs(row.values['crs']))}"
        lines.append(_words(facts, row))
    if row.status == INCOMPLETE:
        lines.append(f"Incomplete: {count(row.values['failed_tiles'])} of {plural(row.values['tiles'], 'tile')} failed")
    found = picture.found
    if found is not None and found.drawn < found.objects:
        lines.append(f"A sample of {count(found.drawn)} objects is drawn: the largest, and others spread evenly.")
    lines += [text(said) for said in (found.trouble if found else ())]
    caption = f'<b title="{text(row.uri)}">{name}</b>' + "".join(f"<span>{line}</span>" for line in lines)
    shown = frame(picture.jpeg, picture.size, picture.trouble, what="Overview", name=name)
    return f"<figure>{shown}<figcaption>{caption}{_chips(facts, found)}</figcaption></figure>"


def _words(facts: Facts, row: SceneRow) -> str:
    values = row.values
    if facts.semantic:
        regions = f" · {plural(values['n_objects'], 'region')}" if values["n_objects"] else ""
        return f"label map of {plural(values['tiles'], 'tile')}{regions}"
    return f"{plural(values['n_objects'], 'object')} in {plural(values['tiles'], 'tile')}, {count(values['joined'])} over seams"


def _crs(name: str | None) -> str:
    if name is None:
        return "in pixels"
    return name if len(name) <= 24 else "a reference system of its own"


def _chips(facts: Facts, found: Overview | None) -> str:
    """Classes of a label map and their shares."""
    if found is None or not found.shares:
        return ""
    order = sorted(found.shares, key=lambda i: -found.shares[i])
    chips = [
        f"<li>{swatch(facts, i)}{label(facts, i)} <small>{share(found.shares[i], 1)}</small></li>" for i in order[:_MOST_CHIPS]
    ]
    more = [f"<li>+{len(order) - _MOST_CHIPS}</li>"] if len(order) > _MOST_CHIPS else []
    return f'<ul class="chips">{"".join(chips + more)}</ul>'
