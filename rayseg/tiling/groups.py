"""Small vectorised helpers on groups: connected components of a graph, first of each, ranges written out."""

from __future__ import annotations

import numpy as np


def components(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Connected components of a graph: for each node the smallest node it is connected with, int64 (n,).

    Roots are hooked onto smaller neighbours and paths are shortened until no edge joins two components; each round leaves at
    most as many roots as have no smaller neighbour.

    Args:
        n: number of nodes.
        first, second: int64 (m,), the two ends of each edge.
    """
    root = np.arange(n)
    while True:
        a, b = root[first], root[second]
        apart = a != b
        if not apart.any():
            return root
        first, second, a, b = first[apart], second[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]


def expand(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges [start, stop) written out: which range each number comes from, and the number. A reversed range is empty."""
    sizes = np.maximum(stop - start, 0)
    which = np.repeat(np.arange(sizes.size), sizes)
    return which, np.arange(which.size) - np.repeat(np.cumsum(sizes) - sizes - start, sizes)


def first_of_each(values: np.ndarray) -> np.ndarray:
    """Where each stretch of equal values begins."""
    if not values.size:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
