"""The gallery as HTML: overlays in groups, each with its name, size and what was found."""

from __future__ import annotations

import base64

from rayseg.draw import PALETTE
from rayseg.geometry import Size
from rayseg.pipeline.report.facts import Facts
from rayseg.pipeline.report.gallery import Picture, background
from rayseg.pipeline.report.markup import count, file_name, plural, section, text

_MOST_CHIPS = 6


def pictures(facts: Facts) -> str:
    """The section with all groups; nothing when no image is done."""
    blocks = []
    for name, group in facts.groups.items():
        if group:
            heading, note = _words(facts, name)
            figures = "\n".join(_figure(facts, picture) for picture in group)
            blocks.append(f'<h3>{heading} <small>{note}</small></h3>\n<div class="gallery">\n{figures}\n</div>')
    if not blocks:
        return ""
    note = f"Masks over their images, a colour for each {'object' if len(facts.labels) <= 1 else 'class'}."
    return section("pictures", "Pictures", "\n".join(blocks), note=f"{note} Click one to enlarge it.")


def swatch(facts: Facts, class_id: int) -> str:
    """A small square in the colour of a class; hollow for a background, which is not coloured."""
    if class_id in background(facts.labels):
        return '<i class="none"></i>'
    red, green, blue = PALETTE[class_id % len(PALETTE)].tolist()
    return f'<i style="background:rgb({red} {green} {blue})"></i>'


def label(facts: Facts, class_id: int) -> str:
    """Name of a class as HTML."""
    return text(facts.labels[class_id]) if class_id < len(facts.labels) else f"class {class_id}"


def _words(facts: Facts, group: str) -> tuple[str, str]:
    """Heading and note of a group."""
    if group == "all":
        return "All images", "In order of name."
    if group == "sample" and sum(map(len, facts.groups.values())) == facts.sums.ok:
        return "The other images", "All that are not shown below."
    if group == "sample":
        return "Random sample", f"Seed {facts.seed}, from the images not shown below."
    if group == "densest" and facts.semantic:
        return "Most classes", "Busy scenes, where confused classes show."
    if group == "densest":
        return "Most objects", "Crowded images, where merged and missed objects show."
    return "Lowest confidence", "The lowest mean scores: what the model is least sure of."


def _figure(facts: Facts, picture: Picture) -> str:
    pick = picture.pick
    name, found = text(file_name(pick.uri, pick.page)), plural(pick.n_objects, facts.thing)
    if pick.mean_score is not None:
        found += f" · mean score {pick.mean_score:.2f}"
    caption = f'<b title="{text(pick.uri)}">{name}</b><span>{pick.width} × {pick.height} px</span><span>{found}</span>'
    caption += _chips(facts, picture)
    shown = frame(picture.jpeg, picture.size, picture.trouble, what="Overlay", name=name)
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def frame(jpeg: bytes | None, size: Size | None, trouble: str | None, *, what: str, name: str) -> str:
    """A picture, enlarged by a check box instead of a script; or why there is none.

    Args:
        what: it shows, the first word of its description.
        name: of the image, as markup.
    """
    if jpeg is None or size is None:
        return f'<div class="frame missing"><p>Cannot be shown: {text(trouble)}</p></div>'
    data = base64.b64encode(jpeg).decode("ascii")
    sides = f'width="{size.width}" height="{size.height}"'
    image = f'<img src="data:image/jpeg;base64,{data}" {sides} alt="{what} of {name}">'
    return f'<label><input type="checkbox" aria-label="Enlarge {name}"><span class="frame">{image}</span></label>'


def _chips(facts: Facts, picture: Picture) -> str:
    """The classes of a picture with their colours; nothing for models of one class."""
    if len(facts.labels) <= 1 or not picture.class_counts:
        return ""
    chips = []
    for class_id, n in picture.class_counts[:_MOST_CHIPS]:
        times = f" <small>{count(n)}</small>" if n > 1 else ""
        chips.append(f"<li>{swatch(facts, class_id)}{label(facts, class_id)}{times}</li>")
    if len(picture.class_counts) > _MOST_CHIPS:
        chips.append(f"<li>+{len(picture.class_counts) - _MOST_CHIPS}</li>")
    return f'<ul class="chips">{"".join(chips)}</ul>'
