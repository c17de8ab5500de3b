"""Which files of a folder are the data set: PaddleX's layout, COCO's own folder names, and what the settings name.

Only names are looked at, through the callables given; what is in the files is for the readers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayseg.datasets.files import Reader, join, read_lines, read_local
from rayseg.errors import DatasetError

Exists = Callable[[str], bool]
"""Whether there is a file or folder of that path or URL."""

TRAIN, VAL = "train", "val"
CLASS_FILES = ("labels.txt", "class_name.txt", "class_names.txt")
"""One class name a line; the line number, from 0, is the class id."""

# Tried in this order; {} is train or val.
_COCO_FILES = (
    "annotations/instance_{}.json",
    "annotations/instances_{}.json",
    "annotations/instances_{}2017.json",
    "instance_{}.json",
    "instances_{}.json",
)
_WHOLE_COCO_FILES = (
    "annotations/instance_trainval.json",
    "annotations/instances.json",
    "annotations.json",
    "instances.json",
    "trainval.json",
)
_IMAGE_FOLDERS = ("images", "{}2017", "{}", "")
_LISTS = "{}.txt"


@dataclass(frozen=True)
class CocoFiles:
    """One split of an instance data set: the annotation file and the folder of its images, as paths or URLs."""

    annotations: str
    images: str


@dataclass(frozen=True)
class InstanceDir:
    """An instance data set."""

    root: str
    train: CocoFiles
    val: CocoFiles


@dataclass(frozen=True)
class SemanticDir:
    """A semantic data set.

    Attributes:
        root: folder or URL.
        train: the list.
        val: the list.
        images: what names in the lists are relative to.
        class_names: from one of CLASS_FILES; None where there is none.
    """

    root: str
    train: str
    val: str
    images: str
    class_names: tuple[str, ...] | None


def find_instance(
    dataset_dir: str | Path,
    *,
    image_dir: str | None = None,
    train: str | None = None,
    val: str | None = None,
    exists: Exists = os.path.exists,
) -> InstanceDir:
    """Where an instance data set keeps its two splits.

    Args:
        dataset_dir: folder or URL; a folder whose only `images` folder lies deeper is taken there, as PaddleX does.
        image_dir: folder of the images, relative to `dataset_dir`; None looks for it.
        train, val: annotation files, relative to `dataset_dir`; None looks for them.

    Raises:
        DatasetError: a file is not there; the message says which names were tried.
    """
    root = _root(str(dataset_dir), exists, given=bool(train and val))
    found = {}
    for split, given in ((TRAIN, train), (VAL, val)):
        annotations = _named(root, given, exists) if given else _first(root, _COCO_FILES, split, exists, "annotation file")
        images = join(root, image_dir) if image_dir is not None else _images_of(root, split, exists)
        found[split] = CocoFiles(annotations, images)
    return InstanceDir(root, found[TRAIN], found[VAL])


def find_annotated(dataset_dir: str | Path, *, exists: Exists = os.path.exists) -> tuple[str, list[CocoFiles]]:
    """What there is to split: the two files of a split set, the one that is there, or a file of everything.

    Returns:
        The root and the files.

    Raises:
        DatasetError: there is none.
    """
    root = _root(str(dataset_dir), exists, given=False)
    out = []
    for split in (TRAIN, VAL):
        path = next((p for p in _candidates(root, _COCO_FILES, split) if exists(p)), None)
        if path is not None:
            out.append(CocoFiles(path, _images_of(root, split, exists)))
    if not out:
        out = [CocoFiles(_first(root, _WHOLE_COCO_FILES, "whole", exists, "annotation file"), _images_of(root, "", exists))]
    return root, out


def find_semantic(
    dataset_dir: str | Path,
    *,
    image_dir: str | None = None,
    train: str | None = None,
    val: str | None = None,
    exists: Exists = os.path.exists,
    read: Reader = read_local,
) -> SemanticDir:
    """Where a semantic data set keeps its two lists.

    Args:
        image_dir: what the names in the lists are relative to, itself relative to `dataset_dir`; None is `dataset_dir`.
        train, val: the lists, relative to `dataset_dir`; None takes train.txt and val.txt.

    Raises:
        DatasetError: a list is not there.
    """
    root = _root(str(dataset_dir), exists, given=bool(train and val))
    lists = [_named(root, train or _LISTS.format(TRAIN), exists), _named(root, val or _LISTS.format(VAL), exists)]
    return SemanticDir(root, lists[0], lists[1], join(root, image_dir or ""), read_class_names(root, exists=exists, read=read))


def read_class_names(root: str | Path, *, exists: Exists = os.path.exists, read: Reader = read_local) -> tuple[str, ...] | None:
    """Names of the classes from the first of CLASS_FILES that is there."""
    for name in CLASS_FILES:
        path = join(root, name)
        if exists(path):
            names = tuple(text for _, text in read_lines(path, read))
            if len(set(names)) != len(names):
                twice = sorted({n for n in names if names.count(n) > 1})
                raise DatasetError(f"{path}: names {', '.join(twice)} twice; each line is one class, in the order of their ids")
            return names
    return None


def _root(dataset_dir: str, exists: Exists, *, given: bool) -> str:
    if "://" in dataset_dir:
        return dataset_dir.rstrip("/")
    if not exists(dataset_dir):
        raise DatasetError(f"{dataset_dir}: no such folder; dataset_dir is the folder that holds images/ and the annotations")
    if given or any(exists(join(dataset_dir, name)) for name in ("images", "annotations", "train.txt", *_flat_files())):
        return dataset_dir
    deeper = sorted(str(path.parent) for path in Path(dataset_dir).glob("*/images")) or sorted(
        str(path.parent) for path in Path(dataset_dir).glob("*/*/images")
    )
    if len(deeper) > 1:
        raise DatasetError(f"{dataset_dir}: several folders hold images/: {', '.join(deeper[:5])}; name one of them")
    return deeper[0] if deeper else dataset_dir


def _flat_files() -> list[str]:
    return [pattern.format(split) for pattern in _COCO_FILES for split in (TRAIN, VAL)]


def _named(root: str, name: str, exists: Exists) -> str:
    path = join(root, name)
    if not exists(path):
        raise DatasetError(f"{path}: not there; it belongs to {root}. Convert or split the data set first, or name the file")
    return path


def _images_of(root: str, split: str, exists: Exists) -> str:
    return next((p for p in _candidates(root, _IMAGE_FOLDERS, split) if exists(p)), join(root, ""))


def _first(root: str, patterns: Sequence[str], split: str, exists: Exists, what: str) -> str:
    for path in _candidates(root, patterns, split):
        if exists(path):
            return path
    tried = ", ".join(pattern.format(split) for pattern in patterns)
    raise DatasetError(
        f"{root}: no {what} of {split}; tried {tried}. Convert or split the data set first "
        "(CheckDataset.convert, CheckDataset.split), or name the file in the settings"
    )


def _candidates(root: str, patterns: Sequence[str], split: str) -> list[str]:
    return [join(root, pattern.format(split)) for pattern in patterns]
