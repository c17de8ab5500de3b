"""What is wrong with a semantic data set: one list, one image with its mask, and the ids of all masks together.

`index_list` cuts a list into pairs, `check_pair` looks at one of them, `judge_ids` at what all masks hold. All are pure
functions; pipeline/check_dataset.py runs them over a cluster. How masks are read is index_mask.py's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from rayseg.datasets.check import Decode, read_file, read_image, size_findings
from rayseg.datasets.files import Reader, read_lines, read_local
from rayseg.datasets.findings import Finding, error, warning
from rayseg.datasets.index_mask import format_problem, read_index_mask
from rayseg.datasets.sample import IGNORE
from rayseg.datasets.semantic import Pair, outside_classes, parse_line
from rayseg.errors import DatasetError, ImageError
from rayseg.geometry import Size
from rayseg.images import read_header

_MANY_IDS, _THIN_SHARE = 6, 0.6
"""A mask with at least so many ids, more than this share of them without a single 3 x 3 block of pixels, was compressed or
smoothly resized. Measured: at most 0.25 in COCO's drawn masks, at least 0.85 in JPEG and bilinear copies of them."""


@dataclass(frozen=True)
class ListIndex:
    """What a list says, without its files.

    Attributes:
        file: the list.
        pairs: its lines that can be used.
        findings: what is wrong with the list itself.
        num_lines: lines, usable or not.
    """

    file: str
    pairs: list[Pair]
    findings: list[Finding]
    num_lines: int = 0


@dataclass
class PairReport:
    """What came out of one image and its mask.

    Attributes:
        findings: what is wrong.
        pixels: id -> pixels, without 255.
        ignored: pixels with 255.
        image: the pixels; None where it could not be read.
        labels: the mask; None where it could not be read, or does not fit the image.
    """

    findings: list[Finding] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    ignored: int = 0
    image: np.ndarray | None = None
    labels: np.ndarray | None = None


def index_list(file: str, root: str, *, read: Reader = read_local) -> ListIndex:
    """Cut a list into pairs, collecting all that is wrong instead of stopping at the first.

    Raises:
        DatasetError: the list cannot be read at all.
    """
    lines = read_lines(file, read)
    pairs: list[Pair] = []
    findings: list[Finding] = []
    images: dict[str, int] = {}
    masks: dict[str, int] = {}
    for number, text in lines:
        try:
            pair = parse_line(text, number, file, root)
        except DatasetError as problem:
            what, _, remedy = str(problem).rpartition("; ")
            findings.append(error("line-invalid", file, f"line {number}", what.removeprefix(f"{file}: "), remedy))
            continue
        for name, seen, what in ((pair.image, images, "image"), (pair.mask, masks, "mask")):
            if name in seen:
                problem_text, remedy = f"{name!r} stands in line {seen[name]}, too", "delete one of the two lines"
                findings.append(error(f"duplicate-{what}", file, f"line {number}", problem_text, remedy))
            seen.setdefault(name, number)
        pairs.append(pair)
    if not pairs:
        findings.append(error("no-images", file, "", "names no usable image", "write image, tab, mask in each line"))
    return ListIndex(file, pairs, findings, len(lines))


def check_pair(pair: Pair, list_file: str, *, num_classes: int | None, read: Reader, decode: Decode) -> PairReport:
    """Look at one image and its mask; each is read once and returned.

    Args:
        num_classes: ids must be below it; None allows all but those above 255.
    """
    report = PairReport()
    where = f"line {pair.line} of {list_file}"
    report.image, image_data, report.findings = read_image(pair.image, where, read, decode)
    data, problems = read_file(pair.mask, where, "mask", read)
    report.findings += problems
    if problems:
        return report
    labels = _labels(pair.mask, where, data, report.findings)
    if labels is None:
        return report
    if report.image is not None:
        problems = size_findings(pair.image, where, image_data, Size(*report.image.shape[:2]), Size(*labels.shape))
        report.findings += problems
        if problems:
            return report
    counts = np.bincount(labels.ravel())
    report.pixels = Counter({int(i): int(counts[i]) for i in np.flatnonzero(counts) if i != IGNORE})
    report.ignored = int(counts[IGNORE]) if counts.size > IGNORE else 0
    _check_ids(labels, pair.mask, where, num_classes, report)
    report.labels = labels
    return report


