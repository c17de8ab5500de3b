"""Objects of a scene from the fragments of its tiles: row by row, or part by part in any order, with the same result.

A part is a stretch of rows of tiles. What lies in it and can be touched by no tile of another row is finished; the rest stays
open, as fragments, until the part is joined with its neighbour. So memory is that of the objects on the seams between rows,
and an object is handed out as soon as no later row can reach it. Joining is associative: the rows one after another, or
halves of the scene on two machines. The order in which fragments come makes no difference.

Which fragments belong together is told in seams.py, what is made of them in assemble.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from rayseg.errors import ConfigError
from rayseg.tiling.assemble import assemble, in_order, unchanged
from rayseg.tiling.fragments import check, windows_of
from rayseg.tiling.grid import Grid
from rayseg.tiling.groups import components
from rayseg.tiling.objects import SCENE_OBJECTS
from rayseg.tiling.seams import SeamRule, links


@dataclass(frozen=True)
class SeamStats:
    """What happened at the seams.

    Attributes:
        fragments: that came in.
        objects: that were finished.
        joined: objects among them that were made of two fragments or more.
        dropped: fragments left out, cut and outside their tile's core, that no tile in charge confirmed.
    """

    fragments: int = 0
    objects: int = 0
    joined: int = 0
    dropped: int = 0

    def __add__(self, other: SeamStats) -> SeamStats:
        return SeamStats(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Part:
    """Some neighbouring rows of tiles, stitched among themselves.

    Attributes:
        first_row, stop_row: the rows, half-open.
        finished: rows of the objects table.
        open: rows of the fragments table, of objects that other rows may add to; sorted by tile and by all else.
        group: int64, one for each open fragment, equal for those of one object.
        stats: of all that went into the part.
    """

    first_row: int
    stop_row: int
    finished: pa.Table
    open: pa.Table
    group: np.ndarray
    stats: SeamStats


@dataclass(frozen=True)
class Stitcher:
    """How one scene is stitched.

    Attributes:
        grid: the tiles the fragments were seen in.
        rule: when two fragments are one object.
        absent: numbers of tiles that could not be predicted; what only their neighbours saw of them is kept.
    """

    grid: Grid
    rule: SeamRule = field(default_factory=SeamRule)
    absent: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.grid.overlap_px == 0 and len(self.grid) > 1:
            raise ConfigError(
                f"overlap_px is 0 with {len(self.grid)} tiles: tiles that share no pixel cannot be stitched into whole "
                "objects. Choose an overlap of at least the width of a usual object"
            )

    def scene(self, fragments: pa.Table) -> Part:
        """All of a scene at once; nothing stays open."""
        return self.part(fragments, 0, len(self.grid.rows))

    def rows(self, tables: Iterable[pa.Table]) -> Iterator[Part]:
        """Row after row, from the top: each part holds what its row finished, and its `open` what is carried on.

        Args:
            tables: the fragments of each row of tiles; an empty table for a row without any.

        Raises:
            ValueError: there are more or fewer tables than rows.
        """
        carried: Part | None = None
        row = -1
        for row, table in enumerate(tables):
            part = self.part(table, row, row + 1)
            if carried is not None:
                part = self.join(replace(carried, finished=SCENE_OBJECTS.empty_table(), stats=SeamStats()), part)
            yield part
            carried = part
        if row + 1 != len(self.grid.rows):
            raise ValueError(f"fragments of {row + 1} rows of tiles were given, the grid has {len(self.grid.rows)}")

    def part(self, fragments: pa.Table, first_row: int, stop_row: int) -> Part:
        """Some rows of tiles among themselves.

        Args:
            fragments: of tiles in these rows, in any order.

        Raises:
            ValueError: a fragment is of no tile in these rows, leaves its tile, or its mask is damaged.
        """
        if not 0 <= first_row < stop_row <= len(self.grid.rows):
            raise ValueError(f"rows {first_row} to {stop_row} are not rows of a grid of {len(self.grid.rows)}")
        check(self.grid, fragments)
        rows = fragments["tile"].to_numpy() // len(self.grid.columns)
        if ((rows < first_row) | (rows >= stop_row)).any():
            raise ValueError(f"fragments of rows {rows.min()} to {rows.max()} in a part of rows {first_row} to {stop_row}")
        shared = self._shared(fragments)
        inner, seam = fragments.filter(pa.array(~shared)), fragments.filter(pa.array(shared))
        seam = seam.take(pa.array(in_order(seam)))
        group = components(len(seam), *links(self.grid, seam, self.rule))
        stats = SeamStats(fragments=len(fragments), objects=len(inner))
        return self._settle(first_row, stop_row, unchanged(inner), seam, group, stats)

    def join(self, left: Part, right: Part) -> Part:
        """Two neighbouring parts as one.

        Raises:
            ValueError: the second part does not begin where the first ends.
        """
        if left.stop_row != right.first_row:
            raise ValueError(f"a part that ends before row {left.stop_row} cannot be joined with one from row {right.first_row}")
        fragments = pa.concat_tables([left.open, right.open])
        offset = int(left.group.max(initial=-1)) + 1
        group = np.concatenate([left.group, right.group + offset])
        below = self.grid.rows.starts[right.first_row] < windows_of(left.open)[:, 3]
        above = self.grid.rows.stops[left.stop_row - 1] > windows_of(right.open)[:, 1]
        near = np.flatnonzero(np.concatenate([below, above]))
        # Both are in order, and tiles of later rows come later: together they are in order too.
        first, second = links(self.grid, fragments.take(pa.array(near)), self.rule, across=right.first_row)
        _, group = np.unique(group, return_inverse=True)
        n_groups = int(group.max(initial=-1)) + 1
        group = components(n_groups, group[near[first]], group[near[second]])[group]
        finished = pa.concat_tables([left.finished, right.finished])
        return self._settle(left.first_row, right.stop_row, finished, fragments, group, left.stats + right.stats)

    def _shared(self, fragments: pa.Table) -> np.ndarray:
        """Fragments that lie in more than one tile, bool (n,)."""
        windows = windows_of(fragments)
        rows, columns = (
            self.grid.rows.meeting(windows[:, 1], windows[:, 3]),
            self.grid.columns.meeting(windows[:, 0], windows[:, 2]),
        )
        return (rows[1] - rows[0] > 1) | (columns[1] - columns[0] > 1)

    def _settle(
        self, first_row: int, stop_row: int, finished: pa.Table, fragments: pa.Table, group: np.ndarray, stats: SeamStats
    ) -> Part:
        """Finish the objects that no row outside can reach."""
        windows, rows = windows_of(fragments), self.grid.rows
        reached = np.zeros(len(fragments), dtype=bool)
        if first_row > 0:
            reached |= windows[:, 1] < rows.stops[first_row - 1]
        if stop_row < len(rows):
            reached |= windows[:, 3] > rows.starts[stop_row]
        waits = np.zeros(int(group.max(initial=-1)) + 1, dtype=bool)
        waits[group[reached]] = True
        waiting = waits[group]
        done = fragments.filter(pa.array(~waiting))
        objects, dropped = assemble(self.grid, done, group[~waiting], np.asarray(sorted(self.absent), dtype=np.int64))
        joined = int((objects["n_fragments"].to_numpy() > 1).sum())
        return Part(
            first_row,
            stop_row,
            pa.concat_tables([finished, objects]),
            fragments.filter(pa.array(waiting)),
            group[waiting],
            stats + SeamStats(objects=len(objects), joined=joined, dropped=dropped),
        )
