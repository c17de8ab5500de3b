"""One annotated image: pixels, and for every object its class and its mask, or for every pixel its class.

A mask is kept as the pixels inside its tight window, so that an image with hundreds of objects costs the sum of their
windows rather than objects x height x width. The box of an object is that window: mask and box cannot disagree. Reading
files is left to the format readers beside this file, changing pixels to training/data/.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayseg.geometry import Size, Window

IGNORE = 255
"""In a label map: a pixel that neither trains nor scores."""


@dataclass(frozen=True, eq=False)
class Patch:
    """The mask of one object: bool pixels and the window of the image they fill."""

    window: Window
    bits: np.ndarray

    @property
    def area(self) -> int:
        """Number of pixels set."""
        return int(np.count_nonzero(self.bits))


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its objects.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        masks: one patch an object, none of them empty, each inside the image.
        classes: int64 (G,), index of each object's class, from 0.
        name: what to call the image in messages and results.
    """

    image: np.ndarray
    masks: tuple[Patch, ...]
    classes: np.ndarray
    name: str

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"{self.name}: an image is uint8 (H, W, 3), got {self.image.dtype} {self.image.shape}")
        if self.classes.shape != (len(self.masks),):
            raise ValueError(f"{self.name}: {len(self.masks)} masks and classes of shape {self.classes.shape}")
        for patch in self.masks:
            if patch.bits.shape != (patch.window.height, patch.window.width) or patch.window.clip(self.size) != patch.window:
                raise ValueError(f"{self.name}: mask of shape {patch.bits.shape} does not fit {patch.window} in {self.size}")

    @property
    def size(self) -> Size:
        """Of the image."""
        return Size(*self.image.shape[:2])

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """float32 (G, 4): the tight extent of each mask, image pixels, right and bottom exclusive."""
        windows = [(p.window.x0, p.window.y0, p.window.x1, p.window.y1) for p in self.masks]
        return np.asarray(windows, dtype=np.float32).reshape(-1, 4)

    def full_masks(self) -> np.ndarray:
        """bool (G, H, W). For tests and small images: memory grows with objects x pixels."""
        out = np.zeros((len(self.masks), *self.size.hw), dtype=bool)
        for canvas, patch in zip(out, self.masks, strict=True):
            canvas[patch.window.slices] = patch.bits
        return out


@dataclass(frozen=True, eq=False)
class SemanticSample:
    """One image with a class for every pixel.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        labels: uint8 (H, W), class ids from 0; 255 (IGNORE) where there is no truth.
        name: what to call the image in messages and results.
    """

    image: np.ndarray
    labels: np.ndarray
    name: str

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"{self.name}: an image is uint8 (H, W, 3), got {self.image.dtype} {self.image.shape}")
        if self.labels.shape != self.image.shape[:2] or self.labels.dtype != np.uint8:
            raise ValueError(
                f"{self.name}: labels are uint8 {self.image.shape[:2]} here, got {self.labels.dtype} {self.labels.shape}"
            )

    @property
    def size(self) -> Size:
        """Of the image."""
        return Size(*self.image.shape[:2])


def tight_patch(mask: np.ndarray, *, x0: int = 0, y0: int = 0) -> Patch | None:
    """Cut a mask down to the rectangle its pixels fill.

    Args:
        mask: (h, w), non-zero belongs to the object.
        x0, y0: where the mask's first pixel lies in the image.

    Returns:
        None when the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    inner = Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Patch(inner.shift(x0, y0), np.ascontiguousarray(mask[inner.slices] != 0))
