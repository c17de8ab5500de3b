"""Words, numbers and tables as HTML: every string that comes from outside passes `text` on its way to the page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from importlib import resources

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+@")


def text(value: object) -> str:
    """A value as HTML text, safe inside quoted attributes too.

    Line ends, control characters and marks that change the direction of writing are spelled out (\\n, \\u202e), so that
    a file name reads as it is; credentials in a URL are left out.
    """
    shown = without_credentials(str(value))
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return html.escape(shown, quote=True)


def without_credentials(url: str) -> str:
    """A URL without the name and password before its host; not yet HTML."""
    return _CREDENTIALS.sub("", url)


def lines(code: str) -> str:
    """Code as HTML text: line by line, so that its own line ends stay."""
    return "\n".join(text(line) for line in code.split("\n"))


def file_name(uri: str, page: int) -> str:
    """The last part of a URI, with its page when it is not the first; not yet HTML."""
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    return f"{name} · page {page + 1}" if page else name


def count(n: float) -> str:
    """A whole number with separators: 12,345."""
    return f"{n:,.0f}"


def plural(n: int, word: str) -> str:
    """12,345 images; 1 image; 2 classes."""
    ending = "" if n == 1 else "es" if word.endswith("s") else "s"
    return f"{count(n)} {word}{ending}"


def short(n: float) -> str:
    """A number for an axis: 950, 1.2k, 30M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= limit:
            return f"{n / limit:.3g}{unit}"
    return f"{n:.3g}"


def share(part: float, whole: float) -> str:
    """A percentage that is 0% or 100% only when that is exact."""
    if whole <= 0 or part <= 0:
        return "0%"
    percent = 100 * part / whole
    if percent < 0.1:
        return "<0.1%"
    if percent >= 100:
        return "100%"
    return f"{min(percent, 99.9):.1f}%" if percent < 10 or percent > 99 else f"{percent:.0f}%"


def rate(per_second: float) -> str:
    """Images a second with three figures."""
    return count(per_second) if per_second >= 100 else f"{per_second:.3g}"


def duration(seconds: float) -> str:
    """A time with two units: 850 ms, 12.3 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def moment(iso: object) -> str:
    """An ISO time for reading, in its own zone: 2026-11-21 03:04 UTC. Not yet HTML."""
    found = re.match(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)", str(iso))
    if not found:
        return str(iso)
    utc = re.search(r"(\+00:00|Z)$", str(iso))
    return f"{found[1]} {found[2]}{' UTC' if utc else ''}"


def section(name: str, heading: str, body: str, *, note: str = "") -> str:
    """A part of the page with its heading and a line below it; all of them HTML."""
    said = f'<p class="note">{note}</p>\n' if note else ""
    return f'<section id="{name}">\n<h2>{heading}</h2>\n{said}{body}\n</section>'


def table(heads: Iterable[str], rows: Iterable[str], *, css: str) -> str:
    """A table of rows that are HTML cells already."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    inner = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll"><table class="{css}">\n{inner}</table></div>\n'


def cells(*values: str) -> str:
    """Cells of numbers."""
    return "".join(f'<td class="number">{value}</td>' for value in values)


def document(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """A whole page from its parts, empty ones left out. No request leaves it and no script runs in it, whatever a name contains.

    Args:
        title: plain text.
        style: more CSS, after that of all our pages.
    """
    sheet = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8") + style
    body = "\n".join(part for part in parts if part)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>
{sheet}</style>
</head>
<body>
{body}
</body>
</html>
"""
