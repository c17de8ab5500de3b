"""A whole data set checked on Ray: every image and annotation, in parallel, with PaddleX's result file at the end.

What is wrong is decided in datasets/, what runs in tasks is check_tasks.py's. The driver holds counts, the first findings of
each kind and a few pictures, however many images there are; annotations and names stay in the object store.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import ray

from rayseg.config.train import Settings
from rayseg.datasets import check_coco, check_semantic, pictures
from rayseg.datasets.convert import convert
from rayseg.datasets.findings import ERROR, WARNING, Findings, error
from rayseg.datasets.layout import TRAIN, VAL, InstanceDir, SemanticDir, find_instance, find_semantic
from rayseg.datasets.split import check_percent, split
from rayseg.errors import ConfigError
from rayseg.pipeline import check_tasks
from rayseg.pipeline.check_tasks import CheckPlan, Chunk, ChunkReport, SplitHead, UrlReader
from rayseg.pipeline.storage import Store

log = logging.getLogger(__name__)

RESULT = "check_dataset_result.json"
_FOLDER = "check_dataset"
_DATASET_TYPES = {"instance": "COCOInstSegDataset", "semantic": "SegDataset"}
_NOTHING = ("background", "bg", "void", "other", "unlabeled")
"""Names of a class 0 that is not drawn."""
_PROGRESS_S = 5.0
_WAIT_S = 1.0
_RETRIES_ALONE = 2


@dataclass(frozen=True)
class Progress:
    """How far a check is."""

    done: int
    total: int
    errors: int
    warnings: int


@dataclass
class _Split:
    """One split while it is checked."""

    head: SplitHead
    names: ray.ObjectRef
    chunks: Iterator[ray.ObjectRef]
    report: ChunkReport


@dataclass(frozen=True)
class _Piece:
    """A part of a chunk that one task looks at."""

    split: str
    chunk: ray.ObjectRef
    start: int
    stop: int


def check_from_settings(
    settings: Settings, *, task: str, on_progress: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """What mode check_dataset does: convert and split where the settings say so, then check.

    Args:
        settings: of which Global and CheckDataset are used, and Train.num_classes.
        task: "instance" or "semantic", of the model.

    Returns:
        See `check_dataset`.

    Raises:
        ConfigError: no data set is named, or a setting makes no sense.
        DatasetError: there is no such data set, or it cannot be converted or split.
    """
    general, wanted = settings.general, settings.check_dataset
    if general.dataset_dir is None:
        raise ConfigError("Global.dataset_dir is not set; it is the folder that holds images/ and the annotations")
    if wanted.convert.enable:
        if wanted.convert.src_dataset_type is None:
            raise ConfigError("CheckDataset.convert.enable is on, but src_dataset_type is not set; use LabelMe or VOC")
        done = convert(general.dataset_dir, task=task, source=wanted.convert.src_dataset_type, seed=wanted.seed)
        log.info("converted %d images with %d objects from %s", done.images, done.objects, wanted.convert.src_dataset_type)
        for warning in done.warnings[:20]:
            log.warning("%s", warning)
    if wanted.split.enable:
        train, val = wanted.split.train_percent, wanted.split.val_percent
        if train is None or val is None:
            raise ConfigError("CheckDataset.split.enable is on; set train_percent and val_percent, such as 80 and 20")
        check_percent(train, val)
        parts = split(general.dataset_dir, task=task, train_percent=train, val_percent=val, seed=wanted.seed)
        log.info("split into %d training and %d validation images", parts.train_images, parts.val_images)
    return check_dataset(
        general.dataset_dir,
        task=task,
        out=general.output,
        image_dir=general.image_dir,
        train_annotations=general.train_annotations,
        val_annotations=general.val_annotations,
        num_classes=settings.train.num_classes,
        demo_images=wanted.num_drawn,
        seed=wanted.seed,
        paddlex_counts=wanted.paddlex_counts,
        on_progress=on_progress,
    )


def check_dataset(
    dataset_dir: str,
    *,
    task: str,
    out: str,
    image_dir: str | None = None,
    train_annotations: str | None = None,
    val_annotations: str | None = None,
    num_classes: int | None = None,
    demo_images: int = 10,
    seed: int = 0,
    chunk_images: int = 64,
    max_findings: int = 1000,
    paddlex_counts: bool = False,
    options: dict[str, Any] | None = None,
    out_options: dict[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Check all images and annotations of a data set; Ray must be running.

    Writes below `out`: check_dataset_result.json, and in check_dataset/ demo_img/, histogram.png and findings.jsonl.

    Args:
        dataset_dir: folder or fsspec URL.
        task: "instance" or "semantic".
        out: folder or URL.
        image_dir, train_annotations, val_annotations: see `find_instance` and `find_semantic`.
        num_classes: what the network has; None is what the data say.
        demo_images: images of each split drawn with their annotations.
        seed: chooses them.
        chunk_images: images that one task looks at.
        max_findings: findings of each kind written; all are counted.
        paddlex_counts: `train_samples` and `val_samples` of an instance set count annotations, as PaddleX's do, not images.
        options, out_options: fsspec options of the two places.
        on_progress: called now and then; None writes a line to the log.

    Returns:
        What check_dataset_result.json holds: PaddleX's fields (done_flag, check_pass, attributes, analysis, dataset_path,
        show_type, dataset_type), and `errors` and `warnings` by kind with counts and examples. Images and annotations are
        counted under names of their own in `attributes`.

    Raises:
        DatasetError: there is no such data set.
        ConfigError: an argument makes no sense.
        OutputError: `out` cannot be written.
    """
    if task not in _DATASET_TYPES:
        raise ConfigError(f"task {task!r} is unknown; use instance or semantic")
    if min(chunk_images, max_findings) < 1 or demo_images < 0:
        raise ConfigError("chunk_images and max_findings must be at least 1, demo_images at least 0")
    read = UrlReader(dict(options or {}))
    found = _find(dataset_dir, task, image_dir, train_annotations, val_annotations, read)
    names = found.class_names if isinstance(found, SemanticDir) else None
    limit = num_classes or (len(names) if names else None)
    background = not names or names[0].strip("_").lower() in _NOTHING
    plan = CheckPlan(read, chunk_images, demo_images, seed, max_findings, limit, background)
    splits = {name: _open(found, name, plan) for name in (TRAIN, VAL)}
    shared = _remote(check_tasks.compare_names).remote(
        splits[TRAIN].head.index.file, splits[TRAIN].names, splits[VAL].head.index.file, splits[VAL].names, max_findings
    )
    total = Findings(max_findings)
    for one in splits.values():
        total.add(one.head.findings)
    _look_at_all(splits, plan, total, on_progress or _log_progress())
    total.add(ray.get(shared))
    store = Store(out, dict(out_options or {}))
    if isinstance(found, InstanceDir):
        attributes, chart = _instance_attributes(splits, num_classes, total, paddlex_counts)
    else:
        attributes, chart = _semantic_attributes(splits, found, num_classes, total)
    store.delete_folder(f"{_FOLDER}/demo_img")
    for name, one in splits.items():
        attributes[f"{name}_sample_paths"] = _write_pictures(store, name, one.report.pictures)
    store.write(f"{_FOLDER}/histogram.png", pictures.to_png(chart))
    store.write(f"{_FOLDER}/findings.jsonl", "".join(json.dumps(row) + "\n" for row in total.rows()).encode())
    result = {
        "done_flag": True,
        "check_pass": total.errors == 0,
        "attributes": attributes,
        "analysis": {"histogram": f"{_FOLDER}/histogram.png"},
        "dataset_path": found.root.rstrip("/").rpartition("/")[2],
        "show_type": "image",
        "dataset_type": _DATASET_TYPES[task],
        "num_errors": total.errors,
        "num_warnings": total.warnings,
        "errors": total.summary(ERROR),
        "warnings": total.summary(WARNING),
        "findings": f"{_FOLDER}/findings.jsonl",
    }
    store.write(RESULT, json.dumps(result, indent=2).encode())
    return result


