"""Drawn scenes, and what a predictor would report of their tiles: masks to be joined, and the truth to judge them by.

Discs, discs that touch in pairs, bars that cross several tiles, and rivers that cross the scene. This runs in environments
without rayseg, and leaves joining and judging to others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CELL_PX, BAR_PX, RIVER_PX = 48, 10, 9
DISC, BAR, RIVER = 0, 1, 2
CORE_PX = 2  # noise moves no edge farther; what is left of an object then is what any right answer holds


@dataclass(frozen=True)
class Masks:
    """Objects or fragments: of each its window, int64 (n, 4), x0, y0, x1, y1 in scene pixels, and its mask in that window."""

    windows: np.ndarray
    masks: list[np.ndarray]

    def save(self, path: Path, **columns: np.ndarray) -> None:
        bits = [np.packbits(mask) for mask in self.masks]
        np.savez(path, windows=self.windows, bits=np.concatenate(bits) if bits else np.empty(0, np.uint8), **columns)

    @classmethod
    def load(cls, file: Any) -> Masks:
        windows, bits, masks, start = file["windows"], file["bits"], [], 0
        for x0, y0, x1, y1 in windows.tolist():
            n = (x1 - x0) * (y1 - y0)
            stop = start + (n + 7) // 8
            masks.append(np.unpackbits(bits[start:stop], count=n).astype(bool).reshape(y1 - y0, x1 - x0))
            start = stop
        return cls(windows, masks)


def draw(n_objects: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scene: int32 (H, W), 0 or the number of an object; kinds by number; windows by number, int64 (n, 4).

    Objects of which too little is left to judge by are taken out again: their kind is -1.
    """
    rng = np.random.default_rng([seed, n_objects])
    side = math.ceil(math.sqrt(n_objects))
    size = side * CELL_PX
    canvas = np.zeros((size, size), dtype=np.int32)
    kinds, windows = [-1], [(0, 0, 0, 0)]

    def add(kind: int, x0: float, y0: float, x1: float, y1: float) -> int:
        kinds.append(kind)
        windows.append((max(0, int(x0) - 2), max(0, int(y0) - 2), min(size, int(x1) + 3), min(size, int(y1) + 3)))
        return len(kinds) - 1

    for cell in range(side * side):
        x, y = cell % side * CELL_PX + CELL_PX // 2, cell // side * CELL_PX + CELL_PX // 2
        if rng.random() < 0.15:  # two that touch
            r = int(rng.integers(7, 11))
            for centre in (x - r - 1, x + r):
                cv2.circle(canvas, (centre, y), r, add(DISC, centre - r, y - r, centre + r, y + r), -1)
        else:
            r = int(rng.integers(6, 21))
            room = max(CELL_PX // 2 - r - 2, 0)
            x, y = x + int(rng.integers(-room, room + 1)), y + int(rng.integers(-room, room + 1))
            cv2.circle(canvas, (x, y), r, add(DISC, x - r, y - r, x + r, y + r), -1)
    for _ in range(max(1, n_objects // 100)):
        angle, half = rng.uniform(0, math.pi), rng.uniform(200, 700)
        (x, y), (dx, dy) = rng.uniform(0, size, 2), (half * math.cos(angle), half * math.sin(angle))
        reach_x, reach_y = abs(dx) + BAR_PX, abs(dy) + BAR_PX
        number = add(BAR, x - reach_x, y - reach_y, x + reach_x, y + reach_y)
        ends = [(round(x - dx), round(y - dy)), (round(x + dx), round(y + dy))]
        cv2.line(canvas, *ends, number, BAR_PX)
    place = np.arange(size)
    for k in range(4):  # two each way; those from left to right lie on top
        course = size * (0.3 + 0.4 * (k % 2)) + min(150, size / 8) * np.sin(place / 180 + k)
        box = (0, course.min() - RIVER_PX, size, course.max() + RIVER_PX)
        number = add(RIVER, *(box if k > 1 else (box[1], box[0], box[3], box[2])))
        line = np.stack([place, course] if k > 1 else [course, place], axis=1)
        cv2.polylines(canvas, [np.rint(line).astype(np.int32)], False, number, RIVER_PX)
    kind, window = np.asarray(kinds), np.asarray(windows, dtype=np.int64)
    for number in range(1, len(kind)):
        view = cut(canvas, window[number])
        mask = view == number
        if not core(mask).any():
            view[mask], kind[number], mask[:] = 0, -1, False
        window[number] = tight(mask, window[number])
    return canvas, kind, window


def cut(canvas: np.ndarray, window: np.ndarray) -> np.ndarray:
    """A view of a window, (h, w)."""
    return canvas[window[1] : window[3], window[0] : window[2]]


def core(mask: np.ndarray) -> np.ndarray:
    """A mask less what lies within CORE_PX of anything else."""
    kernel = np.ones((2 * CORE_PX + 1, 2 * CORE_PX + 1), np.uint8)
    return cv2.erode(np.pad(mask, CORE_PX).astype(np.uint8), kernel)[CORE_PX:-CORE_PX, CORE_PX:-CORE_PX] > 0


def tight(mask: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The smallest window around a mask that lies in `window`."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.zeros(4, dtype=np.int64)
    x0, y0 = window[:2]
    return np.asarray([x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1], dtype=np.int64)


def fragments(
    canvas: np.ndarray, kind: np.ndarray, window: np.ndarray, tiles: np.ndarray, *, noisy: bool, seed: int
) -> tuple[Masks, dict[str, np.ndarray]]:
    """What a predictor reports of each tile, int64 (n, 4): masks, and columns `tile`, `class_id` and `score`."""
    rng = np.random.default_rng([seed, noisy])
    size = canvas.shape[0]
    areas = np.asarray([0, *((cut(canvas, window[k]) == k).sum() for k in range(1, len(kind)))])
    rows: list[tuple[int, int, float]] = []
    windows, masks = [], []
    for index, tile in enumerate(tiles):
        meets = (np.maximum(window[:, :2], tile[:2]) < np.minimum(window[:, 2:], tile[2:])).all(axis=1) & (kind >= 0)
        for number in np.flatnonzero(meets):
            here = np.concatenate([np.maximum(window[number, :2], tile[:2]), np.minimum(window[number, 2:], tile[2:])])
            share = (cut(canvas, here) == number).sum() / areas[number]
            if not share:
                continue
            score = 0.3 + 0.6 * share
            if noisy:
                score = float(np.clip(score + rng.uniform(-0.1, 0.1), 0.05, 0.95))
                # A little beyond the tile, so that its edge is not taken for the object's.
                wide = np.concatenate([np.maximum(here[:2] - 3, 0), np.minimum(here[2:] + 3, size)])
                mask = disturbed(cut(canvas, wide) == number, rng)
                here = np.concatenate([np.maximum(wide[:2], tile[:2]), np.minimum(wide[2:], tile[2:])])
                mask = mask[here[1] - wide[1] : here[3] - wide[1], here[0] - wide[0] : here[2] - wide[0]]
                if mask.sum() < 20:
                    continue
            else:
                mask = cut(canvas, here) == number
            box = tight(mask, here)
            masks.append(mask[box[1] - here[1] : box[3] - here[1], box[0] - here[0] : box[2] - here[0]])
            windows.append(box)
            rows.append((index, int(kind[number]), score))
    tile_of, class_id, score_of = zip(*rows, strict=True)
    columns = {"tile": np.asarray(tile_of), "class_id": np.asarray(class_id), "score": np.asarray(score_of)}
    return Masks(np.stack(windows), masks), columns


def disturbed(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grown or shrunk by a pixel, or neither, and moved by up to one."""
    kernel, drawn = np.ones((3, 3), np.uint8), np.pad(mask, 2).astype(np.uint8)
    match rng.integers(0, 3):
        case 0:
            drawn = cv2.erode(drawn, kernel)
        case 1:
            drawn = cv2.dilate(drawn, kernel)
    dy, dx = rng.integers(-1, 2, 2)
    return drawn[2 - dy : 2 - dy + mask.shape[0], 2 - dx : 2 - dx + mask.shape[1]] > 0
