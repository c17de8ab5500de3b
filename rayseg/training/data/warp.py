"""Moving masks by an affine map, each inside its own window. Shared by all that looks at a sample in another way."""

from __future__ import annotations

import cv2
import numpy as np

from rayseg.datasets.sample import Patch, tight_patch
from rayseg.geometry import Size


def warp_patch(patch: Patch, matrix: np.ndarray, size: Size) -> Patch | None:
    """Where an object is after an affine map: the pixels of which it covers half, by linear interpolation.

    Args:
        matrix: float64 (2, 3), image to picture, for points (x, y) with pixel centres at +0.5.
        size: of the picture; what falls outside is lost.

    Returns:
        None when nothing is left.
    """
    window = patch.window
    corners = np.array([[x, y, 1.0] for x in (window.x0, window.x1) for y in (window.y0, window.y1)]) @ matrix.T
    x0, y0 = np.clip(np.floor(corners.min(axis=0)), 0, size.wh).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)), 0, size.wh).astype(int)
    if x1 <= x0 or y1 <= y0:
        return None
    local = matrix.copy()
    local[:, 2] += matrix[:, :2] @ [window.x0, window.y0] - [x0, y0]
    soft = cv2.warpAffine(patch.bits.astype(np.uint8) * 255, to_cv(local), (int(x1 - x0), int(y1 - y0)))
    return tight_patch(soft > 127, x0=int(x0), y0=int(y0))


def to_cv(matrix: np.ndarray) -> np.ndarray:
    """OpenCV puts pixel centres at whole numbers; we put them at +0.5."""
    out = matrix.copy()
    out[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    return out
