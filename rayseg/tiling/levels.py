"""Two looks at a scene, fine and coarse, made one: objects too long for any fine tile come from the coarse look.

No fine tile can have seen an object whole that is longer than a tile; what the fine look made of it is pieces. So a coarse
object that is longer takes the place of the fine ones of its class that lie in it for the most part. Of all else the fine
look knows better, and coarse objects up to that length are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from rayseg.tiling.fragments import masks_of, windows_of
from rayseg.tiling.objects import SCENE_OBJECTS
from rayseg.tiling.runs import Runs, decode, meet

WITHIN_SHARE = 0.7
"""A fine object is a piece of a coarse one when at least this share of it lies inside."""


@dataclass(frozen=True, eq=False)
class LargeObjects:
    """Coarse objects that replace fine ones.

    Attributes:
        objects: rows of the objects table; few, and held in memory.
    """

    objects: pa.Table = field(default_factory=SCENE_OBJECTS.empty_table)

    @classmethod
    def longer_than(cls, found: pa.Table, length_px: int) -> LargeObjects:
        """Those of some stitched objects whose window is longer than that on its longer side."""
        windows = windows_of(found)
        return cls(found.filter(pa.array((windows[:, 2:] - windows[:, :2]).max(axis=1, initial=0) > length_px)))

    @property
    def key(self) -> Sequence[str]:
        """Changes when the objects do."""
        return [f"{row['class_id']} {row['x0']} {row['y0']} {row['area_px']}" for row in self.objects.to_pylist()]

    def without_parts(self, found: pa.Table) -> pa.Table:
        """Fine objects, without those that lie in a large one of their class."""
        if not found.num_rows or not self.objects.num_rows:
            return found
        windows, large = windows_of(found), windows_of(self.objects)
        same = found["class_id"].to_numpy()[:, None] == self.objects["class_id"].to_numpy()
        touch = (windows[:, None, :2] < large[None, :, 2:]).all(axis=2) & (large[None, :, :2] < windows[:, None, 2:]).all(axis=2)
        fine, coarse = np.nonzero(same & touch)
        if not fine.size:
            return found
        needed, place = np.unique(fine, return_inverse=True)
        some = found.take(pa.array(needed))
        runs = decode(masks_of(some), windows[needed])
        pair, _, _, shared = meet(runs, self._runs, place, coarse)
        inside = np.bincount(pair, shared, len(fine))
        area = found["area_px"].to_numpy()[fine]
        part = np.zeros(found.num_rows, dtype=bool)
        part[fine[inside >= WITHIN_SHARE * area]] = True
        return found.filter(pa.array(~part))

    @cached_property
    def _runs(self) -> Runs:
        return decode(masks_of(self.objects), windows_of(self.objects))
