"""COCO's rows -> what matching compares: the regions of one image, annotated or found, as masks or as boxes.

Everything is checked here, because pycocotools compares masks of different sizes, boxes of NaN and unknown ids without a word.
Matching is coco_match.py's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from rayseg.datasets.coco_masks import to_rle
from rayseg.errors import DatasetError
from rayseg.geometry import Size

Kind = Literal["mask", "box"]
Id = int | str
Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Regions:
    """Objects of one image; row i of every field being object i.

    Attributes:
        categories: category ids.
        shapes: compressed RLE dicts of the whole image, or float64 (n, 4) boxes as x, y, width, height.
        areas: float64 (n,), pixels; decides which sizes an object counts for.
        scores: float64 (n,); None for annotated objects.
        crowd: bool (n,), regions of many objects; None for found objects.
    """

    categories: tuple[Id, ...]
    shapes: Sequence[Mapping[str, Any]] | np.ndarray
    areas: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.categories)


@dataclass(frozen=True)
class Names:
    """What rows may refer to: image id -> size, and category ids, in the order of both in the file."""

    sizes: Mapping[Id, Size]
    categories: tuple[Id, ...]

    @classmethod
    def of(cls, ground_truth: Row) -> Names:
        """Those of a COCO dict.

        Raises:
            DatasetError: two images or categories share an id.
        """
        sizes = {image["id"]: Size(int(image["height"]), int(image["width"])) for image in ground_truth["images"]}
        categories = tuple(category["id"] for category in ground_truth["categories"])
        if len(sizes) != len(ground_truth["images"]) or len(set(categories)) != len(categories):
            raise DatasetError("two images or two categories of the ground truth share an id; number them anew")
        return cls(sizes, categories)

    def by_image(self, what: str, rows: Iterable[Row]) -> dict[Id, list[tuple[int, Row]]]:
        """Rows with their positions, grouped by image; images without rows have no entry.

        Raises:
            DatasetError: a row refers to an unknown image or category.
        """
        known, out = set(self.categories), dict[Id, list[tuple[int, Row]]]()
        for position, row in enumerate(rows):
            if row["image_id"] not in self.sizes:
                raise DatasetError(
                    f"{what} {position} is on image {row['image_id']!r}, which the ground truth does not list. "
                    "Score against the images that were predicted."
                )
            if row["category_id"] not in known:
                raise DatasetError(
                    f"{what} {position} has category {row['category_id']!r}; the ground truth knows {sorted(known, key=str)}. "
                    "Map class ids to category ids before scoring."
                )
            out.setdefault(row["image_id"], []).append((position, row))
        return out


def annotated(rows: Sequence[tuple[int, Row]], size: Size, kind: Kind) -> Regions:
    """Annotations of one image.

    Args:
        rows: position in the file and row: `category_id`; `segmentation` as polygons or RLE; `bbox` as x, y, width, height;
            `area`; `iscrowd`. A missing `area` or `bbox` is that of the mask, a missing `iscrowd` is 0. Boxes need no mask.

    Raises:
        DatasetError: a mask or box that cannot be compared.
    """
    shapes, areas = [], []
    for position, row in rows:
        where = f"annotation {row.get('id', position)!r}"
        mask = _mask(row, size, where) if kind == "mask" or not row.get("bbox") else None
        shape = mask if kind == "mask" else _box(row["bbox"] if mask is None else coco_mask.toBbox(mask), where)
        shapes.append(shape)
        areas.append(_area(row, where) if row.get("area") is not None else _area_of(shape if mask is None else mask))
    crowd = np.asarray([bool(row.get("iscrowd", 0)) for _, row in rows], dtype=bool)
    return Regions(tuple(row["category_id"] for _, row in rows), _stack(shapes, kind), np.asarray(areas, float), crowd=crowd)


def found(rows: Sequence[tuple[int, Row]], size: Size, kind: Kind) -> Regions:
    """Detections of one image.

    Args:
        rows: position and row: `category_id`, `score`, and `segmentation` (RLE of the whole image) or `bbox`. The area is that
            of the mask where masks are compared, that of the box where boxes are: an `area` in the row is not looked at.

    Raises:
        DatasetError: a mask of another size than the image, a box that is none, or a score that is not finite.
    """
    shapes: list[Any] = []
    for position, row in rows:
        where = f"detection {position}"
        if not math.isfinite(row["score"]):
            raise DatasetError(f"{where} has score {float(row['score'])}; scores must be finite. Did training diverge?")
        if kind == "box":
            shapes.append(_box(row["bbox"], where))
            continue
        rle = row["segmentation"]
        if tuple(int(n) for n in rle["size"]) != size.hw:
            raise DatasetError(f"{where} has a mask of size {tuple(rle['size'])} on an image of {size.hw} (height, width)")
        shapes.append(rle)
    scores = np.asarray([float(row["score"]) for _, row in rows], dtype=np.float64)
    areas = np.asarray([_area_of(shape) for shape in shapes], dtype=np.float64)
    return Regions(tuple(row["category_id"] for _, row in rows), _stack(shapes, kind), areas, scores=scores)


def _mask(row: Row, size: Size, where: str) -> dict[str, Any]:
    try:
        return to_rle(row.get("segmentation"), size).to_coco()
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from None


def _box(box: Any, where: str) -> np.ndarray:
    try:
        numbers = np.asarray(box, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (4,) or not np.isfinite(numbers).all() or (numbers[2:] < 0).any():
        raise DatasetError(f"{where} has the box {str(box)[:60]}; a box is x, y, width, height, finite and not negative")
    return numbers


def _area(row: Row, where: str) -> float:
    area = row["area"]
    if isinstance(area, bool) or not isinstance(area, (int, float)) or not math.isfinite(area):
        raise DatasetError(f"{where} has area {area!r}; write the pixels of its mask, or leave it out")
    return float(area)


def _area_of(shape: Any) -> float:
    return float(shape[2] * shape[3]) if isinstance(shape, np.ndarray) else float(coco_mask.area(shape))


def _stack(shapes: list[Any], kind: Kind) -> Any:
    return np.asarray(shapes, dtype=np.float64).reshape(-1, 4) if kind == "box" else shapes
