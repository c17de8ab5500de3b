"""Charts as inline SVG and HTML, without scripts. Colours come from the page's style sheet, which knows the dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rayseg.pipeline.report import markup
from rayseg.pipeline.report.tally import SCORE_BINS

# Near the size the charts are shown at, so that text is as large as elsewhere on the page.
_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 14, 8, 38


@dataclass(frozen=True)
class Bars:
    """A histogram ready to draw.

    Attributes:
        counts: one bar each.
        tips: what each bar stands for.
        ticks: (position in bars, text) along the axis.
        axis: what the axis says.
    """

    counts: Sequence[int]
    tips: Sequence[str]
    ticks: Sequence[tuple[float, str]]
    axis: str


def svg(bars: Bars, *, unit: str) -> str:
    """A bar chart; the tip of each bar tells its count in `unit`."""
    n, most = len(bars.counts), max(bars.counts)
    step = (_WIDTH - _LEFT - _RIGHT) / n
    floor = _HEIGHT - _BOTTOM
    levels = _levels(most)
    scale = (floor - _TOP) / max(levels[-1], most)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{markup.text(bars.axis)}">']
    for level in levels:
        y = floor - level * scale
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{markup.short(level)}</text>')
    gap = min(2.0, step * 0.15)
    for i, (value, tip) in enumerate(zip(bars.counts, bars.tips, strict=True)):
        if value:
            height = max(1.0, value * scale)
            box = f'x="{_LEFT + i * step + gap / 2:.1f}" y="{floor - height:.1f}" width="{step - gap:.1f}"'
            title = f"{markup.text(tip)}: {markup.count(value)} {unit}"
            parts.append(f'<rect class="bar" {box} height="{height:.1f}"><title>{title}</title></rect>')
    for position, label in bars.ticks:
        x = _LEFT + position * step
        parts.append(f'<text x="{x:.1f}" y="{floor + 15}" text-anchor="middle">{markup.text(label)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">{markup.text(bars.axis)}</text>')
    return "".join(parts) + "</svg>"


def stacked(parts: Sequence[tuple[str, float, str]], *, label: str) -> str:
    """One horizontal bar of (name, value, CSS class) parts; the names are for a legend beside it."""
    total = sum(value for _, value, _ in parts) or 1
    shown = []
    for name, value, css in parts:
        if value > 0:
            title = f"{markup.text(name)}: {markup.share(value, total)}"
            shown.append(f'<i class="{css}" style="flex-grow:{value / total:.6f}" title="{title}"></i>')
    return f'<div class="stacked" role="img" aria-label="{markup.text(label)}">{"".join(shown)}</div>'


def score_bars(counts: np.ndarray) -> Bars:
    """Scores from the lowest that occurs to 1."""
    per_tenth = SCORE_BINS // 10
    first = int(np.flatnonzero(counts)[0]) // per_tenth * per_tenth
    edges = np.arange(SCORE_BINS + 1) / SCORE_BINS
    tips = [f"{edges[i]:.3g} to {edges[i + 1]:.3g}" for i in range(first, SCORE_BINS)]
    ticks = [(i - first, f"{edges[i]:.1f}") for i in range(first, SCORE_BINS + 1, per_tenth)]
    return Bars(counts[first:].tolist(), tips, ticks, "score")


def area_bars(counts: np.ndarray) -> Bars:
    """Areas in half octaves; in whole ones when some are of a few pixels, where half an octave may hold no number."""
    used = np.flatnonzero(counts)
    step = 2 if used[0] < 6 else 1
    counts = counts.reshape(-1, step).sum(axis=1)
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1]) + 1
    edges = [math.ceil(2 ** (i * step / 2) - 1e-9) for i in range(first, last + 1)]
    tips = [f"{markup.count(a)} to {markup.count(b - 1)} px" for a, b in pairwise(edges)]
    # Bar edges double every 2 / step bars; ticks stand at round numbers, two a decade where there are few decades.
    low, high = math.log10(edges[0]), math.log10(edges[-1])
    marks = (1, 3) if high - low < 2.5 else (1,)
    values = [m * 10**d for d in range(math.floor(low), math.ceil(high) + 1) for m in marks]
    positions = [(2 / step * math.log2(v) - first, v) for v in values]
    ticks = [(p, markup.short(v)) for p, v in positions if 0 <= p <= last - first]
    return Bars(counts[first:last].tolist(), tips, ticks, "area in pixels (logarithmic)")


def per_image_bars(counts: np.ndarray, *, axis: str) -> Bars:
    """How many images have how many objects, in at most 40 bars of equal width."""
    last = len(counts)
    width = next(w for w in _round_numbers() if last <= 40 * w)
    starts = list(range(0, last, width))
    heights = np.add.reduceat(counts, starts)
    ends = [f" to {markup.count(a + width - 1)}" if width > 1 else "" for a in starts]
    tips = [markup.count(a) + end for a, end in zip(starts, ends, strict=True)]
    every = next(w for w in _round_numbers() if w >= width and last <= 7 * w)
    middle = 0.5 if width == 1 else 0
    ticks = [(a / width + middle, markup.short(a)) for a in range(0, last, every)]
    return Bars(heights.tolist(), tips, ticks, axis)


def _round_numbers() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ..."""
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _levels(most: int) -> list[int]:
    """Three to five round levels from 0 to at least `most`."""
    step = next(w for w in _round_numbers() if most <= 4 * w)
    return list(range(0, most + step, step))
