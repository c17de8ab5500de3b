"""Score a finished job straight from its tables: objects against COCO annotations, label maps against index masks.

Nothing is predicted again and no image is read. An image of the truth is found in the job by the end of its path: with the
folders that the truth names, or, where no image of the job is found so, by its file name alone. One that failed counts with
nothing found in it (instances) or is left out (label maps), and is listed; one that the job has not, or has not done yet, is
left out and listed. Each commit of the job is scored alone, and the parts add up exactly.
"""

from __future__ import annotations

import logging
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from rayseg.datasets.coco import parse
from rayseg.datasets.files import Reader, read_json
from rayseg.datasets.index_mask import read_index_mask
from rayseg.datasets.semantic import SUFFIXES, SemanticPairs
from rayseg.errors import ConfigError, DatasetError, ImageError, OutputError
from rayseg.evaluation.classes import match_classes
from rayseg.evaluation.result import Evaluation
from rayseg.evaluation.scoring import InstanceScoring, Partial, Scoring, SemanticScoring, finish_evaluation, join
from rayseg.geometry import Size
from rayseg.metrics.coco_ap import MAX_DETS
from rayseg.pipeline.check_tasks import UrlReader
from rayseg.pipeline.read_tables import committed, in_order, read_job, read_rows, to_instances
from rayseg.pipeline.storage import Store, filesystem, is_local
from rayseg.results import Instances, SemanticMap
from rayseg.tables import OK

log = logging.getLogger(__name__)

_IMAGES = ["unit_id", "uri", "page", "width", "height", "status", "stage", "reason"]
_OBJECTS = ["unit_id", "class_id", "score", "x0", "y0", "x1", "y1", "rle_h", "rle_w", "rle_counts"]
_LOW_THRESHOLD = 0.05
"""Objects below it hardly move AP."""
_SHOWN = 20

Where = tuple[str, int]
"""File name and page."""


@dataclass(frozen=True)
class JobEvaluation:
    """Scores of a job, and which images they are of.

    Attributes:
        evaluation: the scores.
        failed: (uri, stage, reason) of images that the job could not do.
        absent: images of the truth that the job has not got, or has not done yet.
        unlisted: images of the job that the truth does not list; they are not scored.
        threshold: of the job; objects below it were never written. None for semantic models.
    """

    evaluation: Evaluation
    failed: tuple[tuple[str, str, str], ...]
    absent: tuple[str, ...]
    unlisted: int
    threshold: float | None

    def to_json(self) -> dict[str, Any]:
        """As `Evaluation.to_json`, with the images under `job`."""
        failed = [{"file": uri, "stage": stage, "reason": reason} for uri, stage, reason in self.failed]
        job = {"failed": failed, "absent": list(self.absent), "unlisted": self.unlisted, "threshold": self.threshold}
        return self.evaluation.to_json() | {"job": job}

    def to_text(self) -> str:
        """The scores and what to know of them."""
        return "\n".join([self.evaluation.to_text(), *self.notes()])

    def notes(self) -> list[str]:
        """What makes the scores other than they would be."""
        out = []
        if self.failed:
            how = "counted with nothing found" if self.evaluation.task == "instance" else "left out"
            out.append(f"{len(self.failed)} images failed in the job and are {how}: {_some(uri for uri, _, _ in self.failed)}")
        if self.absent:
            out.append(f"{len(self.absent)} images of the truth are not done by the job and are left out: {_some(self.absent)}")
        if self.unlisted:
            out.append(f"{self.unlisted} images of the job are not in the truth and are left out")
        if self.threshold is not None and self.threshold > _LOW_THRESHOLD:
            out.append(
                f"the job kept objects above {self.threshold:g} only, so average precision and recall lack the weaker ones; "
                "run it with --threshold 0 for scores to compare with others"
            )
        return out


def score_job(
    store: Store,
    truth: str,
    *,
    images: str | None = None,
    max_dets: Sequence[int] = MAX_DETS,
    boxes: bool = True,
    rename: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    parallel: bool = False,
) -> JobEvaluation:
    """Score an output folder.

    Args:
        store: the output.
        truth: path or URL: a COCO .json for a job that found instances; for a semantic job a list such as val.txt, or a folder
            of index masks, each named as its image.
        images: what names in a list are relative to; None takes the folder of the list.
        max_dets, boxes: see `InstanceScoring`; not for semantic jobs.
        rename: label of the model -> name in the truth, where they differ.
        options: fsspec options of `truth`.
        parallel: in tasks of the Ray that runs, else in threads of this process.

    Raises:
        OutputError: the folder holds no job, or a file of it cannot be read.
        DatasetError: a truth that cannot be used, or that no image or class of the job is in.
        ConfigError: a setting that this kind of job has no use for.
    """
    job = read_job(store)
    semantic = job["model"].get("task") == "semantic"
    reader = UrlReader(dict(options or {}))
    labels = [str(label) for label in job["model"]["labels"]]
    work: _Work = (
        _semantic_work(truth, images, labels, rename, reader, options)
        if semantic
        else _instance_work(truth, images, labels, rename, reader, max_dets, boxes)
    )
    chunks = [chunk for found in committed(store).values() for chunk in found]
    found = _score_chunks(store, work, chunks, parallel)
    if not any(part.seen for part in found):
        found = _score_chunks(store, replace(work, whole_names=False), chunks, parallel)
    threshold = None if semantic else job["model"].get("threshold")
    return _together(store, work, found, threshold)


