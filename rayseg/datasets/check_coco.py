"""What is wrong with a COCO instance data set: the whole of a file, one image with its objects, two splits side by side.

`index_split` looks at a parsed file without any image, `check_image` at one image, `compare_categories`, `compare_images` and
`judge_objects` at both splits together. All are pure functions; pipeline/check_dataset.py runs them over a cluster.
Pixels are the business of coco_masks.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayseg.datasets.check import Decode, read_image, size_findings
from rayseg.datasets.coco import check_image_entry, is_id, reference_problem
from rayseg.datasets.coco_masks import corners, is_number, to_rle
from rayseg.datasets.files import Reader, join
from rayseg.datasets.findings import Finding, error, warning
from rayseg.datasets.sample import tight_patch
from rayseg.errors import DatasetError
from rayseg.geometry import Size, Window
from rayseg.rle import Rle, decode

_EDGE_PX = 1.0
"""Boxes and corners may leave the image by this much: tools differ in where a pixel begins."""
_BOX_IOU = 0.5
"""A box that overlaps the extent of its mask less than this belongs to something else."""
_THIN_PX = 2
"""Rounding alone makes boxes of lines disagree."""


@dataclass(frozen=True)
class ImageWork:
    """One image of the file and the annotations that belong to it."""

    entry: dict[str, Any]
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class SplitIndex:
    """What a file says, without its images.

    Attributes:
        file: the annotation file.
        categories: id -> name, in file order.
        images: those whose entries can be used.
        findings: what is wrong with the file itself.
        num_images: entries of `images`, usable or not.
        num_annotations: entries of `annotations`, usable or not.
    """

    file: str
    categories: dict[Any, str]
    images: list[ImageWork]
    findings: list[Finding]
    num_images: int = 0
    num_annotations: int = 0


@dataclass
class ImageReport:
    """What came out of one image.

    Attributes:
        findings: what is wrong.
        objects: category id -> usable objects, without crowds.
        crowds: crowd regions.
        image: the pixels; None where it could not be read.
        masks: category id and mask of all that could be read, crowds too.
    """

    findings: list[Finding] = field(default_factory=list)
    objects: Counter[Any] = field(default_factory=Counter)
    crowds: int = 0
    image: np.ndarray | None = None
    masks: list[tuple[Any, Rle]] = field(default_factory=list)


def index_split(content: Any, file: str) -> SplitIndex:
    """Look at a parsed annotation file, collecting all that is wrong instead of stopping at the first."""
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        problem = "not a COCO instance file: it needs the lists images, annotations and categories"
        return SplitIndex(file, {}, [], [error("not-coco", file, "", problem, "convert the annotations to COCO")])
    findings: list[Finding] = []
    categories = _categories(content["categories"], file, findings)
    entries = _entries(content["images"], file, findings)
    grouped = _grouped(content["annotations"], entries, categories, file, findings)
    if not content["annotations"]:
        findings.append(error("no-annotations", file, "", "no image has an annotation", "annotate some, or split anew"))
    images = [ImageWork(entry, tuple(grouped[image_id])) for image_id, entry in entries.items()]
    return SplitIndex(file, categories, images, findings, len(content["images"]), len(content["annotations"]))


def check_image(work: ImageWork, folder: str, file: str, *, read: Reader, decode: Decode) -> ImageReport:
    """Look at one image and its annotations; the image is read once and returned."""
    report = ImageReport()
    path, size = join(folder, work.entry["file_name"]), Size(int(work.entry["height"]), int(work.entry["width"]))
    where = f"image id {work.entry['id']!r} of {file}"
    report.image, data, problems = read_image(path, where, read, decode)
    if report.image is not None:
        problems = size_findings(path, where, data, Size(*report.image.shape[:2]), size)
        if problems:
            report.image = None
    report.findings += problems
    if not work.annotations:
        report.findings.append(
            warning("empty-image", path, where, "has no annotation", "fine for a picture of background; else annotate or drop it")
        )
    seen: dict[tuple[Any, bytes], Any] = {}
    for annotation in work.annotations:
        before = len(report.masks)
        report.findings += check_annotation(annotation, size, file, report)
        if len(report.masks) > before:
            _check_twice(annotation, report, seen, file)
    return report


def check_annotation(annotation: Mapping[str, Any], size: Size, file: str, report: ImageReport | None = None) -> list[Finding]:
    """Look at one annotation whose image and category exist.

    Args:
        size: of the image, as the file says.
        report: takes its mask and counts it.
    """
    where = place_of(annotation)
    findings = _box_findings(annotation, size, file, where)
    if annotation.get("iscrowd", 0) not in (0, 1):
        problem = f"iscrowd is {annotation['iscrowd']!r}"
        findings.append(error("crowd-invalid", file, where, problem, "write 0 for an object, 1 for a region of many"))
    area = annotation.get("area")
    if area is None or not is_number(area) or area <= 0:
        problem = f"area is {area!r}" if "area" in annotation else "area is missing"
        remedy = "write the number of pixels of the mask; scores by object size depend on it"
        findings.append(warning("area-invalid", file, where, problem, remedy))
    try:
        mask = to_rle(annotation["segmentation"], size)
    except DatasetError as problem:
        return [*findings, error("mask-invalid", file, where, *_halves(str(problem)))]
    if mask.area == 0:
        remedy = "delete it; it is skipped in training"
        return [*findings, warning("mask-empty", file, where, "the mask covers no pixel", remedy)]
    if isinstance(annotation["segmentation"], list):
        findings += _edge_findings(annotation["segmentation"], size, file, where)
    findings += _agreement_findings(annotation, mask, file, where)
    if report is not None:
        report.masks.append((annotation["category_id"], mask))
        if annotation.get("iscrowd", 0):
            report.crowds += 1
        else:
            report.objects[annotation["category_id"]] += 1
    return findings


def compare_categories(train: SplitIndex, val: SplitIndex) -> list[Finding]:
    """What two files say differently of the classes."""
    findings = []
    for mine, other in ((train, val), (val, train)):
        odd = {key: name for key, name in mine.categories.items() if other.categories.get(key) != name}
        if odd and other.categories:
            listed = ", ".join(f"{key}: {name}" for key, name in list(odd.items())[:8]) + (" ..." if len(odd) > 8 else "")
            problem = f"{len(odd)} categories that {other.file} lacks or names otherwise ({listed})"
            remedy = "list the same ids with the same names in both files"
            findings.append(error("categories-differ", mine.file, "categories", problem, remedy))
    if train.categories == val.categories and list(train.categories) != list(val.categories):
        problem = f"lists the categories in another order than {train.file}"
        remedy = "write both in one order: PaddleX numbers classes by the order of each file and would mix up labels"
        findings.append(warning("category-order-differs", val.file, "categories", problem, remedy))
    return findings


def compare_images(train_file: str, train: Iterable[str], val_file: str, val: Iterable[str]) -> list[Finding]:
    """The images that both splits list, by their paths."""
    remedy = "drop it from one of them: scores on images that were trained on say nothing"
    return [
        warning("image-in-both-splits", val_file, name, f"{train_file} lists the image, too", remedy)
        for name in sorted(set(train) & set(val))
    ]


def judge_objects(train: Counter[Any], categories: Mapping[Any, str], file: str, num_classes: int | None) -> list[Finding]:
    """What the numbers of usable objects say: classes that cannot be learned, or are not as many as set.

    Args:
        train: category id -> usable objects in the training split.
        file: of the training split.
        num_classes: as set by the user.
    """
    findings = []
    if num_classes is not None and categories and num_classes != len(categories):
        problem = f"num_classes is set to {num_classes}, the file lists {len(categories)} categories"
        findings.append(error("num-classes-differ", file, "categories", problem, f"set it to {len(categories)}, or leave it out"))
    empty = [f"{key}: {name}" for key, name in categories.items() if not train[key]]
    if empty:
        listed = ", ".join(empty[:8]) + (" ..." if len(empty) > 8 else "")
        problem = f"{len(empty)} of {len(categories)} categories have no object to train on ({listed})"
        remedy = "annotate some, split anew or drop the category"
        findings.append(warning("class-without-objects", file, "categories", problem, remedy))
    return findings


def place_of(annotation: Mapping[str, Any]) -> str:
    """How findings call an annotation."""
    return f"annotation id {annotation.get('id')!r} (image id {annotation.get('image_id')!r})"


def _categories(found: list[Any], file: str, findings: list[Finding]) -> dict[Any, str]:
    out: dict[Any, str] = {}
    for entry in found:
        if (
            not isinstance(entry, dict)
            or not is_id(entry.get("id"))
            or not isinstance(entry.get("name"), str)
            or not entry["name"]
        ):
            problem = f"a category without id or name: {str(entry)[:80]}"
            findings.append(error("category-invalid", file, "categories", problem, "give it a whole number and a name"))
        elif entry["id"] in out:
            problem = f"two categories have the id {entry['id']!r}: {out[entry['id']]!r} and {entry['name']!r}"
            findings.append(error("duplicate-category-id", file, f"category id {entry['id']!r}", problem, "number them anew"))
        else:
            if entry["name"] in out.values():
                problem = f"two categories are named {entry['name']!r}"
                remedy = "rename one, or give their objects one id"
                findings.append(error("duplicate-category-name", file, f"category id {entry['id']!r}", problem, remedy))
            out[entry["id"]] = entry["name"]
    if not out:
        findings.append(error("no-categories", file, "categories", "lists no usable category", "list every class"))
    numbers = sorted(key for key in out if isinstance(key, int))
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        gaps = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
        problem = f"category ids have gaps: {len(numbers)} ids from {numbers[0]} to {numbers[-1]}, without {str(gaps[:10])[1:-1]}"
        remedy = f"fine here: classes are numbered by order, num_classes is {len(out)}; other tools may want 1..n"
        findings.append(warning("category-id-gaps", file, "categories", problem, remedy))
    return out


def _entries(found: list[Any], file: str, findings: list[Finding]) -> dict[Any, dict[str, Any]]:
    out: dict[Any, dict[str, Any]] = {}
    named: dict[str, Any] = {}
    for entry in found:
        try:
            check_image_entry(entry, file)
        except DatasetError as reason:
            findings.append(error("image-entry-invalid", file, "images", *_halves(str(reason).removeprefix(f"{file}: "))))
            continue
        where = f"image id {entry['id']!r}"
        if entry["id"] in out:
            problem = f"the id belongs to {out[entry['id']]['file_name']!r} and {entry['file_name']!r}"
            findings.append(error("duplicate-image-id", file, where, problem, "number the images anew, and their annotations"))
            continue
        if entry["file_name"] in named:
            problem = f"{entry['file_name']!r} is listed under id {named[entry['file_name']]!r}, too"
            remedy = "join the two: each would teach the objects of the other as background"
            findings.append(error("duplicate-file-name", file, where, problem, remedy))
        named.setdefault(entry["file_name"], entry["id"])
        out[entry["id"]] = entry
    if not out:
        findings.append(error("no-images", file, "images", "lists no usable image", "list every image"))
    return out


def _grouped(
    found: list[Any], entries: Mapping[Any, Any], categories: Mapping[Any, str], file: str, findings: list[Finding]
) -> dict[Any, list[dict[str, Any]]]:
    out: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in entries}
    seen: set[Any] = set()
    for annotation in found:
        if not isinstance(annotation, dict):
            problem = f"an entry is no JSON object: {str(annotation)[:80]}"
            findings.append(error("annotation-invalid", file, "annotations", problem, "delete or mend it"))
            continue
        where = place_of(annotation)
        number = annotation.get("id")
        if not is_id(number):
            findings.append(error("annotation-id-invalid", file, where, f"the id is {number!r}", "number the annotations from 1"))
        elif number in seen:
            remedy = "number the annotations anew; COCO tools lose one of the two"
            findings.append(error("duplicate-annotation-id", file, where, "another annotation has the id", remedy))
        elif number == 0:
            remedy = "count from 1; pycocotools never counts object 0 as found (rayseg does)"
            findings.append(warning("annotation-id-zero", file, where, "the id is 0", remedy))
        if is_id(number):
            seen.add(number)
        reason = reference_problem(annotation, entries, categories)
        if reason is None:
            out[annotation["image_id"]].append(annotation)
        else:
            kind = "box-without-mask" if reason.startswith("has a box but no mask") else "annotation-invalid"
            findings.append(error(kind, file, where, *_halves(reason)))
    return out


def _box_findings(annotation: Mapping[str, Any], size: Size, file: str, where: str) -> list[Finding]:
    box = annotation.get("bbox")
    remedy = "write [x, y, width, height] of the mask; rayseg takes boxes from the masks, other tools need it"
    if box is None:
        return [warning("box-missing", file, where, "bbox is missing", remedy)]
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box):
        return [error("box-invalid", file, where, f"bbox is {str(box)[:60]}", remedy)]
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return [error("box-invalid", file, where, f"bbox {box} has no area", remedy)]
    if min(x, y) < -_EDGE_PX or x + width > size.width + _EDGE_PX or y + height > size.height + _EDGE_PX:
        problem = f"bbox {box} leaves the image of {size.width} x {size.height}"
        return [error("box-outside", file, where, problem, "clip it to the image, or annotate the right image")]
    return []


def _edge_findings(polygons: list[Any], size: Size, file: str, where: str) -> list[Finding]:
    points = corners(polygons)
    low, high = points.min(axis=0), points.max(axis=0)
    if (low >= -_EDGE_PX).all() and (high <= np.add(size.wh, _EDGE_PX)).all():
        return []
    reach = f"x {low[0]:g} to {high[0]:g} and y {low[1]:g} to {high[1]:g}"
    problem = f"the polygon covers {reach} in an image of {size.width} x {size.height}"
    return [warning("mask-outside", file, where, problem, "clip it; what lies outside is cut off in training")]


def _agreement_findings(annotation: Mapping[str, Any], mask: Rle, file: str, where: str) -> list[Finding]:
    """Box against mask; only where the box is one."""
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box) or min(box[2:]) <= 0:
        return []
    if not _hardly_overlap(box, mask.extent):
        return []
    patch = tight_patch(decode(mask))  # the quick extent may be too high; a doubt is settled by the pixels
    if patch is None or not _hardly_overlap(box, patch.window):
        return []
    extent = [patch.window.x0, patch.window.y0, patch.window.width, patch.window.height]
    problem = f"bbox {box} and the extent of its mask {extent} hardly overlap"
    return [warning("box-disagrees", file, where, problem, "write the box of the mask; is it the mask of another object?")]


def _hardly_overlap(box: list[float], extent: Window) -> bool:
    x, y, width, height = box
    shared_w = min(x + width, extent.x1) - max(x, extent.x0)
    shared_h = min(y + height, extent.y1) - max(y, extent.y0)
    shared = max(shared_w, 0) * max(shared_h, 0)
    whole = width * height + extent.width * extent.height - shared
    return shared < _BOX_IOU * whole and min(extent.width, extent.height, width, height) > _THIN_PX


def _check_twice(annotation: Mapping[str, Any], report: ImageReport, seen: dict[tuple[Any, bytes], Any], file: str) -> None:
    category_id, mask = report.masks[-1]
    first = seen.setdefault((category_id, mask.counts), annotation.get("id"))
    if first != annotation.get("id"):
        problem = f"the same mask and class as annotation id {first!r}"
        report.findings.append(warning("duplicate-object", file, place_of(annotation), problem, "delete one of the two"))


def _halves(message: str) -> tuple[str, str]:
    """Problem and remedy of one of our messages."""
    problem, _, remedy = message.partition("; ")
    return problem, remedy or "correct or delete it"
