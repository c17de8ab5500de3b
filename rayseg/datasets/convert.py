"""Other annotation formats -> the layouts that train: LabelMe -> COCO, VOC instance masks -> COCO, LabelMe -> index masks.

Everything is read and checked before anything is written, and what is wrong is reported for all files at once. Files that
were there are kept as .bak (files.py). The formats themselves are labelme.py's and voc.py's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rayseg import rle
from rayseg.config.load import nearest
from rayseg.datasets import voc
from rayseg.datasets.files import local_folder, read_json, read_lines, write_new
from rayseg.datasets.index_mask import write_index_mask
from rayseg.datasets.labelme import is_labelme, read_labelme
from rayseg.datasets.layout import TRAIN, VAL, read_class_names
from rayseg.datasets.sample import IGNORE, tight_patch
from rayseg.datasets.semantic import format_line
from rayseg.datasets.split import COCO_NAME, IMAGES, chosen_for_training
from rayseg.errors import ConfigError, DatasetError
from rayseg.rle import Rle

SOURCES = ("LabelMe", "VOC")
BACKGROUND_LABEL, IGNORE_LABEL = "_background_", "__ignore__"
_LISTS = "{}_anno_list.txt"
_FOLDERS = ("annotations", "labelme", "Annotations", "")  # where LabelMe files are looked for without a list
_THREADS = 8
_SHOWN = 20
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Attributes:
        files_written: annotation files, lists and masks.
        backups: where older files of the same names are kept.
        images: converted.
        objects: converted.
        class_names: by class id (masks) or category id - 1 (COCO).
        warnings: what was left out, and what was assumed.
    """

    files_written: tuple[str, ...]
    backups: tuple[str, ...]
    images: int
    objects: int
    class_names: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass
class _Output:
    """Collects what is written."""

    written: list[str] = field(default_factory=list)
    backups: list[str] = field(default_factory=list)

    def write(self, path: Path, data: bytes | str) -> None:
        kept = write_new(path, data)
        self.written.append(str(path))
        self.backups += [str(kept)] if kept else []


@dataclass(frozen=True)
class _Object:
    label: str
    segmentation: Any
    area: int
    bbox: list[float]

    @classmethod
    def of(cls, label: str, mask: np.ndarray, polygons: Sequence[Sequence[float]] = ()) -> _Object:
        """With polygons as they are, or with the mask as RLE where there are none."""
        segmentation: Any = [list(polygon) for polygon in polygons] or _coco_rle(rle.encode(mask))
        patch = tight_patch(mask)
        if patch is None:
            return cls(label, segmentation, 0, [])
        w = patch.window
        return cls(label, segmentation, patch.area, [float(v) for v in (w.x0, w.y0, w.width, w.height)])


@dataclass(frozen=True)
class _Image:
    """One image ready to be written: where it lies, or its bytes where it lies nowhere."""

    source: str
    path: Path | None
    name: str
    data: bytes | None
    size_hw: tuple[int, int]
    objects: tuple[_Object, ...]