@dataclass(frozen=True)
class _Work:
    """What scoring a commit needs; travels to tasks.

    Attributes:
        names: file names of the truth's images -> image id of the COCO file, or path of the index mask.
        read: reads index masks.
        whole_names: an image is known by its name with the folders the truth gives it, not by the last part alone.
    """

    scoring: Scoring
    names: Names
    read: Reader
    whole_names: bool = True


class Names:
    """Images of the truth, found by the end of a path.

    Args:
        entries: (name, page) of each image and what it stands for. `page` tells pages of one file apart.
        stems: names are compared without their suffix.
    """

    def __init__(self, entries: Iterable[tuple[Where, Any]], *, stems: bool = False) -> None:
        self._stems = stems
        self._by_last: dict[Where, list[tuple[tuple[str, ...], Any]]] = {}
        self.all: list[tuple[str, Any]] = []
        for (name, page), value in entries:
            parts = self._parts(name)
            self._by_last.setdefault((parts[-1], page), []).append((parts, value))
            self.all.append((name, value))

    def find(self, uri: str, page: int, *, whole: bool = True) -> Any | None:
        """What the image stands for, or None.

        Args:
            whole: the path ends with the name and all its folders; else the last part of the name is enough.

        Raises:
            DatasetError: it could be two.
        """
        parts = self._parts(uri)
        near = self._by_last.get((parts[-1], page), [])
        found = [value for known, value in near if not whole or parts[-len(known) :] == known]
        if len(found) > 1:
            names = _some("/".join(known) for known, _ in near)
            raise DatasetError(f"{uri}: could be any of {len(found)} images of the truth: {names}. Give them names of their own")
        return found[0] if found else None

    def _parts(self, name: str) -> tuple[str, ...]:
        name = unquote(name.removeprefix("file://")) if name.startswith("file://") else name.partition("://")[2] or name
        if self._stems:
            name = posixpath.splitext(name)[0]
        return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


@dataclass(frozen=True)
class _Scored:
    """One commit.

    Attributes:
        seen: which of the truth's images it has, failed ones too.
        failed: see JobEvaluation; those of the truth only.
    """

    partial: Partial
    seen: tuple[Any, ...]
    failed: tuple[tuple[str, str, str], ...]
    unlisted: int


def _instance_work(
    truth: str,
    images: str | None,
    labels: Sequence[str],
    rename: Mapping[str, str] | None,
    read: Reader,
    max_dets: Sequence[int],
    boxes: bool,
) -> _Work:
    if not truth.lower().endswith(".json"):
        raise ConfigError(f"{truth}: the job found instances; their truth is a COCO .json file")
    if images is not None:
        raise ConfigError(f"images {images!r} is set, but a COCO file is matched by its file names; leave it out")
    content = parse(read_json(truth, read), truth)
    classes = match_classes(labels, {c["id"]: str(c["name"]) for c in content["categories"]}, rename=rename)
    scoring = InstanceScoring(content, classes, max_dets=max_dets, boxes=boxes)
    names = Names(((str(i["file_name"]), int(i.get("page", 0))), i["id"]) for i in content["images"])
    return _Work(scoring, names, read)


def _semantic_work(
    truth: str,
    images: str | None,
    labels: Sequence[str],
    rename: Mapping[str, str] | None,
    read: Reader,
    options: Mapping[str, Any] | None,
) -> _Work:
    if rename:
        raise ConfigError("rename is for COCO files; index masks hold the model's own class ids")
    if truth.lower().endswith(".json"):
        raise ConfigError(f"{truth}: the job made label maps; their truth is a list such as val.txt or a folder of index masks")
    if truth.lower().endswith(".txt"):
        root = images if images is not None else truth.rpartition("/")[0] or "."
        pairs = SemanticPairs(truth, root, read=read).entries
        return _Work(SemanticScoring(labels), Names(((pair.image, 0), pair.mask) for pair in pairs), read)
    if images is not None:
        raise ConfigError(f"images {images!r} is set, but masks of a folder are matched by their names; leave it out")
    return _Work(SemanticScoring(labels), Names((((mask, 0), mask) for mask in _masks(truth, options)), stems=True), read)


