"""Order in which what lies near each other on a plane lies near each other in a file: along a Hilbert curve."""

from __future__ import annotations

import numpy as np


def hilbert_index(x: np.ndarray, y: np.ndarray, *, bits: int = 16) -> np.ndarray:
    """Place of points along a Hilbert curve through their bounding square.

    Each turn of the loop takes one bit of both coordinates, which is the quadrant, and turns what is left so that the curve
    runs in the quadrant as it does in the whole (Hilbert 1891).

    Args:
        x, y: float64 (n,), finite.
        bits: the square is divided into 2**bits cells on each side; at most 31.

    Returns:
        int64 (n,), at least 0, the same for points in one cell.
    """
    if not x.size:
        return np.empty(0, dtype=np.int64)
    side = max(float(np.ptp(x)), float(np.ptp(y))) or 1.0
    last = (1 << bits) - 1
    u = ((x - x.min()) / side * last).astype(np.int64)
    v = ((y - y.min()) / side * last).astype(np.int64)
    index = np.zeros(x.size, dtype=np.int64)
    for bit in range(bits - 1, -1, -1):
        right, up = (u >> bit) & 1 == 1, (v >> bit) & 1 == 1
        index = (index << 2) | np.where(up, np.where(right, 2, 1), np.where(right, 3, 0))
        mirrored = ~up & right
        u, v = np.where(mirrored, last - u, u), np.where(mirrored, last - v, v)
        u, v = np.where(up, u, v), np.where(up, v, u)
    return index
