"""Results as pictures: masks over their image with boxes and labels, label maps over theirs or as PaddleX colours them.

A class has one colour, everywhere. Labels are written in DejaVu Sans, which comes along (fonts/, with its licence) and has
Latin, Greek, Cyrillic, Arabic and more; for Chinese and other scripts name a font file in PADDLE_PDX_LOCAL_FONT_FILE_PATH, as
for PaddleX. A label the font lacks letters for is written as its class number.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rayseg import draw
from rayseg.errors import ConfigError
from rayseg.results import Instances, SemanticMap

FONT_VARIABLE = "PADDLE_PDX_LOCAL_FONT_FILE_PATH"
_OWN_FONT = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
_INK = (20, 14, 53)
_SMALLEST_PX = 8  # letters below it cannot be read
_NEVER_A_LETTER = "\U0010ffff"


def draw_instances(image_rgb: np.ndarray, found: Instances, labels: Sequence[str]) -> Image.Image:
    """Masks, boxes, labels and scores over their image; higher scores on top.

    Args:
        image_rgb: uint8 (H, W, 3).
        labels: of each object.

    Raises:
        ValueError: the image is not as large as the one the objects were found in.
        ConfigError: the font named in the environment cannot be read.
    """
    height, width = found.size.hw
    thickness = max(1, int(0.002 * max(height, width)))
    picture = Image.fromarray(draw.overlay(image_rgb, found, by_object=False, outline_px=thickness))
    pen, font = ImageDraw.Draw(picture), _font(max(_SMALLEST_PX, int(0.018 * width) + 2))
    order = np.argsort(found.scores, kind="stable").tolist()
    colours = [tuple(draw.PALETTE[class_id % len(draw.PALETTE)].tolist()) for class_id in found.class_ids.tolist()]
    for i in order:
        x0, y0, x1, y1 = found.boxes_xyxy[i].tolist()
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colours[i], width=thickness)
    for i in order:
        (x0, y0, _, _), class_id, colour = found.boxes_xyxy[i].tolist(), int(found.class_ids[i]), colours[i]
        _write(pen, font, f"{readable(font, labels[i], class_id)} {found.scores[i]:.2f}", x0, y0, colour, found.size.wh)
    return picture


def draw_map(image_rgb: np.ndarray, found: SemanticMap) -> Image.Image:
    """Class regions in colour over their image. Raises ValueError as above."""
    return Image.fromarray(draw.draw_semantic(image_rgb, found))


def colour_map(found: SemanticMap) -> Image.Image:
    """The label map alone in PaddleX's colours: PASCAL VOC's, from its second on."""
    return Image.fromarray(_voc_colours().take(found.labels, axis=0, mode="wrap"))


def readable(font: ImageFont.FreeTypeFont, label: str, class_id: int) -> str:
    """The label on one line, or the number of its class where the font lacks a letter of it."""
    line = " ".join(label.split())
    missing = any(letter != " " and not _has(font, letter) for letter in line)
    return f"class {class_id}" if missing or not line else line


def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    if not letter.isprintable():
        return False
    return bytes(font.getmask(letter)) != bytes(font.getmask(_NEVER_A_LETTER))


def _write(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    text: str,
    x: float,
    y: float,
    colour: tuple[int, ...],
    size_wh: tuple[int, int],
) -> None:
    """Dark text on a plate above a corner, moved into the picture where it would leave it."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0.0, min(x, size_wh[0] - width))
    y = max(0.0, min(y - height, size_wh[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    pen.text((x + 2 - left, y + 2 - top), text, fill=_INK, font=font)


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    return _load_font(os.environ.get(FONT_VARIABLE) or str(_OWN_FONT), size_px)


@lru_cache(maxsize=16)
def _load_font(path: str, size_px: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(path, size_px, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise ConfigError(f"{path}: is no font that can be read ({error}); {FONT_VARIABLE} names a .ttf, .ttc or .otf") from error


@lru_cache(maxsize=1)
def _voc_colours() -> np.ndarray:
    """uint8 (256, 3) RGB: three bits of the number go to the top bits of the channels, the next three below, and so on."""
    number = np.arange(1, 257)
    table = np.zeros((256, 3), dtype=np.uint8)
    for step in range(3):
        for channel in range(3):
            table[:, channel] |= ((number >> (3 * step + channel) & 1) << (7 - step)).astype(np.uint8)
    return table
