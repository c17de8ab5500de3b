"""Runs of pixels -> closed rings along pixel edges, grouped into polygons with holes, all masks of a batch at once.

The masks are laid side by side on one long strip with an empty column between them; then every step but the walk along the
rings is an operation on whole arrays. The idea: on a vertical grid line the outline's corners, sorted by row, pair up into its
vertical edges, and on a horizontal line, sorted by column, into its horizontal ones.

Pixels that meet at a corner only are not connected, neither in an object nor in a hole: there the outline follows each pixel
on its own, and a ring that comes through one corner twice is cut into two. So every ring is simple, rings share corners at
most, and polygons are valid. What polygons are made of is left to rayseg.geo.shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayseg.tiling.runs import Runs


@dataclass(frozen=True, eq=False)
class Rings:
    """Polygons in the order of their masks; the first ring of each is its outer one.

    Attributes:
        xy: int64 (n, 2), corners in scene pixels; the first of a ring is repeated at its end.
        ring_starts: int64 (rings + 1,), of each ring in `xy`.
        polygon_starts: int64 (polygons + 1,), of each polygon in the rings.
        mask: int64 (polygons,), which mask a polygon belongs to.
    """

    xy: np.ndarray
    ring_starts: np.ndarray
    polygon_starts: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class _Corners:
    """Corners of all outlines on the strip, sorted by column and row: 2 i and 2 i + 1 end the vertical edge i.

    A place where two pixels meet at a corner only is two corners, the first above the second.
    """

    x: np.ndarray
    y: np.ndarray
    downwards: np.ndarray  # bool (edges,): the object lies to the right of the edge, which is walked downwards
    touches: np.ndarray  # the first of each pair of corners at one place
    flip: np.ndarray  # bool, of each such pair: upper right and lower left pixel belong to the object, not the other two


def trace(runs: Runs, windows: np.ndarray) -> Rings:
    """The outlines of all masks.

    Args:
        runs: of masks 0 to n - 1, inside their windows.
        windows: int64 (n, 4), x0, y0, x1, y1 in scene pixels.
    """
    if not len(runs):
        nothing = np.empty(0, dtype=np.int64)
        return Rings(np.empty((0, 2), dtype=np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), nothing)
    left = np.concatenate([[0], np.cumsum(windows[:, 2] - windows[:, 0] + 1)])  # of each mask on the strip
    runs = _joined(runs)
    run_x, top = runs.x - windows[runs.item, 0] + left[runs.item], windows[runs.item, 1]
    y0, y1 = runs.y0 - top, runs.y1 - top
    corners = _corners(run_x, y0, y1)
    across = _horizontal_edges(corners)
    tail, head = _vertical_edges(corners)
    order, starts = _cut_touching(corners, *_walk(tail, head, across))
    outer = _is_outer(corners, order, starts)
    parent = _nest(corners, across, order, starts, outer, run_x, y0)
    mask = np.searchsorted(left, corners.x[order[starts[:-1]]], side="right") - 1
    sort = np.lexsort((~outer, parent, mask))  # rings of one polygon together, the outer one first
    flat, ring_starts = _closed(starts, sort)
    places, outer, mask = order[flat], outer[sort], mask[sort]
    from_strip = np.stack([windows[mask, 0] - left[mask], windows[mask, 1]], axis=1)
    xy = np.stack([corners.x[places], corners.y[places]], axis=1) + np.repeat(from_strip, np.diff(ring_starts), axis=0)
    return Rings(xy, ring_starts, np.append(np.flatnonzero(outer), outer.size), mask[outer])


def _joined(runs: Runs) -> Runs:
    """Runs that touch within a column as one; a COCO string may hold a run of no zeros between two of ones."""
    goes_on = (np.diff(runs.item) == 0) & (np.diff(runs.x) == 0) & (runs.y0[1:] == runs.y1[:-1])
    if not goes_on.any():
        return runs
    begins, ends = np.append(True, ~goes_on), np.append(~goes_on, True)
    return Runs(runs.item[begins], runs.x[begins], runs.y0[begins], runs.y1[ends])


def _corners(x: np.ndarray, y0: np.ndarray, y1: np.ndarray) -> _Corners:
    """Ends of runs that are no corner, because the run beside them ends there alike, cancel out."""
    tall = int(y1.max()) + 1
    ends = []
    for line, side in ((x + 1, 0), (x, 1)):  # side: the run lies left (0) or right (1) of the grid line
        ends += [((line * tall + y) * 2 + is_end) * 2 + side for y, is_end in ((y0, 0), (y1, 1))]
    key = np.sort(np.concatenate(ends))
    same = (key[1:] >> 1) == (key[:-1] >> 1)
    key = key[~(np.append(same, False) | np.append(False, same))]
    place, is_end, right = key >> 2, (key >> 1) & 1, key & 1
    touches = np.flatnonzero(place[1:] == place[:-1])
    # Below a start the object lies on the run's own side of the line, below an end on the other.
    return _Corners(place // tall, place % tall, (right ^ is_end)[0::2] == 1, touches, right[touches] == 0)


def _vertical_edges(corners: _Corners) -> tuple[np.ndarray, np.ndarray]:
    """(corner each edge starts from, corner it leads to)."""
    upper = np.arange(0, corners.x.size, 2)
    return np.where(corners.downwards, upper, upper + 1), np.where(corners.downwards, upper + 1, upper)


def _horizontal_edges(corners: _Corners) -> np.ndarray:
    """int64 (edges, 2): left and right corner of each, sorted by row and column."""
    second = np.zeros(corners.x.size, dtype=np.int64)
    second[corners.touches + ~corners.flip] = 1  # of two corners at one place, the one that belongs to the edge on the right
    wide = int(corners.x.max()) + 1
    return np.argsort((corners.y * wide + corners.x) * 2 + second).reshape(-1, 2)


def _walk(tail: np.ndarray, head: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(corners in the order of the rings, start of each ring and the end)."""
    partner = np.empty(tail.size * 2, dtype=np.int64)
    partner[across[:, 0]], partner[across[:, 1]] = across[:, 1], across[:, 0]
    following = (partner[head] // 2).tolist()
    seen = bytearray(len(following))
    edges: list[int] = []
    starts = [0]
    for first, known in enumerate(seen):
        if known:
            continue
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            edges.append(edge)
            edge = following[edge]
        starts.append(len(edges))
    walked = np.asarray(edges, dtype=np.int64)
    return np.stack([tail[walked], head[walked]], axis=1).reshape(-1), 2 * np.asarray(starts, dtype=np.int64)


def _cut_touching(corners: _Corners, order: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rings that come through one place twice, cut there."""
    ring = np.empty(order.size, dtype=np.int64)
    ring[order] = np.repeat(np.arange(starts.size - 1), np.diff(starts))
    twice = ring[corners.touches][ring[corners.touches] == ring[corners.touches + 1]]
    if not twice.size:
        return order, starts
    place = np.arange(order.size)
    place[corners.touches + 1] = corners.touches
    rest = np.ones(starts.size - 1, dtype=bool)
    rest[twice] = False
    parts = [order[np.repeat(rest, np.diff(starts))]]
    lengths = [*np.diff(starts)[rest].tolist()]
    for i in np.flatnonzero(~rest).tolist():
        loops = _simple_loops(order[starts[i] : starts[i + 1]].tolist(), place)
        parts += [np.asarray(loop, dtype=np.int64) for loop in loops]
        lengths += [len(loop) for loop in loops]
    return np.concatenate(parts), np.concatenate([[0], np.cumsum(lengths)])


def _simple_loops(ring: list[int], place: np.ndarray) -> list[list[int]]:
    loops: list[list[int]] = []
    path: list[int] = []
    position: dict[int, int] = {}  # of a place in the path
    for corner, here in zip(ring, place[ring].tolist(), strict=True):
        if here in position:
            cut = position[here]
            loops.append(path[cut:])
            for done in place[path[cut:]].tolist():
                del position[done]
            del path[cut:]
        position[here] = len(path)
        path.append(corner)
    return [*loops, path]


def _is_outer(corners: _Corners, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """bool (rings,): the walk goes round an object one way and round a hole the other; the shoelace formula tells which."""
    after = np.arange(1, order.size + 1)
    after[starts[1:] - 1] = starts[:-1]
    x, y = corners.x[order], corners.y[order]
    return np.add.reduceat(x * y[after] - x[after] * y, starts[:-1]) < 0


def _nest(
    corners: _Corners,
    across: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    outer: np.ndarray,
    run_x: np.ndarray,
    run_y: np.ndarray,
) -> np.ndarray:
    """int64 (rings,): the outer ring each belongs to; itself for an outer one.

    A hole hangs on the ring met first when going from its leftmost edge one pixel to the left and up to the start of the run
    there. That ring reaches further left than the hole, so the chain ends, at an outer one.
    """
    parent = np.arange(outer.size)
    holes = np.flatnonzero(~outer)
    if not holes.size:
        return parent
    first = np.minimum.reduceat(order, starts[:-1])[holes]  # corners are sorted: the topmost of the leftmost
    tall = int(corners.y.max()) + 1
    run = np.searchsorted(run_x * tall + run_y, (corners.x[first] - 1) * tall + corners.y[first], side="right") - 1
    wide = int(corners.x.max()) + 1
    left_ends = corners.y[across[:, 0]] * wide + corners.x[across[:, 0]]
    edge = across[np.searchsorted(left_ends, run_y[run] * wide + run_x[run], side="right") - 1, 0]
    # At a corner where a ring was cut the edge may belong to its other part: that is of the same polygon.
    ring_of = np.empty(order.size, dtype=np.int64)
    ring_of[order] = np.repeat(parent, np.diff(starts))
    parent[holes] = ring_of[edge]
    while not outer[parent].all():
        parent = parent[parent]
    return parent


def _closed(starts: np.ndarray, sort: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(positions of the corners of all rings in a new order, the first of each repeated; start of each ring and the end)."""
    lengths = np.diff(starts)[sort]
    ring_starts = np.concatenate([[0], np.cumsum(lengths + 1)])
    nth = np.arange(ring_starts[-1]) - np.repeat(ring_starts[:-1], lengths + 1)
    return np.repeat(starts[:-1][sort], lengths + 1) + nth % np.repeat(lengths, lengths + 1), ring_starts
