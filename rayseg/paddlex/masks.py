"""The masks of a result as a list of arrays that are decoded when asked for: run lengths take a hundredth of the memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from rayseg import rle
from rayseg.geometry import Size, Window
from rayseg.rle import Rle


class Masks(Sequence[np.ndarray]):
    """Masks as PaddleX has them: each uint8 0 or 1, cut to its box, whose edges are rounded to whole pixels.

    To bring one back: `canvas[y0:y1, x0:x1] = masks[i]` with those rounded edges; or take the whole mask, `full(i)`.

    Args:
        rles: of the whole image.
        boxes: x0, y0, x1, y1 of each, inside the image.
    """

    def __init__(self, rles: Iterable[Rle], boxes: Iterable[Sequence[float]]) -> None:
        self.rles = tuple(rles)
        self.windows = tuple(rounded(box) for box in boxes)

    def __len__(self) -> int:
        return len(self.rles)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Masks: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Masks:
        if isinstance(index, slice):
            part = Masks(self.rles[index], ())
            part.windows = self.windows[index]
            return part
        return np.ascontiguousarray(rle.decode_window(self.rles[index], self.windows[index]), dtype=np.uint8)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masks) and (self.rles, self.windows) == (other.rles, other.windows)

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"<{len(self)} masks, decoded one by one>"

    def full(self, index: int) -> np.ndarray:
        """One mask of the whole image, bool (H, W)."""
        return rle.decode(self.rles[index])


def rounded(box: Sequence[float]) -> Window:
    """A box in whole pixels, half to even as Python rounds."""
    x0, y0, x1, y1 = (round(float(edge)) for edge in box)
    return Window(x0, y0, x1, y1)


def run_lengths(masks: Sequence[Any], boxes: Sequence[Mapping[str, Any]], size: Size) -> list[Rle]:
    """Masks of the whole image, also where the caller has replaced some by arrays: of the image's or of the box's size.

    Raises:
        ValueError: masks and boxes are not as many, or an array has neither size.
    """
    if len(masks) != len(boxes):
        raise ValueError(f"{len(masks)} masks and {len(boxes)} boxes; change both alike")
    if isinstance(masks, Masks):
        return list(masks.rles)
    found = []
    for mask, box in zip(masks, boxes, strict=True):
        array, window = np.asarray(mask), rounded(box["coordinate"])
        if array.shape == size.hw:
            found.append(rle.encode(array))
        elif array.shape == (window.height, window.width):
            found.append(rle.encode_in_window(array, window, size))
        else:
            raise ValueError(f"a mask of {array.shape} is neither of the box {window} nor of the image {size}")
    return found
