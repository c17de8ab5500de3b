"""Look at a sample through a view: the one place where pixels, masks and label maps are resampled.

A pixel of the picture belongs to the image where its centre does, for colours and labels alike; the others get the fill.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from rayseg.datasets.sample import IGNORE, Sample, SemanticSample
from rayseg.geometry import Size, Window
from rayseg.training.data.view import View, cut, whole
from rayseg.training.data.warp import to_cv, warp_patch

Rgb = tuple[int, int, int]
Recolour = Callable[[np.ndarray], np.ndarray]
"""uint8 (H, W, 3) in and out."""

_MARGIN = 3
"""Pixels that interpolation may read beyond the ones it lies between."""


def look(
    sample: Sample, view: View, *, fill: Rgb, interpolation: int, recolour: Recolour | None = None, centred: bool = False
) -> Sample:
    """A sample as seen through a view, masks and classes included.

    Args:
        fill: colour of what lies beyond the image.
        interpolation: OpenCV's, of the image.
        recolour: applied to what is seen of the image, not to the fill.
        centred: drop objects the centre of whose box is not in the picture. Without a single pixel they are always dropped.
    """
    image = see_image(sample.image, view, fill=fill, interpolation=interpolation, recolour=recolour)
    inside = _centres_inside(sample.boxes_xyxy, view) if centred else np.ones(len(sample.masks), dtype=bool)
    moved = [warp_patch(p, view.matrix, view.size) if keep else None for p, keep in zip(sample.masks, inside, strict=True)]
    kept = np.array([patch is not None for patch in moved], dtype=bool)
    return Sample(image, tuple(patch for patch in moved if patch is not None), sample.classes[kept], sample.name)


def look_at_labels(
    sample: SemanticSample, view: View, *, fill: Rgb, interpolation: int, recolour: Recolour | None = None
) -> SemanticSample:
    """An image and its label map as seen through a view; beyond the image nothing counts. See `look`."""
    image = see_image(sample.image, view, fill=fill, interpolation=interpolation, recolour=recolour)
    return SemanticSample(image, see_labels(sample.labels, view), sample.name)


def see_image(image: np.ndarray, view: View, *, fill: Rgb, interpolation: int, recolour: Recolour | None = None) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 of the view's size."""
    original = Size(*image.shape[:2])
    window = _inside(view, original)
    if window.empty:
        return np.full((*view.size.hw, 3), fill, dtype=np.uint8)
    seen = cut(view, window)
    if _is_all_of(seen, original):
        # Resized as prediction does it; cv2.warpAffine rounds positions to 1/32 pixel.
        found = image if seen.size == original else cv2.resize(image, seen.size.wh, interpolation=interpolation)
        found = found[:, ::-1] if seen.mirror else found
    else:
        found = _warped(image, seen, interpolation)
    found = recolour(np.ascontiguousarray(found)) if recolour else found
    if window == Window.of(view.size):
        return np.ascontiguousarray(found)
    out = np.full((*view.size.hw, 3), fill, dtype=np.uint8)
    out[window.slices] = found
    return out


def see_labels(labels: np.ndarray, view: View) -> np.ndarray:
    """uint8 (H, W) -> uint8 of the view's size: the label at each centre, 255 beyond the map."""
    out = np.full(view.size.hw, IGNORE, dtype=labels.dtype)
    window = _inside(view, Size(*labels.shape))
    rows, columns = np.floor(view.rows()).astype(np.intp), np.floor(view.columns()).astype(np.intp)
    out[window.slices] = labels[np.ix_(rows[window.y0 : window.y1], columns[window.x0 : window.x1])]
    return out


def _warped(image: np.ndarray, view: View, interpolation: int) -> np.ndarray:
    """For a view that lies within the image; what it does not show is not touched."""
    xs, ys = view.columns(), view.rows()
    part = Window(
        int(min(xs[0], xs[-1])) - _MARGIN, int(ys[0]) - _MARGIN, int(max(xs[0], xs[-1])) + _MARGIN, int(ys[-1]) + _MARGIN
    ).clip(Size(*image.shape[:2]))
    local = View(view.x0 - part.x0, view.y0 - part.y0, view.x1 - part.x0, view.y1 - part.y0, view.size)
    matrix = to_cv(local.matrix)
    return cv2.warpAffine(image[part.slices], matrix, view.size.wh, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)


def _inside(view: View, image: Size) -> Window:
    """The pixels of the picture whose centres lie in the image; they form a rectangle."""
    x0, x1 = _run(view.columns(), image.width)
    y0, y1 = _run(view.rows(), image.height)
    return Window(x0, y0, x1, y1)


def _run(centres: np.ndarray, length: int) -> tuple[int, int]:
    found = np.flatnonzero((centres >= 0) & (centres < length))
    return (int(found[0]), int(found[-1]) + 1) if found.size else (0, 0)


def _is_all_of(view: View, image: Size) -> bool:
    full = whole(image)
    edges = (min(view.x0, view.x1), view.y0, max(view.x0, view.x1), view.y1)
    return bool(np.allclose(edges, (full.x0, full.y0, full.x1, full.y1), rtol=0, atol=1e-6))


def _centres_inside(boxes_xyxy: np.ndarray, view: View) -> np.ndarray:
    boxes = view.boxes(boxes_xyxy)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres >= 0) & (centres < view.size.wh)).all(axis=1)
