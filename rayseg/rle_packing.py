"""COCO's compressed strings of many masks at once, from where their runs begin and end; the masks themselves are rle.py's.

A string holds the lengths of runs of zeros and ones in turn, zeros first: each in groups of five bits with a continuation
bit and 48 added, from the fourth on as the difference to the one two before. The bytes are those of pycocotools.
"""

from __future__ import annotations

import numpy as np

_FIVE_BITS, _MORE, _ASCII = 0x1F, 0x20, 48


def pack_edges(edges: np.ndarray, n_edges: np.ndarray, pixels: np.ndarray) -> tuple[bytes, np.ndarray]:
    """COCO's compressed strings of many masks.

    Args:
        edges: whole numbers (m,), where runs of pixels begin and end, in turn, in flat column-major positions of their mask;
            a run has pixels, and may begin where the one before ends.
        n_edges: int64 (n,), of each mask.
        pixels: int64 (n,), of each whole mask.

    Returns:
        The strings, one after the other, and where each of them begins and the last one ends, int64 (n + 1,).
    """
    # Half the bytes take half the time; a difference of two counts must fit as well.
    edges = edges.astype(np.int32 if pixels.max(initial=0) < 2**30 else np.int64)
    edges, n_edges = _joined(edges, n_edges)
    offset = np.concatenate([[0], np.cumsum(n_edges + 1)])
    tail = offset[1:] - 1
    inner = np.ones(offset[-1], dtype=bool)
    inner[tail] = False
    ends = np.empty(offset[-1], dtype=edges.dtype)
    ends[inner], ends[tail] = edges, pixels
    counts = ends.copy()
    counts[1:] -= ends[:-1]
    counts[offset[:-1]] = ends[offset[:-1]]
    whole = counts[tail] == 0  # the last run reaches the last pixel
    if whole.any():
        inner[tail] = ~whole
        counts, offset = counts[inner], offset - np.concatenate([[0], np.cumsum(whole)])
    return _pack(counts, offset)


def _joined(edges: np.ndarray, n_edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of one mask of which one begins where the other ends, as one."""
    offset = np.concatenate([[0], np.cumsum(n_edges)])
    touch = edges[1:-1:2] == edges[2::2]
    between = offset[(offset > 0) & (offset < len(edges))]
    touch[between // 2 - 1] = False
    if not touch.any():
        return edges, n_edges
    keep = np.ones(len(edges), dtype=bool)
    keep[1:-1:2], keep[2::2] = ~touch, ~touch
    return edges[keep], np.diff(np.concatenate([[0], np.cumsum(keep)])[offset])


def _pack(counts: np.ndarray, offset: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Compressed strings of counts; string i is that of counts[offset[i] : offset[i + 1]]."""
    left = counts.copy()
    left[2:] -= counts[:-2]  # from the fourth on, a count is stored as its difference to the one two before
    for k in range(3):
        plain = (offset[:-1] + k)[offset[:-1] + k < offset[1:]]
        left[plain] = counts[plain]
    columns, size, more = [], np.zeros(len(left), dtype=np.int64), np.ones(len(left), dtype=bool)
    while more.any():
        size += more
        low = (left & _FIVE_BITS).astype(np.uint8)
        left >>= 5
        goes_on = left != -(low >> 4).astype(np.int8)  # what is left is more than the sign of what is written
        columns.append((low + _ASCII + goes_on * np.uint8(_MORE)) * more)
        more = goes_on
    text = np.stack(columns, axis=1) if columns else np.empty((0, 0), dtype=np.uint8)
    return text[text != 0].tobytes(), np.concatenate([[0], np.cumsum(size)])[offset]
