"""Which fragments of different tiles are one object, judged by their masks in the strip both tiles see.

For each two tiles that share a strip S, and fragments a and b of one class, of either tile, that share pixels:

    whole   IoU of a and b inside S is at least `min_iou`, and each is the other's best: one object.
    piece   the same for connected pieces of a and b inside S, so that a river that one tile sees as two arms and the other
            as one bend is linked arm by arm. Left out are pieces that do not reach the border of S: they link nothing that
            `whole` does not, but specks of noise between touching neighbours would. Left out, too, are pieces that lie for
            the most part in what their fragment was linked with as a whole: masks that overlap would be linked crosswise.
    cut     a was linked with nothing in S so far and is cut by its tile's edge: with the b that covers most of it, if
            that is at least `min_cover` of it, and no mere sliver of b.

Strips narrower than the grid's overlap are not looked at. They lie between tiles with another one in the middle, which sees
all of them, and a row of pixels at two tiles' edges is poor evidence.

Masks that a perfect predictor cuts at the tiles' edges agree in S to the pixel, so `whole` and `piece` have IoU 1 for what
belongs together, and objects that share no pixel are never linked. The rule looks at two tiles at a time; the order of tiles
and of fragments makes no difference. Fragments of one tile are never compared: that is the model's own suppression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayseg.errors import ConfigError
from rayseg.tiling.fragments import masks_of, windows_of
from rayseg.tiling.grid import Grid
from rayseg.tiling.groups import components, expand, first_of_each
from rayseg.tiling.runs import Runs, decode, meet

# A mask that ends this near to its tile's edge counts as cut by it: networks work at a stride and rarely fill the last pixel.
EDGE_PX = 2

# What is less than this share of the other fragment inside the strip is a sliver: a pixel of disagreement moves it onto a
# neighbour, so being covered says nothing.
SLIVER_SHARE = 0.1


@dataclass(frozen=True)
class SeamRule:
    """When fragments of two tiles are one object.

    Attributes:
        min_iou: intersection over union inside the strip. Low, since strips are narrow and a pixel of disagreement along a
            thin object weighs much; being each other's best is what keeps neighbours apart.
        min_cover: share of a cut fragment inside the strip that another one must cover.
    """

    min_iou: float = 0.3
    min_cover: float = 0.7

    def __post_init__(self) -> None:
        for name in ("min_iou", "min_cover"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it is a share above 0 and up to 1")


def links(grid: Grid, fragments: pa.Table, rule: SeamRule, *, across: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of fragments that are one object.

    Args:
        fragments: a fragments table, sorted so that ties between equally good partners are decided the same way always.
        across: compare only tiles of rows before this one with tiles of this row or later ones.

    Returns:
        Row numbers of the first and of the second fragment of each pair, int64.
    """
    parts = _Parts.of(grid, fragments, across)
    first, second = parts.candidates()
    if not first.size:
        return first, second
    used = np.unique(np.concatenate([first, second]))
    parts, first, second = parts.take(used), np.searchsorted(used, first), np.searchsorted(used, second)
    seen = np.unique(parts.fragment)
    masks = decode(masks_of(fragments).take(pa.array(seen)), windows_of(fragments)[seen])
    runs = masks.take(np.searchsorted(seen, parts.fragment)).clip(parts.strip)
    pair, run_a, run_b, shared = meet(runs, runs, first, second)
    area = runs.areas(len(parts))
    both = np.bincount(pair, shared, len(first)).astype(np.int64)
    keep = best_for_both(first, second, both / np.maximum(area[first] + area[second] - both, 1), rule.min_iou)
    a, b = [first[keep]], [second[keep]]
    partner = np.full(len(parts), -1)
    partner[first[keep]], partner[second[keep]] = second[keep], first[keep]
    piece_a, piece_b = _pieces(runs, parts.strip).link(run_a, run_b, shared, partner, rule.min_iou)
    a.append(runs.item[piece_a])
    b.append(runs.item[piece_b])
    alone = parts.cut(grid)
    alone[np.concatenate(a + b)] = False
    for here, there in ((first, second), (second, first)):
        large = alone[here] & (both >= SLIVER_SHARE * area[there])
        covered = np.where(large, both / np.maximum(area[here], 1), 0.0)
        order = np.lexsort((there, -covered, here))
        top = order[first_of_each(here[order])]
        top = top[covered[top] >= rule.min_cover]
        a.append(here[top])
        b.append(there[top])
    return parts.fragment[np.concatenate(a)], parts.fragment[np.concatenate(b)]


