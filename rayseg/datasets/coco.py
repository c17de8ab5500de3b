"""COCO instance annotations -> `Sample`s.

Masks may be polygons, uncompressed or compressed RLE (coco_masks.py). Crowd regions (`iscrowd` 1) cover many objects with
one mask: they are no training targets, but stay in `ground_truth` for the metric to ignore. The whole file is checked when
it is opened, so that a bad annotation stops a run before its first epoch and not in the middle of it; check_coco.py lists
all that is wrong instead. The metric lives in metrics/mask_ap.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayseg.datasets.coco_masks import check_segmentation, read_mask
from rayseg.datasets.files import Reader, join, read_json, read_local
from rayseg.datasets.sample import Sample
from rayseg.errors import DatasetError, ImageError
from rayseg.geometry import Size
from rayseg.images import decode

_LARGEST_SIDE = 1e9


@dataclass(frozen=True)
class CocoImage:
    """One entry of `images` with the objects that are training targets.

    Attributes:
        image_id: of the file.
        uri: path or URL of the image.
        size: as annotated.
        annotations: those of this image, without crowds.
    """

    image_id: int | str
    uri: str
    size: Size
    annotations: tuple[dict[str, Any], ...]

    @property
    def path(self) -> Path:
        """The image as a path; of a local data set only."""
        return Path(self.uri)


class CocoInstances:
    """A COCO annotation file and the folder of its images. Length, index and iteration are over images, in file order.

    Attributes:
        labels: class names; the order of `categories` in the file, which is the order PaddleX gives class ids in.
        category_ids: COCO's category id of each class index.
        class_of: category id -> class index.
        ground_truth: the parsed file.
        images: what was found, without pixels.
    """

    def __init__(
        self, annotations: Path | str, images: Path | str, *, like: CocoInstances | None = None, read: Reader = read_local
    ) -> None:
        """Read and check an annotation file.

        Args:
            annotations: path or URL of the file.
            images: folder or URL that `file_name`s are relative to; an absolute `file_name` or a URL stands for itself.
            like: take the class order of this set. A validation file may list its categories in another order than the
                training file, and a network has only one.
            read: reads files, also images.

        Raises:
            DatasetError: the file is no COCO instance file, refers to something missing, holds a mask that cannot be read,
                or has other categories than `like`.
        """
        self._file, self._read = str(annotations), read
        self.ground_truth = parse(read_json(annotations, read), self._file)
        categories = {category["id"]: str(category["name"]) for category in self.ground_truth["categories"]}
        if len(categories) != len(self.ground_truth["categories"]):
            ids = tuple(category["id"] for category in self.ground_truth["categories"])
            raise DatasetError(f"{self._file}: two categories share an id; ids found: {ids}. Number them anew")
        if like is not None:
            categories = self._in_order_of(like, categories)
        self.labels = tuple(categories.values())
        self.category_ids = tuple(categories)
        self.class_of = {category_id: index for index, category_id in enumerate(self.category_ids)}
        self.images = self._index(str(images))

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Decode one image and its masks; see `load_sample`."""
        return load_sample(self.images[index], self.class_of, read=self._read)

    def image(self, index: int) -> np.ndarray:
        """Decode one image without its masks, uint8 (H, W, 3) RGB; raises as `load_sample`."""
        return _read_image(self.images[index], self._read)

    def _in_order_of(self, like: CocoInstances, found: Mapping[Any, str]) -> dict[Any, str]:
        wanted = dict(zip(like.category_ids, like.labels, strict=True))
        if wanted != found:
            odd = sorted(f"{key}: {name}" for key, name in wanted.items() ^ found.items())
            raise DatasetError(
                f"{self._file}: its categories differ from those of {like._file} in {', '.join(odd[:6])}"
                f"{' ...' if len(odd) > 6 else ''}; both files must list the same ids with the same names"
            )
        return wanted

    def _index(self, folder: str) -> tuple[CocoImage, ...]:
        entries = self.ground_truth["images"]
        sizes = {i["id"]: Size(int(i["height"]), int(i["width"])) for i in entries}
        if len(sizes) != len(entries):
            raise DatasetError(f"{self._file}: two images share an id; number them anew")
        targets: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in sizes}
        for annotation in self.ground_truth["annotations"]:
            self._check(annotation, sizes)
            if not annotation.get("iscrowd", 0):
                targets[annotation["image_id"]].append(annotation)
        return tuple(CocoImage(i["id"], join(folder, i["file_name"]), sizes[i["id"]], tuple(targets[i["id"]])) for i in entries)

    def _check(self, annotation: dict[str, Any], sizes: dict[Any, Size]) -> None:
        where = f"{self._file}: annotation {annotation.get('id')!r}"
        problem = reference_problem(annotation, sizes, self.class_of)
        if problem:
            raise DatasetError(f"{where} {problem}")
        try:
            check_segmentation(annotation["segmentation"], sizes[annotation["image_id"]])
        except DatasetError as error:
            raise DatasetError(f"{where}: {error}") from None


