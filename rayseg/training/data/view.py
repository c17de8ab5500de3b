"""What an augmented image shows of the original, as a value: choosing a view moves no pixel.

Resizing, cropping, padding, expanding and mirroring are small functions from view to view. Only the last view is looked
through (look.py), so nothing is resampled twice, and an expanded canvas sixteen times the image never exists.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rayseg.geometry import Size, Window
from rayseg.predict.preprocess import Resize


@dataclass(frozen=True)
class View:
    """A picture of `size` that shows the rectangle between (x0, y0) and (x1, y1) of an image.

    Edges are in image pixels, centres of which lie at +0.5. The rectangle may reach beyond the image. x1 < x0 shows it
    mirrored.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    size: Size

    @property
    def mirror(self) -> bool:
        """Left and right are exchanged."""
        return self.x1 < self.x0

    @property
    def scale(self) -> tuple[float, float]:
        """Picture pixels for one image pixel, along y and along x."""
        return self.size.height / (self.y1 - self.y0), self.size.width / abs(self.x1 - self.x0)

    @property
    def matrix(self) -> np.ndarray:
        """float64 (2, 3): image to picture, for points (x, y)."""
        across, down = self.size.width / (self.x1 - self.x0), self.size.height / (self.y1 - self.y0)
        return np.array([[across, 0.0, -self.x0 * across], [0.0, down, -self.y0 * down]])

    def columns(self) -> np.ndarray:
        """float64 (W,): image x of the centre of each picture column."""
        return self.x0 + (np.arange(self.size.width) + 0.5) * ((self.x1 - self.x0) / self.size.width)

    def rows(self) -> np.ndarray:
        """float64 (H,): image y of the centre of each picture row."""
        return self.y0 + (np.arange(self.size.height) + 0.5) * ((self.y1 - self.y0) / self.size.height)

    def boxes(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Where boxes (G, 4) of the image lie in the picture, float64, not cut to it."""
        corners = boxes_xyxy.reshape(-1, 2, 2) * self.matrix[[0, 1], [0, 1]] + self.matrix[:, 2]
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def whole(image: Size) -> View:
    """The image as it is."""
    return View(0.0, 0.0, float(image.width), float(image.height), image)


def stretched(view: View, size: Size) -> View:
    """The same in another size."""
    return replace(view, size=size)


def fitted(view: View, target: Size) -> View:
    """Resized by one factor: the largest whose short side is at most the target's short one, and long side its long one."""
    return stretched(view, Resize(target, keep_ratio=True).size_for(view.size))


def mirrored(view: View) -> View:
    """Left and right exchanged."""
    return replace(view, x0=view.x1, x1=view.x0)


def cut(view: View, window: Window) -> View:
    """The part of the picture in a window, which may reach beyond it: cropping, padding and expanding.

    Args:
        window: in picture pixels, not empty.
    """
    across = (view.x1 - view.x0) / view.size.width
    down = (view.y1 - view.y0) / view.size.height
    return View(
        view.x0 + window.x0 * across,
        view.y0 + window.y0 * down,
        view.x0 + window.x1 * across,
        view.y0 + window.y1 * down,
        Size(window.height, window.width),
    )
