"""What is done to an image before a network sees it, as a value: a network says it, the table of models shows it.

How each step computes is predict/preprocess.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rayseg.geometry import Size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """What is done to an RGB uint8 image: resize, x / 255, then (x - mean) / std, then padding with zeros."""

    resize: Size | None
    """Stretched to this size; None leaves the image as it is. With `keep_ratio` the largest size whose short side is at
    most the shorter of the two numbers and whose long side is at most the longer."""
    mean: tuple[float, float, float]
    """Per channel, after the division by 255."""
    std: tuple[float, float, float]
    """Per channel, after the division by 255."""
    interpolation: Literal["linear", "cubic"] = "linear"
    """Of the resizing."""
    keep_ratio: bool = False
    """Resize height and width by one factor."""
    pad_stride: int | None = None
    """Zeros are added at the right and the bottom up to a multiple of this; None adds none."""
    normalize_first: bool = False
    """Resize the normalised floats instead of the bytes."""


SEMANTIC = Preprocess(resize=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Of all semantic networks but MaskFormer: values from -1 to 1, at the size the image has."""