def convert(
    dataset_dir: str | Path,
    *,
    task: str,
    source: str,
    train_percent: float = 80,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> Converted:
    """Convert a data set in place.

    LabelMe: train_anno_list.txt and val_anno_list.txt name the files, as in PaddleX; without the second the first is split,
    without both all LabelMe files of annotations/, labelme/ or the folder itself are.

    Args:
        dataset_dir: a local folder.
        task: "instance": writes annotations/instance_{train,val}.json; "semantic": masks in annotations/, train.txt, val.txt
            and class_name.txt.
        source: "LabelMe" or, for instances, "VOC".
        train_percent, seed: of the split, where the data set has none.
        class_names: in the order of class ids; None takes labels.txt or class_name.txt, else the order in which labels appear,
            training files first.

    Raises:
        ConfigError: no such conversion.
        DatasetError: something in the files is wrong; nothing was written.
    """
    kinds: dict[tuple[str, str], Callable[..., Converted]] = {
        ("LabelMe", "instance"): _labelme_to_coco,
        ("LabelMe", "semantic"): _labelme_to_masks,
        ("VOC", "instance"): _voc_to_coco,
    }
    if source not in SOURCES:
        raise ConfigError(f"src_dataset_type {source!r} is unknown; use {' or '.join(SOURCES)}{nearest(source, SOURCES)}")
    if (source, task) not in kinds:
        raise ConfigError(
            f"there is no conversion of {source} for {task} segmentation; VOC's SegmentationClass/ are index masks already: "
            "list them in train.txt and val.txt"
        )
    if not 0 < train_percent < 100:
        raise ConfigError(f"train_percent must lie between 0 and 100, got {train_percent}")
    folder = local_folder(dataset_dir, "convert")
    names = tuple(class_names) if class_names is not None else read_class_names(folder)
    return kinds[source, task](folder, names, train_percent, seed)


def _labelme_to_coco(root: Path, names: tuple[str, ...] | None, train_percent: float, seed: int) -> Converted:
    out = _Output()
    splits = _labelme_files(root, train_percent, seed)
    images = {split: _all(lambda file: _coco_image(root, file), files) for split, files in splits.items()}
    if names is not None:
        names = tuple(name for name in names if name not in (BACKGROUND_LABEL, IGNORE_LABEL))
    result = _write_coco(root, images, names, out, [])
    _write_lists(root, splits, out)
    return replace(result, files_written=tuple(out.written), backups=tuple(out.backups))


def _coco_image(root: Path, file: Path) -> _Image:
    found = read_labelme(file, image_folder=root / IMAGES)
    objects = tuple(
        _Object.of(one.label, one.mask(found.size), one.polygons if one.pixels is None else ()) for one in found.objects
    )
    return _Image(str(file), found.image, found.image_name, found.image_data, found.size.hw, objects)


def _voc_to_coco(root: Path, names: tuple[str, ...] | None, train_percent: float, seed: int) -> Converted:
    if not voc.is_voc(root):
        raise DatasetError(f"{root}: no VOC instance masks: {voc.OBJECTS}/ and {voc.CLASSES}/ must be there")
    lists = {split: voc.read_names(root, split) for split in (TRAIN, VAL)}
    if lists[TRAIN] is None or lists[VAL] is None:
        everything = voc.all_names(root)
        training = chosen_for_training(everything, train_percent, seed)
        lists = {TRAIN: sorted(training), VAL: sorted(set(everything) - training)}
    found = {split: _all(lambda name: voc.read_voc(root, name), chosen or []) for split, chosen in lists.items()}
    largest = max((class_id for images in found.values() for image in images for class_id in image.classes), default=0)
    warnings = []
    if names is None:
        if largest > len(voc.VOC_CLASSES):
            raise DatasetError(f"{root}: class ids up to {largest} without names; write labels.txt, one a line, background first")
        names = ("background", *voc.VOC_CLASSES)
        warnings.append(f"{root}: there is no labels.txt; the twenty names of VOC 2012 were taken")
    if largest >= len(names):
        raise DatasetError(f"{root}: class id {largest} has no name; the list has {len(names)} lines, background first")
    images = {split: [_voc_image(root, one, names) for one in chosen] for split, chosen in found.items()}
    return _write_coco(root, images, names[1:], _Output(), warnings)


def _voc_image(root: Path, found: voc.VocImage, names: Sequence[str]) -> _Image:
    objects = tuple(_Object.of(names[class_id], found.labels == i) for i, class_id in enumerate(found.classes, start=1))
    return _Image(str(root / voc.OBJECTS), found.image, found.image.name, None, found.size.hw, objects)


def _labelme_to_masks(root: Path, names: tuple[str, ...] | None, train_percent: float, seed: int) -> Converted:
    splits = _labelme_files(root, train_percent, seed)
    read = {
        split: _all(lambda file: read_labelme(file, image_folder=root / IMAGES, by_shape=True), files)
        for split, files in splits.items()
    }
    if names is not None:
        names = tuple(name for name in names if name != IGNORE_LABEL)
        names = names if BACKGROUND_LABEL in names[:1] or "background" in names[:1] else (BACKGROUND_LABEL, *names)
    found = [one.label for files in read.values() for file in files for one in file.objects]
    names = _checked_names(found, names, skip=(BACKGROUND_LABEL, IGNORE_LABEL), first=(BACKGROUND_LABEL,))
    if len(names) > IGNORE:
        raise DatasetError(f"{root}: {len(names)} classes; an index mask holds {IGNORE} and one value to ignore. Join some")
    ids = {name: number for number, name in enumerate(names)} | {BACKGROUND_LABEL: 0, IGNORE_LABEL: IGNORE}
    out, taken = _Output(), set[str]()
    for split, files in read.items():
        lines = []
        for one in files:
            image = _place(root, _Image(str(one.file), one.image, one.image_name, one.image_data, one.size.hw, ()), out)
            mask_name = _free_name(one.file, taken)
            labels = np.zeros(one.size.hw, dtype=np.uint8)
            for drawn in one.objects:
                labels[drawn.mask(one.size)] = ids[drawn.label]
            out.write(root / "annotations" / mask_name, write_index_mask(labels))
            lines.append(format_line(os.path.relpath(image, root).replace(os.sep, "/"), f"annotations/{mask_name}"))
        out.write(root / f"{split}.txt", "".join(f"{line}\n" for line in lines))
    out.write(root / "class_name.txt", "".join(f"{name}\n" for name in names))
    _write_lists(root, splits, out)
    return Converted(tuple(out.written), tuple(out.backups), sum(map(len, read.values())), len(found), names, ())


def _labelme_files(root: Path, train_percent: float, seed: int) -> dict[str, list[Path]]:
    lists = {split: root / _LISTS.format(split) for split in (TRAIN, VAL)}
    named = {split: [root / text for _, text in read_lines(path)] for split, path in lists.items() if path.is_file()}
    if len(named) == len(lists):
        return named
    if VAL in named:
        raise DatasetError(f"{lists[VAL]}: there, but {lists[TRAIN].name} is not; list the training files, too")
    files = named.get(TRAIN) or _labelme_in(root)
    by_name = {str(path.relative_to(root) if path.is_relative_to(root) else path): path for path in files}
    training = chosen_for_training(list(by_name), train_percent, seed)
    return {
        TRAIN: [path for name, path in sorted(by_name.items()) if name in training],
        VAL: [path for name, path in sorted(by_name.items()) if name not in training],
    }


def _labelme_in(root: Path) -> list[Path]:
    for folder in _FOLDERS:
        files = sorted((root / folder).glob("*.json"))
        found = [path for path in files if is_labelme(read_json(path))]
        if found:
            return found
    tried = ", ".join(f"{folder}/" for folder in _FOLDERS if folder)
    raise DatasetError(f"{root}: no LabelMe files: neither {_LISTS.format(TRAIN)} nor any in {tried} or the folder itself")


def _write_lists(root: Path, splits: dict[str, list[Path]], out: _Output) -> None:
    """The lists as split, where there was one for everything; PaddleX finds both there then."""
    if (root / _LISTS.format(TRAIN)).is_file() and not (root / _LISTS.format(VAL)).is_file():
        for split, files in splits.items():
            out.write(root / _LISTS.format(split), "".join(f"{os.path.relpath(path, root)}\n" for path in files))


def _write_coco(
    root: Path, images: dict[str, list[_Image]], names: tuple[str, ...] | None, out: _Output, warnings: list[str]
) -> Converted:
    found = [one.label for chosen in images.values() for image in chosen for one in image.objects]
    names = _checked_names(found, names, skip=(BACKGROUND_LABEL, IGNORE_LABEL))
    ids = {name: number for number, name in enumerate(names, start=1)}
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]
    (root / IMAGES).mkdir(exist_ok=True)  # names are relative to it, also those of images elsewhere
    image_id = objects = 0
    for split, chosen in images.items():
        entries, annotations = [], []
        for image in chosen:
            image_id += 1
            name = os.path.relpath(_place(root, image, out), root / IMAGES).replace(os.sep, "/")
            entries.append({"id": image_id, "file_name": name, "height": image.size_hw[0], "width": image.size_hw[1]})
            for one in image.objects:
                if one.label not in ids or not one.area:
                    why = "its label means no object" if one.label not in ids else "it covers no pixel"
                    warnings.append(f"{image.source}: an object {one.label!r} was left out: {why}")
                    continue
                objects += 1
                annotations.append(_coco_annotation(one, objects, image_id, ids[one.label]))
        content = {"images": entries, "annotations": annotations, "categories": categories}
        out.write(root / COCO_NAME.format(split), json.dumps(content))
    return Converted(tuple(out.written), tuple(out.backups), image_id, objects, names, tuple(warnings))


