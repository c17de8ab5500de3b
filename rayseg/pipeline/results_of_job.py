"""A job's output as the result objects of `predict`, one image at a time; the images themselves are read when drawn."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rayseg.config.load import nearest
from rayseg.errors import ConfigError, OutputError, RaysegError, SourceError
from rayseg.geometry import Size
from rayseg.images import decode
from rayseg.paddlex.result import InstanceResult, SegmentationResult, SemanticResult
from rayseg.paddlex.saving import Stems
from rayseg.pipeline.identity import is_scenes
from rayseg.pipeline.read_tables import committed, in_order, read_job, read_rows, to_instances
from rayseg.pipeline.sources import to_path
from rayseg.pipeline.storage import Store, filesystem, is_local, with_retries
from rayseg.results import Instances, SemanticMap
from rayseg.tables import OK

_IMAGES = ["unit_id", "uri", "page", "width", "height", "status", "n_objects"]
_OBJECTS = ["unit_id", "object_id", "class_id", "score", "x0", "y0", "x1", "y1", "rle_h", "rle_w", "rle_counts"]
_ATTEMPTS = 3
_AHEAD = 2  # chunks read ahead


def read_results(
    out: str | os.PathLike[str],
    *,
    class_: int | Collection[int] | None = None,
    label: str | Collection[str] | None = None,
    min_score: float | None = None,
    uri: str | Collection[str] | None = None,
    empty: bool = False,
    out_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
) -> Iterator[SegmentationResult]:
    """Results of the images of a job, in the order of its plan's shards; memory is that of a few of its files.

    Objects that do not fit the filters are left out, and images without any left. Of semantic jobs whole label maps come, of
    images in which a wanted class occurs. Images that failed are not among them.

    Args:
        out: folder or URL of the job, finished or not.
        class_: class id, or several.
        label: class name, or several; together with `class_` a class of either.
        min_score: least score of an object; jobs of instance models only.
        uri: of an image as the tables have it, or its last part; or several.
        empty: also images without objects.
        out_options: fsspec options of `out`.
        source_options: fsspec options to read the images with when drawing; default: those of the job, without its secrets.

    Raises:
        ConfigError: now, for a class the model does not have, a score for a semantic model, or a job of scenes.
        OutputError: now when the folder holds no job; in its turn when a file of it cannot be read.
    """
    text = os.fspath(out)
    store = Store(text, {} if is_local(text) else dict(out_options or {}))
    job = read_job(store)
    if is_scenes(job):
        raise ConfigError(f"{text} is a job of scenes, whose masks are no whole images; use `rayseg export-geo`")
    semantic = job["model"].get("task") == "semantic"
    if min_score is not None and semantic:
        raise ConfigError(f"min_score {min_score} is set, but regions of a semantic model have no scores; leave it out")
    labels = tuple(f"{name}" for name in job["model"]["labels"])
    settings = job.get("settings") or {}
    options = {**(settings.get("source_options") or {}), **(source_options or {})}
    wanted = _Wanted(_class_ids(class_, label, labels), min_score, _several(uri), empty, semantic)
    return _results(store, job["plan"]["shards"], wanted, labels, options, bool(settings.get("allow_truncated")))


@dataclass(frozen=True)
class StoredOrigin:
    """An image where the job found it."""

    uri: str
    page: int
    options: Mapping[str, Any] = field(repr=False)
    allow_truncated: bool = False

    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3). Raises SourceError or ImageError."""
        try:
            fs = filesystem(self.uri, self.options)
            path = to_path(fs, self.uri)
            data = with_retries(lambda: fs.cat_file(path), attempts=_ATTEMPTS, what=self.uri)
        except RaysegError:
            raise
        except Exception as error:  # storage libraries raise their own trees
            raise SourceError(f"cannot be read any more ({error}); give source_options if it needs credentials") from error
        return decode(data, page=self.page, allow_truncated=self.allow_truncated)


@dataclass(frozen=True)
class _Wanted:
    classes: frozenset[int] | None
    min_score: float | None
    uris: frozenset[str] | None
    empty: bool
    semantic: bool

    def image(self, row: Mapping[str, Any]) -> bool:
        uri = row["uri"]
        return row["status"] == OK and (self.uris is None or uri in self.uris or uri.rsplit("/", 1)[-1] in self.uris)

    def found(self, objects: pa.Table, size: Size) -> Instances | SemanticMap | None:
        """What is wanted of an image's objects; None when that is nothing."""
        found = to_instances(objects) if objects.num_rows else Instances.none(size)
        keep = np.ones(len(found), dtype=bool)
        if self.classes is not None:
            keep &= np.isin(found.class_ids, list(self.classes))
        if self.min_score is not None:
            keep &= found.scores >= np.float32(self.min_score)
        if not keep.any() and not self.empty:
            return None
        return SemanticMap.from_regions(found) if self.semantic else found.select(keep)


def _results(
    store: Store, shards: list[str], wanted: _Wanted, labels: tuple[str, ...], options: Mapping[str, Any], allow_truncated: bool
) -> Iterator[SegmentationResult]:
    chunks, stems = committed(store), Stems()
    names = (name for shard in shards for name in chunks.get(shard, []))
    kind: Any = SemanticResult if wanted.semantic else InstanceResult
    for images, objects in in_order(lambda name: _read(store, name), names, threads=_AHEAD):
        by_unit = _rows_by_unit(objects)
        for row in images:
            if not wanted.image(row):
                continue
            part = objects.take(by_unit.get(row["unit_id"], np.empty(0, np.int64)))
            if part.num_rows != row["n_objects"]:
                raise OutputError(
                    f"{row['uri']}: {part.num_rows} objects, the ledger says {row['n_objects']}; run `rayseg verify`"
                )
            found = wanted.found(part, Size(row["height"], row["width"]))
            if found is None:
                continue
            uri, paged = row["uri"], row["uri"].lower().endswith((".tif", ".tiff"))
            page = row["page"] if paged or row["page"] else None
            origin = StoredOrigin(uri, row["page"], options, allow_truncated)
            yield kind(uri, page, found, labels, origin=origin, stem=stems.claim(uri, page))


def _read(store: Store, name: str) -> tuple[list[dict[str, Any]], pa.Table]:
    images = read_rows(store, f"images/{name}.parquet", _IMAGES).to_pylist()
    return images, read_rows(store, f"objects/{name}.parquet", _OBJECTS)


def _rows_by_unit(objects: pa.Table) -> dict[int, np.ndarray]:
    """Index of the rows of each unit, in the order of their object ids."""
    units, ids = objects["unit_id"].to_numpy(), objects["object_id"].to_numpy()
    order = np.lexsort((ids, units))
    edges = np.flatnonzero(np.diff(units[order])) + 1
    return {int(units[part[0]]): part for part in np.split(order, edges) if len(part)}


def _class_ids(
    class_: int | Collection[int] | None, label: str | Collection[str] | None, labels: tuple[str, ...]
) -> frozenset[int] | None:
    if class_ is None and label is None:
        return None
    wanted = {class_} if isinstance(class_, int) else set(class_ or ())
    for one in wanted:
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < len(labels):
            raise ConfigError(f"class_ {one!r}: the job's model has classes 0 to {len(labels) - 1}; for names use label=")
    for name in _several(label) or ():
        if name not in labels:
            raise ConfigError(f"label {name!r} is not one of the job's model{nearest(name, labels)}")
        wanted |= {i for i, known in enumerate(labels) if known == name}
    return frozenset(wanted)


def _several(given: str | Collection[str] | None) -> frozenset[str] | None:
    return None if given is None else frozenset([given] if isinstance(given, str) else given)