def _find(
    dataset_dir: str, task: str, image_dir: str | None, train: str | None, val: str | None, read: UrlReader
) -> InstanceDir | SemanticDir:
    if task == "instance":
        return find_instance(dataset_dir, image_dir=image_dir, train=train, val=val, exists=read.exists)
    return find_semantic(dataset_dir, image_dir=image_dir, train=train, val=val, exists=read.exists, read=read)


def _open(found: InstanceDir | SemanticDir, name: str, plan: CheckPlan) -> _Split:
    """Start cutting a split into chunks; waits for its head alone."""
    file = getattr(found, name)
    if isinstance(found, InstanceDir):
        parts = _remote(check_tasks.cut_coco, num_returns="streaming").remote(file, plan)
    else:
        parts = _remote(check_tasks.cut_list, num_returns="streaming").remote(file, found.images, plan)
    head = ray.get(next(parts))
    return _Split(head, next(parts), parts, ChunkReport(Findings(plan.max_findings)))


def _look_at_all(splits: dict[str, _Split], plan: CheckPlan, total: Findings, on_progress: Callable[[Progress], None]) -> None:
    """Hand out all chunks, a few for each CPU at a time, and add up what comes back."""
    images = sum(one.head.usable for one in splits.values())
    look = _remote(check_tasks.check_chunk)
    plan_ref = ray.put(plan)
    todo = _pieces(splits, plan)
    again: list[_Piece] = []
    running: dict[ray.ObjectRef, _Piece] = {}
    done = 0
    while True:
        while len(running) < _most_at_once():
            piece = again.pop() if again else next(todo, None)
            if piece is None:
                break
            tries = _RETRIES_ALONE if piece.stop - piece.start == 1 else 0  # a larger piece is tried again in halves
            task = look.options(max_retries=tries)
            running[task.remote(piece.chunk, plan_ref, slice(piece.start, piece.stop))] = piece
        if not running:
            break
        for ref in ray.wait(list(running), num_returns=1, timeout=_WAIT_S)[0]:
            piece = running.pop(ref)
            try:
                report = ray.get(ref)
            except ray.exceptions.RayError as problem:  # a process that died, or a fault of ours: it costs one image at most
                if piece.stop - piece.start > 1:
                    again += _halved(piece)
                    continue
                report = _lost(piece, problem, plan)
            total.add(report.findings)
            report.findings = Findings(plan.max_findings)
            splits[piece.split].report.add(report)
            done += report.images
        on_progress(Progress(done, images, total.errors, total.warnings))