def looks_resampled(labels: np.ndarray) -> bool:
    """True for a mask most of whose ids are noise along edges, as JPEG or a smooth resize leaves them.

    Someone who draws a class draws regions; the numbers in between two classes line their border.
    """
    ids = np.unique(labels)
    if ids.size < _MANY_IDS:
        return False
    block = np.ones((3, 3), np.uint8)
    inside = cv2.erode(labels, block) == cv2.dilate(labels, block)
    return 1 - np.unique(labels[inside]).size / ids.size > _THIN_SHARE


def judge_ids(
    pixels: Mapping[str, Counter[int]],
    *,
    ignored: int,
    files: Mapping[str, str],
    num_classes: int | None,
    class_names: Sequence[str] | None,
) -> list[Finding]:
    """What the ids of all masks say together.

    Args:
        pixels: of "train" and "val": id -> pixels, without 255.
        ignored: pixels with 255 in both.
        files: the list of each split.
        num_classes: as set by the user; None takes the number of names, or nothing.
        class_names: names by id, where there are any.
    """
    findings = []
    used = sorted(set(pixels["train"]) | set(pixels["val"]))
    if class_names is not None and num_classes is not None and len(class_names) != num_classes:
        problem = f"{num_classes} classes are set, {len(class_names)} are named"
        findings.append(error("num-classes-differ", files["train"], "", problem, "set num_classes to the names, or name all"))
    if used and set(used) <= {0} and ignored:
        problem = f"the masks hold 0 and {IGNORE} only, and {IGNORE} means 'ignore'"
        findings.append(error("only-ignored", files["train"], "", problem, f"write 1 instead of {IGNORE} for the object"))
    limit = num_classes or (len(class_names) if class_names else (used[-1] + 1 if used else 0))
    gaps = sorted(set(range(limit)) - set(used))
    if gaps and used:
        problem = f"{len(gaps)} of {limit} class ids are in no mask: {str(gaps[:10])[1:-1]}{' ...' if len(gaps) > 10 else ''}"
        remedy = f"fine where such a class is only rare; else number the classes from 0 without gaps (num_classes is {limit})"
        findings.append(warning("class-id-gaps", files["train"], "", problem, remedy))
    unseen = sorted(set(pixels["val"]) - set(pixels["train"]))
    if unseen and pixels["train"]:
        problem = f"the ids {str(unseen[:10])[1:-1]} are in masks of {files['val']}, and in none of the training masks"
        known = num_classes is not None or class_names is not None  # else the two splits mean different sets of classes
        finding = warning if known else error
        findings.append(finding("class-only-in-val", files["train"], "", problem, "split anew, or add images of these classes"))
    return findings


def _labels(path: str, where: str, data: bytes, findings: list[Finding]) -> np.ndarray | None:
    try:
        problem = format_problem(read_header(data))
        if problem is not None:
            findings.append(error(problem[0], path, where, *problem[1:]))
            return None
        return read_index_mask(data)
    except ImageError as reason:
        findings.append(error("unreadable-mask", path, where, f"cannot be read as class ids: {reason}", "write it again"))
        return None


def _check_ids(labels: np.ndarray, path: str, where: str, num_classes: int | None, report: PairReport) -> None:
    beyond = outside_classes(labels, num_classes)
    resampled = looks_resampled(labels)
    if beyond:
        limit = f"there are {num_classes} classes" if num_classes is not None else f"ids end at {IGNORE - 1}"
        listed = str(beyond[:8])[1:-1] + (" ..." if len(beyond) > 8 else "")
        remedy = f"correct the ids, or raise num_classes; {IGNORE} marks pixels to ignore"
        problem = f"{sum(report.pixels[i] for i in beyond)} pixels hold {len(beyond)} ids that are no class ({listed}); {limit}"
        report.findings.append(error("ids-outside-classes", path, where, problem, remedy))
    if resampled:
        problem = f"{len(report.pixels)} ids, most of them scattered along edges: the mask was compressed or smoothly resized"
        remedy = "make it again from its source; resize masks with nearest neighbour, save as PNG"
        report.findings.append(error("lossy-mask", path, where, problem, remedy))
    if not report.pixels:
        report.findings.append(warning("mask-all-ignored", path, where, f"every pixel is {IGNORE}", "annotate or drop it"))
