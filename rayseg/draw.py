"""Pictures of results: masks over the image they were found in, and sheets of such pictures.

Masks are drawn at the size of the picture, not of the image, and each inside its own box, so that a thumbnail of a
large scene with thousands of objects costs little more than the thumbnail. Reading images and laying out pages is for
others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import cv2
import numpy as np

from rayseg import rle
from rayseg.geometry import Size, Window
from rayseg.results import Instances, SemanticMap
from rayseg.rle import Rle

# Above this share of the image a box is decoded with the whole mask: pycocotools does that in C.
_WHOLE_MASK_SHARE = 0.25
_GOLDEN_ANGLE_DEG = 180 * (3 - math.sqrt(5))


def palette(n: int) -> np.ndarray:
    """Colours that differ most from those just before them and are about equally bright.

    OKLCH colours whose hue advances by the golden angle, with three lightnesses in turn. Matrices: B. Ottosson, "A
    perceptual color space for image processing" (2020).

    Returns:
        uint8 (n, 3), RGB; the first k rows are those of `palette(k)`.
    """
    index = np.arange(n)
    lightness = np.array([0.80, 0.70, 0.87])[index % 3]
    hue = np.deg2rad(165 + _GOLDEN_ANGLE_DEG * index)
    a, b = 0.16 * np.cos(hue), 0.16 * np.sin(hue)
    to_lms = np.array(
        [
            [1, 0.3963377774, 0.2158037573],
            [1, -0.1055613458, -0.0638541728],
            [1, -0.0894841775, -1.2914855480],
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = ((np.stack([lightness, a, b], axis=1) @ to_lms.T) ** 3 @ to_rgb.T).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


PALETTE = palette(256)


def fit(size: Size, longest: int) -> Size:
    """The size with the same shape whose longer side is `longest`."""
    scale = longest / max(size.hw)
    return Size(max(1, round(size.height * scale)), max(1, round(size.width * scale)))


def overlay(
    image_rgb: np.ndarray,
    found: Instances,
    labels: Sequence[str] = (),
    *,
    size: Size | None = None,
    palette: np.ndarray = PALETTE,
    by_object: bool | None = None,
    alpha: float = 0.4,
    outline_px: int = 1,
    names: bool = False,
    skip: Collection[int] = (),
) -> np.ndarray:
    """Objects in colour over their image; small ones on top of large ones.

    Args:
        image_rgb: uint8 (H, W, 3), as large as `found.size`.
        labels: name of each class id.
        size: of the picture; None takes the image's.
        palette: uint8 (n, 3) RGB; colour i belongs to class i, or to object i. Used round and round.
        by_object: a colour for each object rather than for each class; None does so when there is at most one label.
        alpha: how much of the colour covers the image inside a mask, in [0, 1].
        outline_px: thickness of the outline in pixels of the picture; 0 draws none.
        names: write label and score beside each object. OpenCV has ASCII letters only; other labels become "class 3".
        skip: class ids that are left out, such as a background.

    Returns:
        uint8 RGB of `size`; the image is not changed.

    Raises:
        ValueError: the image is not of the size the objects were found in.
    """
    if image_rgb.shape != (*found.size.hw, 3):
        raise ValueError(f"objects of an image of {found.size} over an image of shape {image_rgb.shape}")
    size = size or found.size
    canvas = _resized(image_rgb, size)
    by_object = len(labels) <= 1 if by_object is None else by_object
    largest_first = np.argsort([-mask.area for mask in found.masks], kind="stable")
    drawn = [i for i in largest_first if found.class_ids[i] not in skip]
    for i in drawn:
        colour = palette[(i if by_object else found.class_ids[i]) % len(palette)]
        placed = _coverage(found.masks[i], size)
        if placed is not None:
            _paint(canvas, *placed, colour, alpha, outline_px)
    for i in drawn if names else ():
        class_id = int(found.class_ids[i])
        corner = (found.boxes_xyxy[i, :2] * np.divide(size.wh, found.size.wh)).astype(int)
        colour = palette[(i if by_object else class_id) % len(palette)]
        _write(canvas, f"{_ascii(labels, class_id)} {found.scores[i]:.2f}", corner, colour)
    return canvas


def draw_semantic(
    image_rgb: np.ndarray,
    found: SemanticMap,
    *,
    size: Size | None = None,
    palette: np.ndarray = PALETTE,
    alpha: float = 0.5,
    outline_px: int = 1,
    skip: Collection[int] = (),
) -> np.ndarray:
    """Class regions in colour over their image, with a line where classes meet.

    Arguments and errors are those of `overlay`. At a smaller size each pixel takes the class of the pixel nearest to
    its centre.
    """
    if image_rgb.shape != (*found.size.hw, 3):
        raise ValueError(f"a label map of {found.size} over an image of shape {image_rgb.shape}")
    size = size or found.size
    canvas = _resized(image_rgb, size)
    labels = cv2.resize(found.labels, size.wh, interpolation=cv2.INTER_NEAREST_EXACT)
    colours = palette[np.arange(int(labels.max()) + 1) % len(palette)]
    inside = ~np.isin(np.arange(len(colours)), list(skip))[labels]
    tinted = cv2.addWeighted(canvas, 1 - alpha, colours[labels], alpha, 0)
    canvas[inside] = tinted[inside]
    for class_id in np.unique(labels[inside]) if outline_px else ():
        edges, _ = cv2.findContours((labels == class_id).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, edges, -1, colours[class_id].tolist(), outline_px)
    return canvas


def contact_sheet(pictures: Sequence[np.ndarray], *, columns: int, gap_px: int = 8, background: int = 255) -> np.ndarray:
    """Pictures in rows of `columns`, each centred in a cell as large as the largest of them.

    Args:
        pictures: uint8 RGB, any sizes, at least one.
        background: grey level of gaps.

    Returns:
        uint8 (H, W, 3).
    """
    cell_h, cell_w = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    shape = (rows * (cell_h + gap_px) + gap_px, columns * (cell_w + gap_px) + gap_px, 3)
    sheet = np.full(shape, background, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        y = gap_px + (i // columns) * (cell_h + gap_px) + (cell_h - height) // 2
        x = gap_px + (i % columns) * (cell_w + gap_px) + (cell_w - width) // 2
        sheet[y : y + height, x : x + width] = picture
    return sheet


def _resized(image_rgb: np.ndarray, size: Size) -> np.ndarray:
    """A copy of the image at the size of the picture."""
    if image_rgb.shape[:2] == size.hw:
        return np.ascontiguousarray(image_rgb).copy()
    smaller = size.pixels < image_rgb.shape[0] * image_rgb.shape[1]
    return cv2.resize(image_rgb, size.wh, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _coverage(mask: Rle, size: Size) -> tuple[Window, np.ndarray] | None:
    """How much of each pixel of the picture a mask covers, inside the part of the picture it touches.

    Shrinking averages whole blocks of mask pixels first and resamples the rest of the way, so that thin objects fade
    and do not vanish.

    Returns:
        The part, and float32 (h, w) in [0, 1]; None for an empty mask.
    """
    box = mask.extent
    if box.empty:
        return None
    scale = np.divide(size.wh, mask.size.wh)
    if (scale == 1).all():
        return box, _pixels(mask, box).astype(np.float32)
    step_x, step_y = (max(1, math.floor(1 / s)) for s in scale)
    blocks = Window(box.x0 // step_x, box.y0 // step_y, -(-box.x1 // step_x), -(-box.y1 // step_y))
    mean = _block_mean(_pixels(mask, box), box, blocks, step_x, step_y)
    rest_x, rest_y = scale * (step_x, step_y)
    part = Window(
        math.floor(blocks.x0 * rest_x - 1),
        math.floor(blocks.y0 * rest_y - 1),
        math.ceil(blocks.x1 * rest_x + 1),
        math.ceil(blocks.y1 * rest_y + 1),
    ).clip(size)
    # Pixel centres lie at +0.5: picture pixel i of `part` is block (part.x0 + i + 0.5) / rest - 0.5 - blocks.x0.
    back = np.array(
        [
            [1 / rest_x, 0, (part.x0 + 0.5) / rest_x - 0.5 - blocks.x0],
            [0, 1 / rest_y, (part.y0 + 0.5) / rest_y - 0.5 - blocks.y0],
        ]
    )
    found = cv2.warpAffine(mean, back, (part.width, part.height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    enlarged = max(rest_x, rest_y)
    if enlarged > 1:  # keep the edge one pixel wide instead of one mask pixel wide
        found = ((found - 0.5) * enlarged + 0.5).clip(0, 1)
    return part, found


def _pixels(mask: Rle, box: Window) -> np.ndarray:
    if box.width * box.height > _WHOLE_MASK_SHARE * mask.size.pixels:
        return rle.decode(mask)[box.slices]
    return rle.decode_window(mask, box)


def _block_mean(pixels: np.ndarray, box: Window, blocks: Window, step_x: int, step_y: int) -> np.ndarray:
    """Mean of each block of step_y by step_x mask pixels; blocks start at multiples of the steps. float32."""
    if step_x == step_y == 1:
        return pixels.astype(np.float32)
    padded = np.zeros((blocks.height * step_y, blocks.width * step_x), dtype=np.float32)
    inner = box.shift(-blocks.x0 * step_x, -blocks.y0 * step_y)
    padded[inner.slices] = pixels
    return cv2.resize(padded, (blocks.width, blocks.height), interpolation=cv2.INTER_AREA)


def _paint(canvas: np.ndarray, part: Window, coverage: np.ndarray, colour: np.ndarray, alpha: float, outline_px: int) -> None:
    region = canvas[part.slices]
    weight = alpha * coverage[..., None]
    region[:] = np.rint(region * (1 - weight) + colour * weight)
    if not outline_px:
        return
    # An object of less than half a pixel still gets a dot.
    solid = (coverage >= min(0.5, float(coverage.max()))).astype(np.uint8)
    edges, _ = cv2.findContours(solid, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(part.x0, part.y0))
    # A contour is a chain of neighbouring pixels: one pixel wide it needs no smoothing, which would spill over.
    line = cv2.LINE_8 if outline_px == 1 else cv2.LINE_AA
    cv2.drawContours(canvas, edges, -1, colour.tolist(), outline_px, line)


def _ascii(labels: Sequence[str], class_id: int) -> str:
    label = labels[class_id] if class_id < len(labels) else ""
    return label if label and label.isascii() and label.isprintable() else f"class {class_id}"


def _write(canvas: np.ndarray, text: str, corner: np.ndarray, colour: np.ndarray) -> None:
    """Dark text on a plate of the object's colour, kept inside the picture."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    (width, height), below = cv2.getTextSize(text, font, scale, 1)
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - width - 4)))
    y = int(np.clip(corner[1], height + below + 2, max(height + below + 2, canvas.shape[0])))
    cv2.rectangle(canvas, (x, y - height - below - 2), (x + width + 4, y), colour.tolist(), -1)
    cv2.putText(canvas, text, (x + 2, y - below), font, scale, (16, 16, 16), 1, cv2.LINE_AA)