def best_for_both(first: np.ndarray, second: np.ndarray, score: np.ndarray, least: float) -> np.ndarray:
    """The pairs, by number, in which each is the other's best with at least this score; ties go to the lower numbers."""
    order = np.lexsort((second, first, -score))
    order = order[score[order] >= least]
    best_a = order[np.unique(first[order], return_index=True)[1]]
    best_b = order[np.unique(second[order], return_index=True)[1]]
    return np.intersect1d(best_a, best_b)


@dataclass(frozen=True, eq=False)
class _Parts:
    """Fragments inside strips: entry i is the part of `fragment[i]` in what its tile shares with another one.

    Attributes:
        fragment: int64 (n,), row number in the table.
        tile: int64 (n,), its own tile.
        strip: int64 (n, 4), window of what the two tiles share.
        window: int64 (n, 4), the fragment's window inside the strip.
        group: int64 (n,), equal for entries that may be compared: same two tiles, same class.
        side: bool (n,), False for the tile with the lower number of the two.
    """

    fragment: np.ndarray
    tile: np.ndarray
    strip: np.ndarray
    window: np.ndarray
    group: np.ndarray
    side: np.ndarray

    def __len__(self) -> int:
        return len(self.fragment)

    @classmethod
    def of(cls, grid: Grid, fragments: pa.Table, across: int | None) -> _Parts:
        tile, windows = fragments["tile"].to_numpy(), windows_of(fragments)
        row, column = grid.rows.meeting(windows[:, 1], windows[:, 3]), grid.columns.meeting(windows[:, 0], windows[:, 2])
        entry, other_row = expand(*row)
        nested, other_column = expand(column[0][entry], column[1][entry])
        fragment, other_row = entry[nested], other_row[nested]
        other = other_row * len(grid.columns) + other_column
        apart = other != tile[fragment]
        if across is not None:
            apart &= (other_row < across) != (tile[fragment] // len(grid.columns) < across)
        fragment, other = fragment[apart], other[apart]
        here, there = grid.windows(tile[fragment]), grid.windows(other)
        strip = np.concatenate([np.maximum(here[:, :2], there[:, :2]), np.minimum(here[:, 2:], there[:, 2:])], axis=1)
        least = np.minimum(grid.overlap_px, [grid.columns.length, grid.rows.length])
        wide = (strip[:, 2:] - strip[:, :2] >= least).all(axis=1)
        fragment, other, strip = fragment[wide], other[wide], strip[wide]
        tile = tile[fragment]
        own = windows[fragment]
        window = np.concatenate([np.maximum(own[:, :2], strip[:, :2]), np.minimum(own[:, 2:], strip[:, 2:])], axis=1)
        keys = np.stack([np.minimum(tile, other), np.maximum(tile, other), fragments["class_id"].to_numpy()[fragment]])
        order = np.lexsort(keys)
        fresh = np.zeros(len(order), dtype=np.int64)
        fresh[1:] = (np.diff(keys[:, order], axis=1) != 0).any(axis=0)
        group = np.empty(len(order), dtype=np.int64)
        group[order] = np.cumsum(fresh)
        return cls(fragment, tile, strip, window, group, tile > other)

    def take(self, index: np.ndarray) -> _Parts:
        return _Parts(
            self.fragment[index], self.tile[index], self.strip[index], self.window[index], self.group[index], self.side[index]
        )

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries of either side whose windows overlap: found by sorting along the strip."""
        low, high = np.flatnonzero(~self.side), np.flatnonzero(self.side)
        if not low.size or not high.size:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        wide = self.strip[:, 2] - self.strip[:, 0] >= self.strip[:, 3] - self.strip[:, 1]
        start = np.where(wide, self.window[:, 0], self.window[:, 1])
        stop = np.where(wide, self.window[:, 2], self.window[:, 3])
        offset = self.group * (int(stop.max()) + 1)
        start, stop = start + offset, stop + offset
        low, high = low[np.argsort(start[low], kind="stable")], high[np.argsort(start[high], kind="stable")]
        a, j = expand(np.searchsorted(start[high], start[low], "left"), np.searchsorted(start[high], stop[low], "left"))
        b, i = expand(np.searchsorted(start[low], start[high], "right"), np.searchsorted(start[low], stop[high], "left"))
        first, second = np.concatenate([low[a], low[i]]), np.concatenate([high[j], high[b]])
        p, q = self.window[first], self.window[second]
        overlap = (np.maximum(p[:, :2], q[:, :2]) < np.minimum(p[:, 2:], q[:, 2:])).all(axis=1)
        return first[overlap], second[overlap]

    def cut(self, grid: Grid) -> np.ndarray:
        """Entries that end at an edge of their own tile inside the strip, bool (n,)."""
        return np.asarray(cut_edges(grid, self.tile, self.window).any(axis=1))


def cut_edges(grid: Grid, tile: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Which edges of its tile a window reaches, bool (n, 4): left, top, right, bottom. The scene's own edges do not count."""
    around, (height, width) = grid.windows(tile), grid.scene.hw
    near = np.concatenate([windows[:, :2] - around[:, :2], around[:, 2:] - windows[:, 2:]], axis=1) <= EDGE_PX
    inner = np.concatenate([around[:, :2] > 0, around[:, 2:] < np.asarray([width, height])], axis=1)
    return near & inner


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Connected pieces, named by their first run: of each run its item and its piece, of each piece its pixels and whether it
    reaches the border of the strip."""

    item: np.ndarray
    piece: np.ndarray
    area: np.ndarray
    border: np.ndarray

    def link(
        self, run_a: np.ndarray, run_b: np.ndarray, shared: np.ndarray, partner: np.ndarray, least: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pieces that are each other's best and that no partner explains, as the runs they are named by.

        Args:
            run_a, run_b, shared: where runs meet, and in how many pixels.
            partner: the item each item was linked with as a whole, or -1.
        """
        a, b = self.piece[run_a], self.piece[run_b]
        order = np.lexsort((b, a))
        a, b, shared = a[order], b[order], shared[order]
        first = first_of_each(a * len(self.piece) + b)
        if not first.size:
            return first, first
        a, b, both = a[first], b[first], np.add.reduceat(shared, first)
        explained = np.zeros(len(self.piece), dtype=bool)
        for here, there in ((a, b), (b, a)):
            same = self.item[there] == partner[self.item[here]]
            explained[here[same & (2 * both >= self.area[here])]] = True
        score = both / (self.area[a] + self.area[b] - both)
        open_ = (self.border[a] | self.border[b]) & ~explained[a] & ~explained[b]
        keep = best_for_both(a, b, np.where(open_, score, 0.0), least)
        return a[keep], b[keep]


def _pieces(runs: Runs, strips: np.ndarray) -> _Pieces:
    """Pieces of each item that hang together by pixels' sides.

    By sides, not corners: a predictor that joins pixels by corners has the same pieces in both tiles, and so has one that
    does not.
    """
    items = np.unique(runs.item)
    _, left, right, _ = meet(runs, runs, items, items, dx=1)
    stacked = np.flatnonzero((np.diff(runs.item) == 0) & (np.diff(runs.x) == 0) & (runs.y0[1:] == runs.y1[:-1]))
    piece = components(len(runs), np.concatenate([left, stacked]), np.concatenate([right, stacked + 1]))
    strip = strips[runs.item]
    on_border = (runs.x == strip[:, 0]) | (runs.x == strip[:, 2] - 1) | (runs.y0 == strip[:, 1]) | (runs.y1 == strip[:, 3])
    border = np.zeros(len(runs), dtype=bool)
    border[piece[on_border]] = True
    return _Pieces(runs.item, piece, np.bincount(piece, runs.lengths, len(runs)).astype(np.int64), border)