def _masks(folder: str, options: Mapping[str, Any] | None) -> list[str]:
    fs = filesystem(folder, options)
    try:
        found = sorted(str(name) for name in fs.find(folder))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error}); give the folder of the index masks") from error
    masks = [name if is_local(folder) else str(fs.unstrip_protocol(name)) for name in found if name.lower().endswith(SUFFIXES)]
    if not masks:
        raise DatasetError(f"{folder}: holds no index masks ({', '.join(SUFFIXES[:3])}); give their folder, or a list")
    return masks


def _score_chunk(store: Store, work: _Work, chunk: str) -> _Scored:
    rows = read_rows(store, f"images/{chunk}.parquet", _IMAGES).to_pylist()
    objects = _by_unit(read_rows(store, f"objects/{chunk}.parquet", _OBJECTS))
    parts, failed, unlisted = [], [], 0
    seen: Counter[Any] = Counter()
    for row in rows:
        key = work.names.find(row["uri"], row["page"], whole=work.whole_names)
        if key is None:
            unlisted += 1
            continue
        seen[key] += 1
        if seen[key] > 1:
            continue  # refused once all commits are known
        size = None
        if row["status"] == OK:
            size = Size(row["height"], row["width"])
        else:
            failed.append((row["uri"], row["stage"], row["reason"] or ""))
        part = _score_image(work, key, row["uri"], size, objects.get(row["unit_id"]))
        parts += [part] if part is not None else []
    return _Scored(join(work.scoring, parts), tuple(seen.elements()), tuple(failed), unlisted)


def _score_image(work: _Work, key: Any, uri: str, size: Size | None, objects: pa.Table | None) -> Partial | None:
    """None for a failed image that is left out."""
    if isinstance(work.scoring, InstanceScoring):
        size = size or work.scoring.size_of(key)
        return work.scoring.score(key, to_instances(objects) if objects is not None else Instances.none(size))
    if size is None:
        return None
    if objects is None:
        raise OutputError(f"{uri}: has no regions in the objects table; `rayseg verify` says what to do")
    try:
        labels = read_index_mask(work.read(key))
    except (ImageError, OSError) as error:
        raise DatasetError(f"{key}: no usable mask: {error}") from error
    return work.scoring.score(key, labels, SemanticMap.from_regions(to_instances(objects)))


def _by_unit(objects: pa.Table) -> dict[int, pa.Table]:
    """Rows of each unit, in order."""
    units = objects["unit_id"].to_numpy()
    order = np.argsort(units, kind="stable")
    starts = np.flatnonzero(np.diff(units[order], prepend=units[order][:1] - 1)) if units.size else order
    return {int(units[rows[0]]): objects.take(pa.array(rows)) for rows in np.split(order, starts[1:]) if rows.size}


def _score_chunks(store: Store, work: _Work, chunks: list[str], parallel: bool) -> list[_Scored]:
    if not parallel:
        return list(in_order(lambda chunk: _score_chunk(store, work, chunk), chunks))
    import ray

    @ray.remote(num_cpus=1)
    def task(store: Store, work: _Work, chunk: str) -> _Scored:
        return _score_chunk(store, work, chunk)

    shared = ray.put(work)
    try:
        return list(ray.get([task.remote(store, shared, chunk) for chunk in chunks]))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # as the task raised it, without Ray's traceback


def _together(store: Store, work: _Work, found: list[_Scored], threshold: float | None) -> JobEvaluation:
    seen = [key for part in found for key in part.seen]
    twice = [key for key, n in Counter(seen).items() if n > 1]
    if twice:
        raise DatasetError(
            f"{len(twice)} images of the truth stand for several images of the job, such as {twice[0]}: the job has files of one "
            "name in different folders. Give the truth's names with their folders."
        )
    if not seen:
        listed = _some(name for name, _ in work.names.all)
        raise DatasetError(
            f"{store.url}: none of its images is in the truth, which lists {listed}. Is it the truth of this job? "
            "Images are matched by the end of their path."
        )
    done = set(seen)
    result = JobEvaluation(
        finish_evaluation(work.scoring, [part.partial for part in found]),
        failed=tuple(sorted(row for part in found for row in part.failed)),
        absent=tuple(name for name, key in work.names.all if key not in done),
        unlisted=sum(part.unlisted for part in found),
        threshold=threshold,
    )
    for note in result.notes():
        log.warning("%s", note)
    return result


def _some(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
