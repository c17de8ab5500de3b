"""Pascal VOC's instance masks -> objects: an index image that numbers the objects, and one that says their classes.

    JPEGImages/<name>.jpg    SegmentationObject/<name>.png    SegmentationClass/<name>.png
    ImageSets/Segmentation/{train,val}.txt                    one name a line

0 is background, 255 the void along outlines. What becomes of the objects is convert.py's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rayseg.datasets.files import read_lines
from rayseg.datasets.index_mask import read_index_mask
from rayseg.datasets.semantic import SUFFIXES
from rayseg.errors import DatasetError, ImageError
from rayseg.geometry import Size
from rayseg.images import read_header

IMAGES, OBJECTS, CLASSES, LISTS = "JPEGImages", "SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"
VOID = 255
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Of VOC 2012, for class ids 1 to 20."""


@dataclass(frozen=True)
class VocImage:
    """One annotated photo.

    Attributes:
        image: where it lies.
        size: of it.
        classes: class id of each object, from 1.
        labels: uint8 (H, W): i + 1 for the pixels of object i, 0 elsewhere.
    """

    image: Path
    size: Size
    classes: tuple[int, ...]
    labels: np.ndarray


def is_voc(root: Path) -> bool:
    """True for a folder with VOC's instance masks."""
    return (root / OBJECTS).is_dir() and (root / CLASSES).is_dir()


def read_names(root: Path, split: str) -> list[str] | None:
    """Names of a split's images; None where it has no list.

    Raises:
        DatasetError: the list cannot be read.
    """
    path = root / LISTS / f"{split}.txt"
    return [text.split()[0] for _, text in read_lines(path)] if path.is_file() else None


def all_names(root: Path) -> list[str]:
    """Names of all images with objects, sorted."""
    return sorted(path.stem for path in (root / OBJECTS).iterdir() if path.suffix.lower() in SUFFIXES)


def read_voc(root: Path, name: str) -> VocImage:
    """Read and check the two masks of one image.

    Raises:
        DatasetError: a file is missing or unreadable, sizes differ, or an object has no class or several.
    """
    image = _existing(root / IMAGES, name, "photo")
    objects, classes = (_mask(_existing(root / part, name, "mask")) for part in (OBJECTS, CLASSES))
    try:
        header = read_header(image.read_bytes())
    except ImageError as problem:
        raise DatasetError(f"{image}: cannot be read: {problem}; mend it or delete its name from the list") from problem
    size = Size(header.height, header.width)
    for part, labels in ((OBJECTS, objects), (CLASSES, classes)):
        if labels.shape != size.hw:
            raise DatasetError(
                f"{root / part / name}: the mask has [height, width] {list(labels.shape)}, the photo {list(size.hw)}; "
                "was the photo resized or turned after it was annotated?"
            )
    numbers = [int(i) for i in np.unique(objects) if i not in (0, VOID)]
    found = [_class_of(root / OBJECTS / name, number, classes[objects == number]) for number in numbers]
    renumber = np.zeros(256, dtype=np.uint8)
    renumber[numbers] = np.arange(1, len(numbers) + 1)
    return VocImage(image, size, tuple(found), renumber[objects])


def _existing(folder: Path, name: str, what: str) -> Path:
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise DatasetError(f"{folder}/{name}: no {what} of that name; add it or delete the name from the list")


def _mask(path: Path) -> np.ndarray:
    try:
        labels = read_index_mask(path.read_bytes())
    except ImageError as problem:
        raise DatasetError(f"{path}: no usable mask: {problem}") from problem
    if labels.dtype != np.uint8:
        raise DatasetError(f"{path}: holds numbers up to {labels.max()}; VOC's masks end at 254, with 255 for void")
    return labels


def _class_of(where: Path, number: int, classes: np.ndarray) -> int:
    counts = np.bincount(classes.ravel(), minlength=256)
    counts[[0, VOID]] = 0
    found = np.flatnonzero(counts)
    if found.size != 1:
        listed = str(found.tolist())[1:-1]
        problem = f"lies on the classes {listed}" if found.size else "has no class under it"
        raise DatasetError(f"{where}: object {number} {problem}; correct {CLASSES}/, one class for each object")
    return int(found[0])
