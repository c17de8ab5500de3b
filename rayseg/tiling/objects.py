"""Stitched objects of a scene: one row each, with the mask inside its own window.

Labels, coordinates on the ground and polygons are added elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayseg.geometry import Window
from rayseg.rle import Rle
from rayseg.tiling.fragments import WINDOW, mask_in

SCENE_OBJECTS = pa.schema(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("x0", pa.int64(), nullable=False),
        pa.field("y0", pa.int64(), nullable=False),
        pa.field("x1", pa.int64(), nullable=False),
        pa.field("y1", pa.int64(), nullable=False),
        pa.field("area_px", pa.int64(), nullable=False),
        pa.field("rle_counts", pa.string(), nullable=False),
        pa.field("n_fragments", pa.int32(), nullable=False),
        pa.field("tiles", pa.list_(pa.int64()), nullable=False),
    ]
)


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        score: in [0, 1]; None for a region of a label map.
        window: the smallest that holds the mask, in scene pixels.
        mask: of the window's size.
        n_fragments: of how many fragments it was made.
        tiles: numbers of the tiles they were seen in, rising; empty for a region of a label map.
    """

    class_id: int
    score: float | None
    window: Window
    mask: Rle
    n_fragments: int
    tiles: tuple[int, ...]


def objects_table(
    class_id: np.ndarray,
    score: np.ndarray | None,
    windows: np.ndarray,
    area_px: np.ndarray,
    counts: pa.Array,
    n_fragments: np.ndarray,
    tiles: tuple[np.ndarray, np.ndarray],
) -> pa.Table:
    """The objects table from its columns.

    Args:
        windows: int64 (n, 4), x0, y0, x1, y1.
        counts: compressed masks, each of its window's size.
        tiles: where each object's list of tiles starts in the second array, (n + 1,), and the tiles of all, one after another.
    """
    n = len(windows)
    columns = {
        "class_id": pa.array(class_id, pa.int32()),
        "score": pa.nulls(n, pa.float32()) if score is None else pa.array(score, pa.float32()),
        **{name: pa.array(windows[:, i], pa.int64()) for i, name in enumerate(WINDOW)},
        "area_px": pa.array(area_px, pa.int64()),
        "rle_counts": counts.cast(pa.string()),
        "n_fragments": pa.array(n_fragments, pa.int32()),
        "tiles": pa.ListArray.from_arrays(pa.array(tiles[0], pa.int32()), pa.array(tiles[1], pa.int64())),
    }
    return pa.table(columns, schema=SCENE_OBJECTS)


def to_objects(table: pa.Table) -> list[SceneObject]:
    """The objects of a table, in its order."""
    out = []
    for row in table.to_pylist():
        window = Window(*(row[name] for name in WINDOW))
        mask = mask_in(window, row)
        out.append(SceneObject(row["class_id"], row["score"], window, mask, row["n_fragments"], tuple(row["tiles"])))
    return out
