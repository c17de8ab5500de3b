"""Pictures of a data set: an image with its annotations drawn, and how often each class occurs.

Masks are painted by rayseg.draw; boxes, names and bars are drawn here, with OpenCV, whose font has ASCII letters only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from rayseg.datasets.sample import IGNORE
from rayseg.draw import PALETTE, draw_semantic, fit, overlay
from rayseg.geometry import Size
from rayseg.results import Instances, SemanticMap
from rayseg.rle import Rle

LONGEST_PX = 1024
_NAMED = 40
"""Above so many objects, names would hide the picture."""
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
_INK, _GREY = (34, 34, 34), (150, 150, 150)
_ROW_PX, _BAR_PX, _TOP_PX, _BARS_PX = 34, 12, 60, 640
_MOST_ROWS = 100
_SPLIT_COLOURS = (PALETTE[0].tolist(), PALETTE[1].tolist())


def draw_objects(image: np.ndarray, masks: Sequence[tuple[Any, Rle]], categories: Mapping[Any, str]) -> np.ndarray:
    """Annotated objects over their image: mask, box and name.

    Args:
        image: uint8 (H, W, 3) RGB.
        masks: category id and mask of each object.
        categories: category id -> name.

    Returns:
        uint8 RGB, its longer side at most LONGEST_PX.
    """
    size = Size(*image.shape[:2])
    picture = fit(size, min(LONGEST_PX, max(size.hw)))
    order = {key: number for number, key in enumerate(categories)}
    classes = [order.get(key, 0) for key, _ in masks]
    boxes = [(w.x0, w.y0, w.x1, w.y1) for w in (mask.extent for _, mask in masks)]
    found = Instances(size, np.asarray(boxes), np.ones(len(masks)), np.asarray(classes), tuple(mask for _, mask in masks))
    canvas = overlay(image, found, list(categories.values()), size=picture)
    scale = np.tile(np.divide(picture.wh, size.wh), 2)
    by_object = len(categories) <= 1
    for number, (key, _) in enumerate(masks):
        colour = PALETTE[(number if by_object else classes[number]) % len(PALETTE)].tolist()
        x0, y0, x1, y1 = (int(v) for v in found.boxes_xyxy[number] * scale)
        cv2.rectangle(canvas, (x0, y0), (max(x1 - 1, x0), max(y1 - 1, y0)), colour, 1)
        if len(masks) <= _NAMED:
            _name(canvas, _ascii(categories.get(key, ""), str(key)), (x0, y0), colour)
    return canvas


def draw_labels(image: np.ndarray, labels: np.ndarray, *, background: bool = True) -> np.ndarray:
    """A label map over its image, 255 hatched in grey.

    Args:
        image: uint8 (H, W, 3) RGB.
        labels: uint8 or uint16 (H, W).
        background: class 0 means nothing and is left uncoloured.

    Returns:
        uint8 RGB, its longer side at most LONGEST_PX.
    """
    size = Size(*image.shape[:2])
    picture = fit(size, min(LONGEST_PX, max(size.hw)))
    canvas = draw_semantic(image, SemanticMap(labels), size=picture, skip=(0, IGNORE) if background else (IGNORE,))
    ignored = cv2.resize(labels, picture.wh, interpolation=cv2.INTER_NEAREST_EXACT) == IGNORE
    rows, columns = np.indices(ignored.shape)
    canvas[ignored & ((rows + columns) % 8 < 2)] = _GREY
    return canvas


def draw_histogram(names: Sequence[str], train: Sequence[int], val: Sequence[int], *, title: str) -> np.ndarray:
    """How often each class occurs in the two splits, the most frequent in training first.

    Args:
        names: of the classes; what OpenCV cannot write becomes "class 3".
        train, val: counts, as long as `names`.
        title: line on top.

    Returns:
        uint8 (H, W, 3) RGB; bars are as long as their logarithm where counts differ by more than a factor of 100.
    """
    order = sorted(range(len(names)), key=lambda i: (-train[i], i))
    shown = order[:_MOST_ROWS]
    texts = [_ascii(names[i], f"class {i}")[:28] for i in shown]
    left = max([_width(text) for text in texts] + [80]) + 24
    right = 110
    canvas = np.full((_TOP_PX + _ROW_PX * len(shown) + 40, left + _BARS_PX + right, 3), 255, dtype=np.uint8)
    counts = [c for i in shown for c in (train[i], val[i]) if c > 0]
    logarithmic = bool(counts) and max(counts) > 100 * min(counts)
    _write(canvas, f"{title}{', length of bars logarithmic' if logarithmic else ''}", (12, 22))
    for number, split in enumerate(("train", "val")):
        x = left + 120 * number
        cv2.rectangle(canvas, (x, 34), (x + 12, 46), _SPLIT_COLOURS[number], -1)
        _write(canvas, split, (x + 18, 45))
    for row, i in enumerate(shown):
        y = _TOP_PX + _ROW_PX * row
        _write(canvas, texts[row], (left - 12 - _width(texts[row]), y + _BAR_PX + 4))
        for number, count in enumerate((train[i], val[i])):
            top = y + number * (_BAR_PX + 1)
            length = round(_BARS_PX * _share(count, max(counts, default=1), logarithmic))
            cv2.rectangle(canvas, (left, top), (left + max(length, 1), top + _BAR_PX - 1), _SPLIT_COLOURS[number], -1)
            _write(canvas, str(count), (left + length + 6, top + _BAR_PX - 1), _INK if count else _GREY, scale=0.4)
    if len(order) > len(shown):
        _write(canvas, f"and {len(order) - len(shown)} classes more", (left, canvas.shape[0] - 14), _GREY)
    return canvas


def to_png(picture: np.ndarray) -> bytes:
    """Encode an RGB picture."""
    return bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1])


def to_jpeg(picture: np.ndarray) -> bytes:
    """Encode an RGB picture."""
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def _share(count: int, largest: int, logarithmic: bool) -> float:
    if not logarithmic:
        return count / largest
    return float(np.log1p(count) / np.log1p(largest))


def _ascii(text: str, instead: str) -> str:
    return text if text and text.isascii() and text.isprintable() else instead


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0])


def _write(
    canvas: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int] = _INK, *, scale: float = _SCALE
) -> None:
    cv2.putText(canvas, text, at, _FONT, scale, colour, 1, cv2.LINE_AA)


def _name(canvas: np.ndarray, text: str, corner: tuple[int, int], colour: list[int]) -> None:
    """Dark text on a plate of the object's colour, kept inside the picture."""
    (width, height), below = cv2.getTextSize(text, _FONT, 0.4, 1)
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - width - 4)))
    y = max(corner[1], height + below + 2)
    cv2.rectangle(canvas, (x, y - height - below - 2), (x + width + 4, y), colour, -1)
    cv2.putText(canvas, text, (x + 2, y - below), _FONT, 0.4, (16, 16, 16), 1, cv2.LINE_AA)
