"""One LabelMe file -> the objects drawn in it.

LabelMe writes one JSON a photo: the shapes with their labels, where the photo lies, and often the photo itself as base64.
Shapes of one label and one `group_id` are parts of one object. What becomes of the objects is convert.py's business.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayseg.datasets.coco_masks import is_number
from rayseg.datasets.files import join, parent, read_json
from rayseg.datasets.index_mask import read_index_mask
from rayseg.errors import DatasetError, ImageError
from rayseg.geometry import Size, Window
from rayseg.images import read_header
from rayseg.polygons import rasterize
from rayseg.rle import Rle, decode, encode, encode_in_window

_CIRCLE_CORNERS = 64


@dataclass(frozen=True)
class LabelmeObject:
    """One object.

    Attributes:
        label: as drawn.
        polygons: flat lists x0, y0, x1, y1, ...; empty where the object is given as pixels.
        pixels: the mask of an object given as pixels, else None.
        order: number of its first shape; later shapes lie on top of earlier ones.
    """

    label: str
    polygons: tuple[tuple[float, ...], ...]
    pixels: Rle | None
    order: int

    def mask(self, size: Size) -> np.ndarray:
        """bool (H, W), by the rules of the COCO tools."""
        out = rasterize(self.polygons, size)
        return out if self.pixels is None else out | decode(self.pixels)


@dataclass(frozen=True)
class LabelmeFile:
    """One annotated photo.

    Attributes:
        file: the JSON.
        image: where the photo lies, if it is there; None where only `image_data` is.
        image_name: last part of `imagePath`.
        image_data: the bytes of the photo where it lies nowhere but in the JSON, else None.
        size: of the photo as decoded.
        objects: in drawing order.
    """

    file: Path
    image: Path | None
    image_name: str
    image_data: bytes | None
    size: Size
    objects: tuple[LabelmeObject, ...]


def is_labelme(content: Any) -> bool:
    """True for parsed JSON with LabelMe's shapes."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read_labelme(file: Path, *, image_folder: Path | None = None, by_shape: bool = False) -> LabelmeFile:
    """Read and check one file.

    The photo is looked for beside the JSON, as `imagePath` says, then by its last name in `image_folder`, then in
    `imageData`.

    Args:
        by_shape: each shape an object of its own, whatever its group: what a label map needs, where order decides.

    Raises:
        DatasetError: it is no LabelMe file, a shape has no area, or the photo is missing or of another size. All that is
            wrong with the shapes is in the message.
    """
    content = read_json(file)
    if not is_labelme(content) or not isinstance(content.get("imagePath"), str):
        raise DatasetError(f"{file}: not a LabelMe file: it needs shapes and imagePath; delete it or leave it out of the list")
    name = content["imagePath"].replace("\\", "/").rpartition("/")[2]
    image, data = _photo(file, content, name, image_folder)
    try:
        header = read_header(data)
    except ImageError as problem:
        raise DatasetError(f"{file}: its photo {image or 'in imageData'} cannot be read: {problem}") from problem
    size = Size(header.height, header.width)
    stated = (content.get("imageHeight"), content.get("imageWidth"))
    if None not in stated and stated != size.hw:
        raise DatasetError(
            f"{file}: imageHeight and imageWidth say {list(stated)}, the photo {image or 'in imageData'} has {list(size.hw)}; "
            "was it resized or turned after it was annotated? Restore it or annotate anew"
        )
    return LabelmeFile(file, image, name, None if image else data, size, _objects(content["shapes"], size, file, by_shape))


def _photo(file: Path, content: dict[str, Any], name: str, folder: Path | None) -> tuple[Path | None, bytes]:
    places = [Path(join(parent(file), content["imagePath"]))] + ([folder / name] if folder is not None else [])
    for place in places:
        if place.is_file():
            return place, place.read_bytes()
    embedded = content.get("imageData")
    if isinstance(embedded, str) and embedded:
        try:
            return None, base64.b64decode(embedded, validate=True)
        except (binascii.Error, ValueError) as problem:
            raise DatasetError(f"{file}: imageData is not base64 ({problem}), and the photo is not at {places[0]}") from None
    tried = " nor ".join(str(place) for place in places)
    raise DatasetError(f"{file}: its photo is neither at {tried}, nor in imageData; put it there or correct imagePath")


