"""Which images train and which validate: a share of them, chosen by the seed and the image's name alone.

An image's place follows from a hash of seed and name: the same set splits alike whatever order or split it had before, on
any machine. Files that were there are kept as .bak (files.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayseg.datasets.coco import parse, reference_problem
from rayseg.datasets.files import join, local_folder, read_json, read_lines, write_new
from rayseg.datasets.layout import TRAIN, VAL, CocoFiles, find_annotated
from rayseg.datasets.semantic import format_line, parse_line
from rayseg.errors import ConfigError, DatasetError

COCO_NAME = "annotations/instance_{}.json"
"""Where PaddleX looks for the annotations of a split, below the data set."""
IMAGES = "images"


@dataclass(frozen=True)
class SplitDone:
    """What a split did.

    Attributes:
        train_images, val_images: images on each side.
        files_written: the new annotation files or lists.
        backups: where the old ones are kept.
    """

    train_images: int
    val_images: int
    files_written: tuple[str, ...]
    backups: tuple[str, ...]


def split(dataset_dir: str | Path, *, task: str, train_percent: float, val_percent: float, seed: int = 0) -> SplitDone:
    """Pool both splits of a data set, or the one file there is, and split it anew.

    Args:
        dataset_dir: a local folder.
        task: "instance": writes annotations/instance_{train,val}.json; "semantic": train.txt and val.txt.
        train_percent, val_percent: above 0, together 100.
        seed: chooses the images.

    Raises:
        ConfigError: the percentages or the task make no sense.
        DatasetError: there are too few images, or the two files do not fit together.
    """
    check_percent(train_percent, val_percent)
    folder = local_folder(dataset_dir, "split")
    if task == "instance":
        return _split_coco(folder, train_percent, seed)
    if task == "semantic":
        return _split_lists(folder, train_percent, seed)
    raise ConfigError(f"task {task!r} is unknown; use instance or semantic")


def check_percent(train_percent: float, val_percent: float) -> None:
    """Raise where two percentages are no split.

    Raises:
        ConfigError: one is not above 0, or they do not add up to 100.
    """
    if not (train_percent > 0 and val_percent > 0) or abs(train_percent + val_percent - 100) > 1e-6:
        raise ConfigError(f"train_percent {train_percent} and val_percent {val_percent} must be above 0 and add up to 100")


def chosen_for_training(names: Sequence[str], train_percent: float, seed: int) -> set[str]:
    """The names that train: those whose hashes come first; at least one, and never all.

    Raises:
        DatasetError: there are fewer than two names, or one occurs twice.
    """
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1}) if len(names) < 10_000 else ["(many)"]
        raise DatasetError(f"the image {twice[0]} is listed twice; run check-dataset, and keep one entry of each image")
    if len(names) < 2:
        raise DatasetError(f"{len(names)} image(s) cannot be split in two; annotate more")
    wanted = min(max(round(len(names) * train_percent / 100), 1), len(names) - 1)
    return set(sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())[:wanted])


def _split_coco(folder: Path, train_percent: float, seed: int) -> SplitDone:
    root, files = find_annotated(folder)
    pool = _pooled(files, join(root, IMAGES))
    names = [image["file_name"] for image in pool["images"]]
    training = chosen_for_training(names, train_percent, seed)
    (Path(root) / IMAGES).mkdir(exist_ok=True)  # names are relative to it, also those of images elsewhere
    written, backups, counts = [], [], []
    for name, wanted in ((TRAIN, True), (VAL, False)):
        images = [image for image in pool["images"] if (image["file_name"] in training) == wanted]
        ids = {image["id"] for image in images}
        annotations = [a for a in pool["annotations"] if a["image_id"] in ids]
        path = Path(join(root, COCO_NAME.format(name)))
        kept = write_new(path, json.dumps(pool | {"images": images, "annotations": annotations}))
        written.append(str(path))
        backups += [str(kept)] if kept else []
        counts.append(len(images))
    return SplitDone(counts[0], counts[1], tuple(written), tuple(backups))


def _pooled(files: Sequence[CocoFiles], images: str) -> dict[str, Any]:
    """All files as one COCO dict, images sorted by name, names relative to one folder."""
    out: dict[str, Any] = {}
    categories: dict[Any, dict[str, Any]] = {}
    pooled: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for found in files:
        content = parse(read_json(found.annotations), found.annotations)
        out = {**content, **out}
        _merge_categories(categories, content["categories"], found.annotations)
        grouped: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        if len(grouped) != len(content["images"]):
            raise DatasetError(f"{found.annotations}: two images share an id; number them anew")
        for annotation in content["annotations"]:
            problem = reference_problem(annotation, grouped, categories)
            if problem:
                raise DatasetError(f"{found.annotations}: annotation {annotation.get('id')!r} {problem}")
            grouped[annotation["image_id"]].append(annotation)
        for image in content["images"]:
            name = os.path.relpath(join(found.images, image["file_name"]), images).replace(os.sep, "/")
            pooled.append((image | {"file_name": name}, grouped[image["id"]]))
    pooled.sort(key=lambda one: one[0]["file_name"])
    _renumber(pooled)
    annotations = [annotation for _, found in pooled for annotation in found]
    return out | {"images": [i for i, _ in pooled], "annotations": annotations, "categories": list(categories.values())}


def _merge_categories(known: dict[Any, dict[str, Any]], found: Sequence[dict[str, Any]], file: str) -> None:
    names = {entry["name"]: key for key, entry in known.items()}
    for entry in found:
        same_id, same_name = known.get(entry["id"]), names.get(entry["name"], entry["id"])
        if (same_id is not None and same_id["name"] != entry["name"]) or same_name != entry["id"]:
            raise DatasetError(
                f"{file}: category {entry['id']}: {entry['name']} clashes with the other file; both must give a class the same id"
            )
        known.setdefault(entry["id"], entry)


def _renumber(pooled: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
    """Give new ids where two files used the same; ids that are unique stay."""
    image_ids = [image["id"] for image, _ in pooled]
    if len(set(image_ids)) != len(image_ids):
        pooled[:] = [
            (image | {"id": number}, [a | {"image_id": number} for a in found]) for number, (image, found) in enumerate(pooled, 1)
        ]
    ids = [str(a.get("id")) for _, found in pooled for a in found]
    if len(set(ids)) != len(ids):
        numbers = iter(range(1, len(ids) + 1))
        pooled[:] = [(image, [a | {"id": next(numbers)} for a in found]) for image, found in pooled]


def _split_lists(folder: Path, train_percent: float, seed: int) -> SplitDone:
    lists = [folder / f"{name}.txt" for name in (TRAIN, VAL)]
    if not any(path.is_file() for path in lists):
        raise DatasetError(f"{folder}: neither train.txt nor val.txt is there; one of them must list the images and masks")
    lines: dict[str, str] = {}
    names = []
    for path in lists:
        for number, text in read_lines(path) if path.is_file() else ():
            pair = parse_line(text, number, str(path), ".")
            names.append(pair.image)
            lines[pair.image] = format_line(pair.image, pair.mask)
    training = chosen_for_training(names, train_percent, seed)
    written, backups = [], []
    for path, wanted in zip(lists, (True, False), strict=True):
        chosen = [lines[name] for name in sorted(lines) if (name in training) == wanted]
        kept = write_new(path, "".join(f"{line}\n" for line in chosen))
        written.append(str(path))
        backups += [str(kept)] if kept else []
    return SplitDone(len(training), len(lines) - len(training), tuple(written), tuple(backups))