def _pieces(splits: dict[str, _Split], plan: CheckPlan) -> Iterator[_Piece]:
    for name, one in splits.items():
        left = one.head.usable
        for chunk in one.chunks:
            yield _Piece(name, chunk, 0, min(left, plan.chunk_images))
            left -= plan.chunk_images


def _halved(piece: _Piece) -> list[_Piece]:
    middle = (piece.start + piece.stop) // 2
    return [_Piece(piece.split, piece.chunk, piece.start, middle), _Piece(piece.split, piece.chunk, middle, piece.stop)]


def _lost(piece: _Piece, problem: Exception, plan: CheckPlan) -> ChunkReport:
    """The report of an image that could not be looked at, neither among others nor alone."""
    chunk: Chunk = ray.get(piece.chunk)
    path = check_tasks.paths_of(chunk.works[piece.start], chunk.folder)[0]
    first = str(problem).strip().splitlines()[-1:] or [type(problem).__name__]
    finding = error("check-failed", path, f"in {chunk.file}", f"the check failed: {first[0][:300]}", "look at this image by hand")
    return ChunkReport(Findings.of([finding], keep=plan.max_findings), images=1)


def _most_at_once() -> int:
    """Two tasks for each CPU, so that none waits for the driver; asked anew, as a cluster may grow."""
    return 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))