def _objects(shapes: list[Any], size: Size, file: Path, by_shape: bool) -> tuple[LabelmeObject, ...]:
    grouped: dict[tuple[Any, ...], list[tuple[int, Any]]] = {}
    problems = []
    for number, shape in enumerate(shapes):
        try:
            label, group = _label(shape)
            found = _area_of(shape, size)
        except DatasetError as problem:
            problems.append(f"shape {number}: {problem}")
            continue
        key = (label, None, number) if group is None or by_shape else (label, group)
        grouped.setdefault(key, []).append((number, found))
    if problems:
        raise DatasetError(f"{file}: " + "; ".join(problems))
    return tuple(_joined(str(key[0]), parts, size) for key, parts in grouped.items())


def _label(shape: Any) -> tuple[str, Any]:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
        raise DatasetError(f"has no label: {str(shape)[:60]}; label or delete it")
    group = shape.get("group_id")
    if group is not None and not isinstance(group, (int, str)):
        raise DatasetError(f"({shape['label']}) group_id is {group!r}; it is a number, or absent")
    return shape["label"], group


def _area_of(shape: dict[str, Any], size: Size) -> tuple[float, ...] | Rle:
    kind, label = shape.get("shape_type") or "polygon", shape["label"]
    points = shape.get("points")
    if not isinstance(points, list) or not all(_is_point(p) for p in points):
        raise DatasetError(f"({label}) points are not pairs of numbers: {str(points)[:60]}; draw it again")
    found = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if found.size and ((found < np.negative(size.wh)).any() or (found > np.multiply(size.wh, 2)).any()):
        raise DatasetError(f"({label}) a point lies far outside the photo of {size.width} x {size.height}; draw it again")
    wanted = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}
    if kind not in wanted:
        raise DatasetError(f"({label}) is a {kind}, which has no area; draw a polygon, or delete it")
    if len(found) < wanted[kind] or (kind != "polygon" and len(found) != wanted[kind]):
        more = " or more" if kind == "polygon" else ""
        raise DatasetError(f"({label}) a {kind} has {wanted[kind]}{more} points, got {len(found)}; draw it again")
    if kind == "mask":
        return _pixels(shape, found, size)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = found
        found = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind == "circle":
        angle = np.linspace(0, 2 * math.pi, _CIRCLE_CORNERS, endpoint=False)
        found = found[0] + math.dist(*found) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return tuple(found.ravel().tolist())


def _pixels(shape: dict[str, Any], points: np.ndarray, size: Size) -> Rle:
    """A shape drawn as pixels: a PNG of the box between two points, both inclusive."""
    label = shape["label"]
    try:
        data = base64.b64decode(shape.get("mask") or "", validate=True)
        bits = read_index_mask(data) != 0
    except (ImageError, binascii.Error, ValueError, TypeError) as problem:
        raise DatasetError(f"({label}) its pixels cannot be read: {problem}; draw it again") from None
    x, y = (round(v) for v in points.min(axis=0).tolist())
    window = Window(x, y, x + bits.shape[1], y + bits.shape[0])
    inside = window.clip(size)
    return encode_in_window(bits[inside.shift(-x, -y).slices] if not inside.empty else np.zeros((0, 0), bool), inside, size)


def _joined(label: str, parts: list[tuple[int, Any]], size: Size) -> LabelmeObject:
    polygons = tuple(found for _, found in parts if not isinstance(found, Rle))
    painted = [found for _, found in parts if isinstance(found, Rle)]
    pixels = painted[0] if painted else None
    if len(painted) > 1:
        pixels = encode(np.logical_or.reduce([decode(one) for one in painted]))
    return LabelmeObject(label, polygons, pixels, parts[0][0])


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_number(v) for v in value)