def _coco_annotation(one: _Object, number: int, image_id: int, category_id: int) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": one.segmentation,
        "area": one.area,
        "bbox": one.bbox,
        "iscrowd": 0,
    }


def _coco_rle(mask: Rle) -> dict[str, Any]:
    return {"size": list(mask.size.hw), "counts": mask.counts.decode("ascii")}


def _checked_names(
    found: Sequence[str], names: tuple[str, ...] | None, *, skip: Sequence[str], first: Sequence[str] = ()
) -> tuple[str, ...]:
    labels = [label for label in dict.fromkeys(found) if label not in skip]
    if names is None:
        names = (*first, *labels)
    unknown = [label for label in labels if label not in names]
    if unknown:
        listed = ", ".join(f"{label!r}{nearest(label, names)}" for label in unknown[:5])
        raise DatasetError(f"labels that the list of classes lacks: {listed}; add them to the list or correct the annotations")
    if not labels:
        raise DatasetError("no object has a label that means a class; nothing to learn from")
    return names


def _place(root: Path, image: _Image, out: _Output) -> Path:
    """Where the image lies; one that lies nowhere is written to images/."""
    if image.path is not None:
        return image.path
    path = root / IMAGES / image.name
    if str(path) in out.written:
        raise DatasetError(f"{image.source}: its photo {image.name!r} has the name of another; rename one, in imagePath")
    out.write(path, image.data or b"")
    return path


def _free_name(file: Path, taken: set[str]) -> str:
    for name in (f"{file.stem}.png", f"{file.parent.name}_{file.stem}.png"):
        if name not in taken:
            taken.add(name)
            return name
    raise DatasetError(f"{file}: another file of this name was converted already; rename one")


def _all(read: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Read all; what is wrong with any is in one error.

    Raises:
        DatasetError: with the first problems and their number.
    """

    def attempt(item: T) -> R | DatasetError:
        try:
            return read(item)
        except DatasetError as problem:
            return problem

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(attempt, items))
    problems = [str(one) for one in found if isinstance(one, DatasetError)]
    if problems:
        more = f"\n... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DatasetError(f"{len(problems)} files cannot be converted:\n" + "\n".join(problems[:_SHOWN]) + more)
    return [one for one in found if not isinstance(one, DatasetError)]
