"""What a network said about one image, cut out of a batch and made small enough to travel; not yet a result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayseg.geometry import Size


@dataclass(frozen=True, eq=False)
class Raw:
    """Outputs for one image.

    Attributes:
        arrays: what the family keeps, see its `split` in families/; every array is C-contiguous and its own.
        original, resized, network: as in Prepared.
        min_score: objects that do not exceed it were dropped already.
    """

    arrays: dict[str, np.ndarray]
    original: Size
    resized: Size
    network: Size
    min_score: float = 0.0
