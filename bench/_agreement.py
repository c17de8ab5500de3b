"""Are two sets of results of the same images the same? Objects are paired; what has no partner, and pixels that differ, count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rayseg import rle
from rayseg.geometry import Size

BOX_PX, SCORE = 2.0, 0.01  # partners are no farther apart than this


@dataclass(frozen=True)
class Found:
    """What was found in one image: a label map, or else objects.

    Attributes:
        rows: float64 (n, 6): class, score, xyxy.
        masks: n masks, bool (H, W).
        label_map: int (H, W).
    """

    rows: np.ndarray
    masks: list[np.ndarray]
    label_map: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.label_map is None else len(np.unique(self.label_map))


def of_paddlex(folder: Path, sizes: Mapping[str, Size]) -> dict[str, Found]:
    """Results kept by _paddlex.py, by the image's file name; masks are put back where PaddleX cut them out."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            if "label_map" in file:
                found[path.stem] = Found(np.empty((0, 6)), [], file["label_map"])
                continue
            rows = file["rows"]
            masks = [_pasted(file[f"mask_{i}"], rows[i, 2:], sizes[path.stem]) for i in range(len(rows))]
            found[path.stem] = Found(rows, masks)
    return found


def _pasted(crop: np.ndarray, xyxy: np.ndarray, size: Size) -> np.ndarray:
    out = np.zeros(size.hw, dtype=bool)
    x0, y0, x1, y1 = (round(float(v)) for v in xyxy.astype(np.float32))
    if out[y0:y1, x0:x1].shape == crop.shape:  # else it is another object's: it stays empty and differs
        out[y0:y1, x0:x1] = crop
    return out


def of_rayseg(out: Path) -> tuple[dict[str, Found], dict[str, Size]]:
    """Results of a job, and the sizes of its images, by the image's file name."""
    ledger = pq.read_table(out / "images").to_pylist()
    sizes = {Path(row["uri"]).name: Size(row["height"], row["width"]) for row in ledger if row["status"] == "ok"}
    objects: dict[str, list[dict[str, Any]]] = {name: [] for name in sizes}
    for row in pq.read_table(out / "objects").to_pylist():
        objects[Path(row["uri"]).name].append(row)
    return {name: _of_rows(rows, sizes[name]) for name, rows in objects.items()}, sizes


def _of_rows(rows: list[dict[str, Any]], size: Size) -> Found:
    masks = [rle.decode(rle.Rle(size, row["rle_counts"].encode("ascii"))) > 0 for row in rows]
    if not any(row["score"] is None for row in rows):
        columns = ("class_id", "score", "x0", "y0", "x1", "y1")
        return Found(np.asarray([[row[name] for name in columns] for row in rows], dtype=np.float64).reshape(-1, 6), masks)
    label_map = np.full(size.hw, -1)
    for row, mask in zip(rows, masks, strict=True):
        label_map[mask] = row["class_id"]
    return Found(np.empty((0, 6)), [], label_map)


def compare(one: Mapping[str, Found], other: Mapping[str, Found]) -> dict[str, int | float]:
    """Over the images that both have; for label maps, the objects are classes present, and none is paired.

    Returns:
        images, objects (of the one), objects_other; alone, alone_other: without a partner of the same class, within BOX_PX at
        each edge of the box and SCORE; differing: pairs with a pixel or more of difference; pixels of the one's masks, of
        label maps all of them; pixels_differing, of pairs or label maps; score_differs_by, box_differs_by_px: at most, of pairs.
    """
    names = sorted(set(one) & set(other))
    total = dict.fromkeys(("objects", "objects_other", "alone", "alone_other", "differing", "pixels", "pixels_differing"), 0)
    worst = {"score_differs_by": 0.0, "box_differs_by_px": 0.0}
    for name in names:
        a, b = one[name], other[name]
        total["objects"] += len(a)
        total["objects_other"] += len(b)
        if a.label_map is not None:
            assert b.label_map is not None
            total["pixels"] += a.label_map.size
            total["pixels_differing"] += int((a.label_map != b.label_map).sum())
            continue
        pairs = _paired(a.rows, b.rows)
        total["alone"] += len(a) - len(pairs)
        total["alone_other"] += len(b) - len(pairs)
        total["pixels"] += sum(int(mask.sum()) for mask in a.masks)
        for i, j in pairs:
            differing = int((a.masks[i] != b.masks[j]).sum())
            total["differing"] += differing > 0
            total["pixels_differing"] += differing
            apart = np.abs(a.rows[i] - b.rows[j])
            worst["score_differs_by"] = max(worst["score_differs_by"], float(apart[1]))
            worst["box_differs_by_px"] = max(worst["box_differs_by_px"], float(apart[2:].max()))
    return {"images": len(names), **total, **{key: float(f"{value:.3g}") for key, value in worst.items()}}


def _paired(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Nearest first, each row once."""
    apart = np.maximum(
        np.abs(a[:, None, 2:] - b[None, :, 2:]).max(axis=-1) / BOX_PX, np.abs(a[:, None, 1] - b[None, :, 1]) / SCORE
    )
    apart[(a[:, None, 0] != b[None, :, 0]) | (apart > 1)] = np.inf
    pairs = []
    for flat in np.argsort(apart, axis=None, kind="stable")[: np.isfinite(apart).sum()]:
        i, j = divmod(int(flat), len(b))
        if np.isfinite(apart[i, j]):
            pairs.append((i, j))
            apart[i], apart[:, j] = np.inf, np.inf
    return pairs