def load_sample(entry: CocoImage, class_of: Mapping[Any, int], *, read: Reader = read_local) -> Sample:
    """Decode one image and its masks.

    Args:
        entry: one of `CocoInstances.images`.
        class_of: category id -> class index.

    Raises:
        DatasetError: the image is missing, unreadable or of another size than the annotations say.
    """
    image = _read_image(entry, read)
    found = [(read_mask(a, entry.size), class_of[a["category_id"]]) for a in entry.annotations]
    kept = [(patch, class_index) for patch, class_index in found if patch is not None]
    classes = np.asarray([class_index for _, class_index in kept], dtype=np.int64)
    return Sample(image, tuple(patch for patch, _ in kept), classes, entry.uri.rpartition("/")[2])


def parse(content: Any, file: str) -> dict[str, Any]:
    """Check that parsed JSON has the lists of a COCO instance file and that images and categories have their keys.

    Raises:
        DatasetError: it has not.
    """
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise DatasetError(f"{file}: not a COCO instance file: it needs the lists images, annotations and categories")
    for part in parts:
        for entry in content[part]:
            if not isinstance(entry, dict):
                raise DatasetError(f"{file}: an entry of {part} is no JSON object: {str(entry)[:80]}; delete or mend it")
    for entry in content["images"]:
        check_image_entry(entry, file)
    for entry in content["categories"]:
        _check_keys(entry, ("id", "name"), "categories", file)
        if not is_id(entry["id"]):
            raise DatasetError(f"{file}: category id {entry['id']!r} is neither a whole number nor a string; number them anew")
    if not content["images"] or not content["categories"]:
        raise DatasetError(f"{file}: lists no {'images' if content['categories'] else 'categories'}; nothing to learn from")
    return content


def reference_problem(annotation: Mapping[str, Any], image_ids: Collection[Any], category_ids: Collection[Any]) -> str | None:
    """What keeps an annotation from naming one image, one class and a mask; None where it names them."""
    has_mask = annotation.get("segmentation") not in (None, [], {}, "")
    if not has_mask and "bbox" in annotation:
        return (
            "has a box but no mask; instance segmentation cannot learn an outline from a box: draw it, delete the annotation, "
            "or let a model propose masks and correct them"
        )
    missing = {"image_id", "category_id", "segmentation"} - annotation.keys()
    if missing:
        return f"lacks {', '.join(sorted(missing))}; instance annotations need a mask and a class"
    if not is_id(annotation["image_id"]) or annotation["image_id"] not in image_ids:
        return f"belongs to image {annotation['image_id']!r}, which `images` does not list; delete it or add the image"
    if not is_id(annotation["category_id"]) or annotation["category_id"] not in category_ids:
        return (
            f"has category {annotation['category_id']!r}; `categories` lists {str(list(category_ids))[:200]}: "
            "add the category or correct the annotation"
        )
    return None


def is_id(value: Any) -> bool:
    """True for what may be an id: a whole number or a string."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def check_image_entry(entry: Any, file: str) -> None:
    """Raise where an entry of `images` does not name one image and its size.

    Raises:
        DatasetError: it does not.
    """
    if not isinstance(entry, dict):
        raise DatasetError(f"{file}: an entry of images is no JSON object: {str(entry)[:80]}; delete or mend it")
    _check_keys(entry, ("id", "file_name", "height", "width"), "images", file)
    where = f"{file}: image {entry['id']!r}"
    if not is_id(entry["id"]):
        raise DatasetError(f"{where}: an id is a whole number or a string; number the images anew")
    if not isinstance(entry["file_name"], str) or not entry["file_name"]:
        raise DatasetError(f"{where}: file_name is {entry['file_name']!r}; it names the image, relative to the folder of images")
    for side in ("height", "width"):
        value = entry[side]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value < _LARGEST_SIDE or value % 1:
            raise DatasetError(f"{where}: {side} is {value!r}; it is the image's, in whole pixels")


def _check_keys(entry: Mapping[str, Any], keys: tuple[str, ...], part: str, file: str) -> None:
    missing = [key for key in keys if key not in entry]
    if missing:
        raise DatasetError(f"{file}: an entry of {part} lacks {', '.join(missing)}: {str(entry)[:80]}; complete or delete it")


def _read_image(entry: CocoImage, read: Reader) -> np.ndarray:
    try:
        image = decode(read(entry.uri))
    except FileNotFoundError:
        raise DatasetError(f"{entry.uri}: image {entry.image_id} of the annotations is not there") from None
    except OSError as error:
        raise DatasetError(f"{entry.uri}: cannot be read: {error}") from error
    except ImageError as error:
        raise DatasetError(f"{entry.uri}: cannot be decoded: {error}") from error
    if image.shape[:2] != entry.size.hw:
        raise DatasetError(
            f"{entry.uri}: has [height, width] {list(image.shape[:2])}, the annotations say {list(entry.size.hw)}; "
            "was the image resized or rotated after it was annotated?"
        )
    return image
