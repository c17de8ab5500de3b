"""Windows drawn at random: larger than the picture, around objects, or of a fixed size. Choosing is all that happens here.

All windows are in picture pixels and may be given to `view.cut`.
"""

from __future__ import annotations

import numpy as np

from rayseg.geometry import Size, Window

ATTEMPTS = 50
"""Windows that are tried for each threshold."""
THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)


def expansion(size: Size, rng: np.random.Generator, *, most: float = 4.0) -> Window:
    """A window 1 to `most` times as wide and high that holds the whole picture somewhere inside.

    Liu et al., "SSD", ECCV 2016, section 3.6: small objects become more frequent.
    """
    ratio = rng.uniform(1.0, most)
    height, width = int(size.height * ratio), int(size.width * ratio)
    x0, y0 = -int(rng.integers(0, width - size.width + 1)), -int(rng.integers(0, height - size.height + 1))
    return Window(x0, y0, x0 + width, y0 + height)


def crop_by_iou(boxes_xyxy: np.ndarray, size: Size, rng: np.random.Generator) -> Window:
    """A window that overlaps some object well enough, and holds the centre of some object.

    How well is drawn first: not at all cut, or an IoU of window and box of at least one of THRESHOLDS. Sides are 0.3 to 1
    of the picture's, or so changed that their ratio differs by up to 2. Liu et al., "SSD", ECCV 2016, section 2.2; as
    PaddleDetection has it, thresholds for which no window is found are passed over.

    Args:
        boxes_xyxy: (G, 4), picture pixels. Without any the picture stays whole.
    """
    if len(boxes_xyxy) == 0:
        return Window.of(size)
    for choice in rng.permutation(len(THRESHOLDS) + 1):
        if choice == len(THRESHOLDS):
            return Window.of(size)
        windows = _windows(size, rng)
        holds = _centres_in(boxes_xyxy, windows).any(axis=1)
        good = np.flatnonzero((_iou(windows, boxes_xyxy).max(axis=1) >= THRESHOLDS[choice]) & holds)
        if good.size:
            return Window(*windows[good[0]].tolist())
    return Window.of(size)


def crop_of(picture: Size, size: Size, rng: np.random.Generator) -> Window:
    """A window of `size` inside the picture; where the picture is smaller, all of it at the top left."""
    x0 = int(rng.integers(0, max(0, picture.width - size.width) + 1))
    y0 = int(rng.integers(0, max(0, picture.height - size.height) + 1))
    return Window(x0, y0, x0 + size.width, y0 + size.height)


def _windows(size: Size, rng: np.random.Generator) -> np.ndarray:
    """int64 (ATTEMPTS, 4), xyxy, inside the picture, at least a pixel each."""
    scale = rng.uniform(0.3, 1.0, ATTEMPTS)
    aspect = rng.uniform(np.maximum(0.5, scale**2), np.minimum(2.0, scale**-2))
    width = np.clip(size.width * scale * np.sqrt(aspect), 1, size.width).astype(np.int64)
    height = np.clip(size.height * scale / np.sqrt(aspect), 1, size.height).astype(np.int64)
    x0, y0 = rng.integers(0, size.width - width + 1), rng.integers(0, size.height - height + 1)
    return np.stack([x0, y0, x0 + width, y0 + height], axis=1)


def _iou(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(A, 4) and (G, 4) -> (A, G)."""
    low = np.maximum(windows[:, None, :2], boxes[None, :, :2])
    high = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (windows, boxes)]
    return common / (areas[0][:, None] + areas[1][None, :] - common)


def _centres_in(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(G, 4) and (A, 4) -> bool (A, G)."""
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2)[None]
    return ((centres >= windows[:, None, :2]) & (centres < windows[:, None, 2:])).all(axis=2)
