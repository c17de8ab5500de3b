"""Sizes, windows and boxes: frozen values whose axes are named, so that (h, w) and (x, y) cannot be mixed up.

Pixel ranges are half-open [start, stop) and pixel centres lie at +0.5: a box x0=0, x1=1 covers exactly the first column.
Tiling and coordinates on the ground live elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Size:
    """Height and width in pixels, both at least 1."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a size needs at least one pixel on each side, got height={self.height} width={self.width}")

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width): the order of numpy shapes."""
        return self.height, self.width

    @property
    def wh(self) -> tuple[int, int]:
        """(width, height): the order OpenCV asks for."""
        return self.width, self.height

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of whole pixels, [x0, x1) by [y0, y1); may be empty, never reversed."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if self.x1 < self.x0 or self.y1 < self.y0:
            raise ValueError(f"window ends before it starts: x {self.x0}..{self.x1}, y {self.y0}..{self.y1}")

    @classmethod
    def of(cls, size: Size) -> Window:
        """The window that covers a whole image."""
        return cls(0, 0, size.width, size.height)

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def empty(self) -> bool:
        """True when it holds no pixel."""
        return self.height == 0 or self.width == 0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of an (H, W, ...) array."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def clip(self, size: Size) -> Window:
        """The part inside an image; empty (not an error) when there is none."""
        x0, x1 = (min(max(v, 0), size.width) for v in (self.x0, self.x1))
        y0, y1 = (min(max(v, 0), size.height) for v in (self.y0, self.y1))
        return Window(x0, y0, x1, y1)

    def shift(self, dx: int, dy: int) -> Window:
        """Moved right by dx and down by dy pixels."""
        return Window(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)


@dataclass(frozen=True)
class Box:
    """A rectangle with real-valued edges in pixel coordinates; finite, never reversed, may lie outside an image."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.x0, self.y0, self.x1, self.y1)):
            raise ValueError(f"box has an edge that is not a number: {self}")
        if self.x1 < self.x0 or self.y1 < self.y0:
            raise ValueError(f"box ends before it starts: {self}")

    @property
    def area(self) -> float:
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def clip(self, size: Size) -> Box:
        """The part inside an image; zero area when there is none."""
        x0, x1 = (min(max(v, 0.0), float(size.width)) for v in (self.x0, self.x1))
        y0, y1 = (min(max(v, 0.0), float(size.height)) for v in (self.y0, self.y1))
        return Box(x0, y0, x1, y1)

    def outer_window(self) -> Window:
        """The smallest window that contains the box."""
        return Window(math.floor(self.x0), math.floor(self.y0), math.ceil(self.x1), math.ceil(self.y1))

    def rounded_window(self) -> Window:
        """Edges rounded half to even, as PaddleX crops its masks (`int(round(edge))`)."""
        return Window(round(self.x0), round(self.y0), round(self.x1), round(self.y1))
