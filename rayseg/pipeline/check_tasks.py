"""What runs in Ray tasks while a data set is checked: cutting an annotation file into chunks, and looking at one chunk.

The rules are datasets/check_coco.py's and check_semantic.py's; the driver that hands chunks out is check_dataset.py. An
annotation file is parsed in one task and its parts go to the object store, so the driver never holds them.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from rayseg.datasets import check_coco, check_semantic, pictures
from rayseg.datasets.check_coco import ImageWork, SplitIndex
from rayseg.datasets.check_semantic import ListIndex
from rayseg.datasets.files import Reader, join, read_json
from rayseg.datasets.findings import Findings, error
from rayseg.datasets.layout import CocoFiles
from rayseg.datasets.semantic import Pair
from rayseg.errors import DatasetError
from rayseg.images import decode_isolated
from rayseg.pipeline.storage import filesystem, is_local, with_retries

_AHEAD = 8
"""Files of an object store read at once in one task."""


@dataclass(frozen=True)
class UrlReader:
    """Reads local files and whatever fsspec knows, with patience for passing faults; a `datasets.files.Reader`.

    Attributes:
        options: fsspec options, such as endpoint_url.
        attempts: tries for each file.
    """

    options: dict[str, Any] = field(default_factory=dict)
    attempts: int = 6

    def __call__(self, path: str) -> bytes:
        if is_local(path):
            return Path(path.removeprefix("file://")).read_bytes()
        try:
            fs = filesystem(path, self.options)
            return bytes(with_retries(lambda: fs.cat_file(path), attempts=self.attempts, what=path))
        except OSError:
            raise
        except Exception as problem:  # storage libraries raise their own trees
            raise OSError(f"{type(problem).__name__}: {problem}") from problem

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        if is_local(path):
            return Path(path.removeprefix("file://")).exists()
        fs = filesystem(path, self.options)
        return bool(with_retries(lambda: fs.exists(path), attempts=self.attempts, what=path))


@dataclass(frozen=True)
class CheckPlan:
    """What every task needs to know.

    Attributes:
        read: reads files.
        chunk_images: images in one chunk.
        demo_images: how many images of a split are drawn.
        seed: chooses them.
        max_findings: findings of each kind that are kept.
        num_classes: of a semantic set; ids must be below it.
        background: class 0 of a semantic set means nothing and is not drawn.
    """

    read: Reader
    chunk_images: int
    demo_images: int
    seed: int
    max_findings: int
    num_classes: int | None = None
    background: bool = True


@dataclass(frozen=True)
class Chunk:
    """Some images of a split.

    Attributes:
        file: the annotation file or list.
        folder: of the images; unused for lists, whose lines are joined already.
        categories: id -> name; empty for lists.
        works: what is to be looked at.
        drawn: whether each is to be drawn.
    """

    file: str
    folder: str
    categories: dict[Any, str]
    works: Sequence[ImageWork | Pair]
    drawn: Sequence[bool]


@dataclass
class ChunkReport:
    """What came out of a chunk; adding up the reports of all gives that of the split.

    Attributes:
        images: looked at, usable or not.
        findings: what is wrong.
        objects: category id -> usable objects; for masks class id -> images it is in.
        crowds: crowd regions.
        pixels: class id -> pixels.
        ignored: pixels to ignore.
        pictures: name and JPEG of those drawn.
    """

    findings: Findings
    images: int = 0
    objects: Counter[Any] = field(default_factory=Counter)
    crowds: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    ignored: int = 0
    pictures: list[tuple[str, bytes]] = field(default_factory=list)

    def add(self, other: ChunkReport) -> None:
        """Take over another report."""
        self.findings.add(other.findings)
        self.images += other.images
        self.objects.update(other.objects)
        self.crowds += other.crowds
        self.pixels.update(other.pixels)
        self.ignored += other.ignored
        self.pictures += other.pictures


@dataclass(frozen=True)
class SplitHead:
    """A split without its images: small, for the driver.

    Attributes:
        index: the file, its categories, findings and counts; images left out.
        findings: of the file, counted.
        usable: images in the chunks that follow.
        chunks: how many follow.
    """

    index: SplitIndex | ListIndex
    findings: Findings
    usable: int
    chunks: int


def cut_coco(files: CocoFiles, plan: CheckPlan) -> Iterator[SplitHead | list[str] | Chunk]:
    """Parse an annotation file; yields its head, the paths of its images, and chunks.

    A file that cannot be read at all is a finding, too.
    """
    try:
        index = check_coco.index_split(read_json(files.annotations, plan.read), files.annotations)
    except DatasetError as problem:
        index = SplitIndex(files.annotations, {}, [], [_unreadable(files.annotations, problem)])
    names = [join(files.images, work.entry["file_name"]) for work in index.images]
    bare = SplitIndex(index.file, index.categories, [], [], index.num_images, index.num_annotations)
    findings = Findings.of(index.findings, keep=plan.max_findings)
    yield SplitHead(bare, findings, len(names), -(-len(names) // plan.chunk_images))
    yield names
    drawn = _chosen([name for name, work in zip(names, index.images, strict=True) if work.annotations], plan)
    for start in range(0, len(names), plan.chunk_images):
        part = slice(start, start + plan.chunk_images)
        marks = [name in drawn for name in names[part]]
        yield Chunk(files.annotations, files.images, index.categories, index.images[part], marks)


def cut_list(file: str, folder: str, plan: CheckPlan) -> Iterator[SplitHead | list[str] | Chunk]:
    """Read a list of images and masks; yields its head, the paths of its images, and chunks."""
    try:
        index = check_semantic.index_list(file, folder, read=plan.read)
    except DatasetError as problem:
        index = ListIndex(file, [], [_unreadable(file, problem)])
    names = [pair.image for pair in index.pairs]
    findings = Findings.of(index.findings, keep=plan.max_findings)
    yield SplitHead(ListIndex(file, [], [], index.num_lines), findings, len(names), -(-len(names) // plan.chunk_images))
    yield names
    drawn = _chosen(names, plan)
    for start in range(0, len(names), plan.chunk_images):
        part = slice(start, start + plan.chunk_images)
        yield Chunk(file, folder, {}, index.pairs[part], [name in drawn for name in names[part]])


def check_chunk(chunk: Chunk, plan: CheckPlan, part: slice) -> ChunkReport:
    """Look at some images of a chunk, each read and decoded once.

    Args:
        part: of the chunk's works.
    """
    cv2.setNumThreads(1)
    works = chunk.works[part]
    paths = [path for work in works for path in paths_of(work, chunk.folder)]
    report = ChunkReport(Findings(plan.max_findings), images=len(works))
    with _reading_ahead(plan.read, paths) as read:
        for work, drawn in zip(works, chunk.drawn[part], strict=True):
            if isinstance(work, Pair):
                _look_at_pair(work, chunk, plan, read, drawn, report)
            else:
                _look_at_image(work, chunk, read, drawn, report)
    return report


def paths_of(work: ImageWork | Pair, folder: str) -> list[str]:
    """The files that looking at one image reads."""
    return [work.image, work.mask] if isinstance(work, Pair) else [join(folder, work.entry["file_name"])]


def compare_names(train_file: str, train: list[str], val_file: str, val: list[str], keep: int) -> Findings:
    """Images in both splits; in a task, as the names of millions of images are not for the driver."""
    return Findings.of(check_coco.compare_images(train_file, train, val_file, val), keep=keep)


def _look_at_image(work: ImageWork, chunk: Chunk, read: Reader, drawn: bool, report: ChunkReport) -> None:
    found = check_coco.check_image(work, chunk.folder, chunk.file, read=read, decode=decode_isolated)
    report.findings.extend(found.findings)
    report.objects.update(found.objects)
    report.crowds += found.crowds
    if drawn and found.image is not None:
        picture = pictures.draw_objects(found.image, found.masks, chunk.categories)
        report.pictures.append((work.entry["file_name"], pictures.to_jpeg(picture)))


def _look_at_pair(pair: Pair, chunk: Chunk, plan: CheckPlan, read: Reader, drawn: bool, report: ChunkReport) -> None:
    found = check_semantic.check_pair(pair, chunk.file, num_classes=plan.num_classes, read=read, decode=decode_isolated)
    report.findings.extend(found.findings)
    report.objects.update(found.pixels.keys())
    report.pixels.update(found.pixels)
    report.ignored += found.ignored
    if drawn and found.image is not None and found.labels is not None:
        picture = pictures.draw_labels(found.image, found.labels, background=plan.background)
        report.pictures.append((pair.image, pictures.to_jpeg(picture)))


def _chosen(names: list[str], plan: CheckPlan) -> set[str]:
    """Which images are drawn: by a hash of seed and name, so that another run draws the same."""

    def place(name: str) -> bytes:
        return hashlib.sha256(f"{plan.seed}/{name}".encode()).digest()

    return set(heapq.nsmallest(plan.demo_images, names, key=place))


def _unreadable(file: str, problem: DatasetError) -> Any:
    what, _, remedy = str(problem).removeprefix(f"{file}: ").partition("; ")
    return error("unreadable-annotations", file, "", what, remedy or "mend the file")


class _reading_ahead:  # noqa: N801 - a context manager, used like a function
    """A reader that fetches the next remote files while one is looked at; local files are read when asked for."""

    def __init__(self, read: Reader, paths: Sequence[str]) -> None:
        self._read = read
        self._waiting = list(reversed([path for path in paths if not is_local(path)]))
        self._fetched: dict[str, Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(_AHEAD) if self._waiting else None

    def __enter__(self) -> Callable[[str], bytes]:
        return self._get

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _get(self, path: str) -> bytes:
        if self._pool is None:
            return self._read(path)
        while self._waiting and len(self._fetched) < _AHEAD:
            following = self._waiting.pop()
            if following not in self._fetched:
                self._fetched[following] = self._pool.submit(self._read, following)
        fetched = self._fetched.pop(path, None)
        return fetched.result() if fetched is not None else self._read(path)