def _remote(function: Callable[..., Any], **options: Any) -> Any:
    return ray.remote(function).options(**options) if options else ray.remote(function)


def _instance_attributes(
    splits: dict[str, _Split], num_classes: int | None, total: Findings, paddlex_counts: bool
) -> tuple[dict[str, Any], Any]:
    heads = {name: cast(check_coco.SplitIndex, one.head.index) for name, one in splits.items()}
    reports = {name: one.report for name, one in splits.items()}
    total.extend(check_coco.compare_categories(heads[TRAIN], heads[VAL]))
    categories = heads[TRAIN].categories or heads[VAL].categories
    total.extend(check_coco.judge_objects(reports[TRAIN].objects, categories, heads[TRAIN].file, num_classes))
    attributes: dict[str, Any] = {"num_classes": len(categories), "class_names": list(categories.values())}
    for name, head in heads.items():
        attributes[f"{name}_samples"] = head.num_annotations if paddlex_counts else head.num_images
        attributes[f"{name}_images"] = head.num_images
        attributes[f"{name}_annotations"] = head.num_annotations
        attributes[f"{name}_objects"] = sum(reports[name].objects.values())
        attributes[f"{name}_crowds"] = reports[name].crowds
    counts = [[reports[name].objects[key] for key in categories] for name in (TRAIN, VAL)]
    chart = pictures.draw_histogram(list(categories.values()), *counts, title="objects of each class")
    return attributes, chart


def _semantic_attributes(
    splits: dict[str, _Split], found: SemanticDir, num_classes: int | None, total: Findings
) -> tuple[dict[str, Any], Any]:
    pixels = {name: one.report.pixels for name, one in splits.items()}
    files = {name: one.head.index.file for name, one in splits.items()}
    names = found.class_names
    ignored = sum(one.report.ignored for one in splits.values())
    total.extend(check_semantic.judge_ids(pixels, ignored=ignored, files=files, num_classes=num_classes, class_names=names))
    used = set(pixels[TRAIN]) | set(pixels[VAL])
    classes = num_classes or (len(names) if names else max(used, default=-1) + 1)
    shown = [f"{i} {names[i]}" if names and i < len(names) else str(i) for i in range(max(classes, max(used, default=-1) + 1))]
    attributes: dict[str, Any] = {"num_classes": classes, "class_names": list(names) if names else None}
    every = sum((pixels[name] for name in pixels), Counter[int]())
    for name, one in splits.items():
        attributes[f"{name}_samples"] = attributes[f"{name}_images"] = cast(check_semantic.ListIndex, one.head.index).num_lines
    attributes["pixel_share"] = {str(i): every[i] / max(1, every.total()) for i in sorted(used)}
    attributes["ignored_share"] = ignored / max(1, ignored + every.total())
    counts = [[splits[name].report.objects[i] for i in range(len(shown))] for name in (TRAIN, VAL)]
    return attributes, pictures.draw_histogram(shown, *counts, title="images that hold each class")


def _write_pictures(store: Store, split_name: str, drawn: list[tuple[str, bytes]]) -> list[str]:
    written: list[str] = []
    for name, data in sorted(drawn):
        stem = name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] or "image"
        path = f"{_FOLDER}/demo_img/{split_name}/{stem}.jpg"
        if path in written:
            path = f"{_FOLDER}/demo_img/{split_name}/{len(written)}_{stem}.jpg"
        store.write(path, data)
        written.append(path)
    return written


def _log_progress() -> Callable[[Progress], None]:
    started = shown = time.monotonic()

    def say(progress: Progress) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < _PROGRESS_S and progress.done < progress.total:
            return
        shown = now
        rate = progress.done / max(1e-9, now - started)
        log.info(
            "%d/%d images checked, %.0f/s, %d errors, %d warnings",
            progress.done, progress.total, rate, progress.errors, progress.warnings,
        )  # fmt: skip

    return say
