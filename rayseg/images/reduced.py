"""JPEGs decoded smaller than they are: which fraction will do, and what size comes of it.

libjpeg can leave out the fine part of each block of 8 x 8 pixels, which gives the picture at 1/2, 1/4 or 1/8 of its sides in
a part of the time. Each pixel is then about the mean of those it stands for. Decoding itself is decoding.py's.
"""

from __future__ import annotations

from rayseg.errors import ImageError
from rayseg.images.header import Header
from rayseg.images.identify import read_header
from rayseg.images.sniff import HEAD_BYTES, sniff

REDUCTIONS = (8, 4, 2, 1)
"""What the sides can be divided by, greatest first; 1 is the full size."""


def jpeg_header(data: bytes) -> Header | None:
    """The header of a JPEG; None for anything else, and where it cannot be read: decoding will say why."""
    try:
        return read_header(data) if sniff(bytes(data[:HEAD_BYTES])) == "JPEG" else None
    except ImageError:
        return None


def reduction(original_hw: tuple[int, int], least_hw: tuple[int, int]) -> int:
    """The greatest of REDUCTIONS that leaves both sides at least as long as `least_hw`; 1 where none does."""
    for factor in REDUCTIONS:
        height, width = reduced_hw(original_hw, factor)
        if height >= least_hw[0] and width >= least_hw[1]:
            return factor
    return 1


def reduced_hw(hw: tuple[int, int], factor: int) -> tuple[int, int]:
    """Sides of a picture of `hw` at 1 / `factor`; they are rounded up, as libjpeg does."""
    return -(-hw[0] // factor), -(-hw[1] // factor)
