"""A semantic data set anybody can learn: noisy pictures, each with a bright square, as PaddleX lays them out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def squares(root: Path, n: int, *, val: int, side: int = 64) -> Path:
    """`n` pictures to train with and `val` to score on; class 1 is the square."""
    rng = np.random.default_rng(0)
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True)
    lines = []
    for index in range(n + val):
        picture, mask = rng.integers(0, 60, (side, side, 3), dtype=np.uint8), np.zeros((side, side), np.uint8)
        y, x = rng.integers(0, side // 2, 2)
        picture[y : y + side // 2, x : x + side // 2] += 180
        mask[y : y + side // 2, x : x + side // 2] = 1
        cv2.imwrite(str(root / "images" / f"{index}.png"), picture)
        cv2.imwrite(str(root / "annotations" / f"{index}.png"), mask)
        lines.append(f"images/{index}.png annotations/{index}.png\n")
    (root / "train.txt").write_text("".join(lines[:n]))
    (root / "val.txt").write_text("".join(lines[n:]))
    return root
