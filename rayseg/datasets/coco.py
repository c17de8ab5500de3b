"""COCO instance annotations -> `Sample`s.

Masks may be polygons, uncompressed or compressed RLE. Crowd regions (`iscrowd` 1) cover many objects with one mask:
they are no training targets, but stay in `ground_truth` for the metric to ignore. The whole file is checked when it is
opened, so that a bad annotation stops a run before its first epoch and not in the middle of it. The metric itself lives
in metrics/mask_ap.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from rayseg.datasets.sample import Patch, Sample, tight_patch
from rayseg.errors import DatasetError, ImageError
from rayseg.geometry import Size
from rayseg.images import decode


@dataclass(frozen=True)
class CocoImage:
    """One entry of `images` with the objects that are training targets."""

    image_id: int
    path: Path
    size: Size
    annotations: tuple[dict[str, Any], ...]


class CocoInstances:
    """A COCO annotation file and the folder of its images. Length, index and iteration are over images, in file order.

    Attributes:
        labels: class names in the order of `categories` in the file, the order PaddleX gives class ids in.
        category_ids: COCO's category id of each class index.
        ground_truth: the parsed file.
        images: what was found, without pixels.
    """

    def __init__(self, annotations: Path | str, images: Path | str) -> None:
        """Read and check an annotation file.

        Raises:
            DatasetError: the file is no COCO instance file, refers to something missing, or holds a mask that cannot
                be read.
        """
        self._file = Path(annotations)
        self.ground_truth = _parse(self._file)
        self.labels = tuple(str(category["name"]) for category in self.ground_truth["categories"])
        self.category_ids = tuple(int(category["id"]) for category in self.ground_truth["categories"])
        self._class_of = {category_id: index for index, category_id in enumerate(self.category_ids)}
        if len(self._class_of) != len(self.category_ids):
            raise DatasetError(f"{self._file}: two categories share an id; ids found: {self.category_ids}")
        self.images = self._index(Path(images))

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Decode one image and its masks.

        Raises:
            DatasetError: the image is missing, unreadable or of another size than the annotations say.
        """
        entry = self.images[index]
        image = _read_image(entry)
        found = [(read_mask(a, entry.size), self._class_of[a["category_id"]]) for a in entry.annotations]
        kept = [(patch, class_index) for patch, class_index in found if patch is not None]
        classes = np.asarray([class_index for _, class_index in kept], dtype=np.int64)
        return Sample(image, tuple(patch for patch, _ in kept), classes, entry.path.name)

    def _index(self, folder: Path) -> tuple[CocoImage, ...]:
        sizes = {int(i["id"]): Size(int(i["height"]), int(i["width"])) for i in self.ground_truth["images"]}
        if len(sizes) != len(self.ground_truth["images"]):
            raise DatasetError(f"{self._file}: two images share an id; number them anew")
        targets: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in sizes}
        for annotation in self.ground_truth["annotations"]:
            self._check(annotation, sizes)
            if not annotation.get("iscrowd", 0):
                targets[annotation["image_id"]].append(annotation)
        return tuple(
            CocoImage(int(i["id"]), folder / i["file_name"], sizes[int(i["id"])], tuple(targets[int(i["id"])]))
            for i in self.ground_truth["images"]
        )

    def _check(self, annotation: dict[str, Any], sizes: dict[int, Size]) -> None:
        where = f"{self._file}: annotation {annotation.get('id')!r}"
        missing = {"image_id", "category_id", "segmentation"} - annotation.keys()
        if missing:
            raise DatasetError(f"{where} lacks {', '.join(sorted(missing))}; instance annotations need a mask and a class")
        if annotation["image_id"] not in sizes:
            raise DatasetError(f"{where} belongs to image {annotation['image_id']!r}, which `images` does not list")
        if annotation["category_id"] not in self._class_of:
            raise DatasetError(
                f"{where} has category {annotation['category_id']!r}; `categories` lists {list(self.category_ids)}"
            )
        try:
            _check_segmentation(annotation["segmentation"], sizes[annotation["image_id"]])
        except DatasetError as error:
            raise DatasetError(f"{where}: {error}") from None


def read_mask(annotation: dict[str, Any], size: Size) -> Patch | None:
    """The mask of one annotation.

    Args:
        annotation: with `segmentation` as COCO allows it: a list of polygons [x0, y0, x1, y1, ...], or {size, counts}
            with counts as a list of runs or as a compressed string.
        size: of the image.

    Returns:
        None when no pixel is covered, as for a polygon thinner than a pixel.

    Raises:
        DatasetError: the segmentation has another form or size.
    """
    segmentation = annotation["segmentation"]
    _check_segmentation(segmentation, size)
    if isinstance(segmentation, list):
        encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size.hw))
    elif isinstance(segmentation["counts"], list):
        encoded = coco_mask.frPyObjects(segmentation, *size.hw)
    else:
        encoded = segmentation
    return tight_patch(coco_mask.decode(encoded))


def _check_segmentation(segmentation: Any, size: Size) -> None:
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise DatasetError(f"a polygon is a list of at least three x, y pairs, got {str(polygon)[:60]}")
        if not segmentation:
            raise DatasetError("the list of polygons is empty; delete the annotation or give it a mask")
    elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        if list(segmentation["size"]) != list(size.hw):
            raise DatasetError(f"RLE of size {segmentation['size']} in an image of [height, width] {list(size.hw)}")
        if isinstance(segmentation["counts"], list) and sum(segmentation["counts"]) != size.pixels:
            raise DatasetError(f"RLE runs add up to {sum(segmentation['counts'])} pixels, the image has {size.pixels}")
    else:
        raise DatasetError(f"segmentation is neither polygons nor RLE: {str(segmentation)[:60]}")


def _parse(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{file}: no such annotation file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not JSON ({error}); COCO annotations are one JSON object") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise DatasetError(f"{file}: not a COCO instance file: it needs the lists images, annotations and categories")
    for part, keys in (("images", ("id", "file_name", "height", "width")), ("categories", ("id", "name"))):
        for entry in content[part]:
            missing = [key for key in keys if key not in entry]
            if missing:
                raise DatasetError(f"{file}: an entry of {part} lacks {', '.join(missing)}: {str(entry)[:80]}")
    if not content["images"] or not content["categories"]:
        raise DatasetError(f"{file}: lists no {'images' if content['categories'] else 'categories'}; nothing to learn from")
    return content


def _read_image(entry: CocoImage) -> np.ndarray:
    try:
        image = decode(entry.path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"{entry.path}: image {entry.image_id} of the annotations is not there") from None
    except ImageError as error:
        raise DatasetError(f"{entry.path}: cannot be decoded: {error}") from error
    if image.shape[:2] != entry.size.hw:
        raise DatasetError(
            f"{entry.path}: has [height, width] {list(image.shape[:2])}, the annotations say {list(entry.size.hw)}; "
            "was the image resized or rotated after it was annotated?"
        )
    return image
