"""The numbers of a report, added up file by file in memory that does not grow with the archive.

What they look like on the page is for `page.py`; which images are shown is chosen in `picks.py`, on the way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayseg.errors import OutputError
from rayseg.pipeline.read_tables import committed, in_order, read_rows
from rayseg.pipeline.report.picks import Picks
from rayseg.pipeline.storage import Store
from rayseg.tables import FAILED, STAGES

SCORE_BINS = 40
# Object areas fall into half octaves: bin i holds [2^(i/2), 2^((i+1)/2)) pixels.
AREA_BINS = 80

_MOST_REASONS = 500
_OTHER = "other reasons"
_EXAMPLES = 3
LEDGER = [
    *("unit_id", "uri", "page", "width", "height", "status", "stage", "reason", "n_objects"),
    *(f"{stage}_s" for stage in STAGES),
]
"""Columns of the ledger that are read."""
_OBJECTS = ["unit_id", "class_id", "score", "area_px"]


@dataclass
class Failure:
    """Images that failed at one stage for one reason.

    Attributes:
        reason: the reason; where images differ in a number or a name, "…" stands for it.
        examples: (uri, page) of the first few.
    """

    stage: str
    reason: str
    count: int = 0
    examples: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Classes:
    """Sums by class id; every array grows to the largest id seen."""

    objects: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    score_sum: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, units: np.ndarray, class_ids: np.ndarray, areas: np.ndarray, scores: np.ndarray) -> None:
        """Objects of whole images: no image may be spread over two calls."""
        self.add_part(class_ids, areas, scores)
        self.add_images(np.unique(np.stack([units, class_ids], axis=1), axis=0)[:, 1])

    def add_images(self, class_ids: np.ndarray) -> None:
        """The classes of images, each class as often as there are images with it."""
        self.images = _sum(self.images, np.bincount(class_ids))

    def add_part(self, class_ids: np.ndarray, areas: np.ndarray, scores: np.ndarray) -> None:
        """Any objects, whose images are counted by `add_images`."""
        self.objects = _sum(self.objects, np.bincount(class_ids))
        # bincount's weights are float64, exact to 2^53 pixels.
        self.pixels = _sum(self.pixels, np.bincount(class_ids, weights=areas).astype(np.int64))
        self.score_sum = _sum(self.score_sum, np.bincount(class_ids, weights=scores))


@dataclass
class Tally:
    """Sums over the ledger and the objects of a job.

    Attributes:
        empty: ok images without an object.
        noted: ok images with a remark, such as tiles without data.
        damaged: why files could not be read; their images are in no other number.
        stage_seconds, stage_images: time spent in each stage, and how many images were timed there.
        objects_per_image: how many ok images have i objects.
        scores: histogram of SCORE_BINS equal bins over [0, 1].
        areas: histogram of AREA_BINS half octaves.
    """

    picks: Picks
    ok: int = 0
    failed: int = 0
    objects: int = 0
    empty: int = 0
    noted: int = 0
    pixels: int = 0
    damaged: list[str] = field(default_factory=list)
    failures: dict[tuple[str, str], Failure] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    stage_images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    objects_per_image: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(SCORE_BINS, dtype=np.int64))
    areas: np.ndarray = field(default_factory=lambda: np.zeros(AREA_BINS, dtype=np.int64))
    classes: Classes = field(default_factory=Classes)

    def add(self, chunk: str, images: pa.Table, objects: pa.Table) -> None:
        """One commit: its ledger rows and its objects."""
        good = self.add_images(images)
        self.objects_per_image = _sum(self.objects_per_image, np.bincount(good["n_objects"].to_numpy()))
        self.picks.add(chunk, good, self._add_objects(objects))

    def add_images(self, images: pa.Table) -> pa.Table:
        """Ledger rows alone; returns those that did not fail."""
        bad = pc.equal(images["status"], FAILED)
        good = images.filter(pc.invert(bad))
        counts = good["n_objects"].to_numpy()
        self.ok += good.num_rows
        self.failed += images.num_rows - good.num_rows
        self.empty += int((counts == 0).sum())
        self.noted += good.num_rows - good["reason"].null_count
        sizes = [good[name].cast(pa.int64()).fill_null(0).to_numpy() for name in ("width", "height")]
        self.pixels += int((sizes[0] * sizes[1]).sum())
        for stage in STAGES:
            seconds = images[f"{stage}_s"].drop_null().to_numpy()
            self.stage_seconds[stage] += float(seconds.sum(dtype=np.float64))
            self.stage_images[stage] += len(seconds)
        for row in images.filter(bad).to_pylist():
            self._add_failure(row)
        return good

    def add_objects(self, class_ids: np.ndarray, areas: np.ndarray, scores: np.ndarray | None) -> None:
        """Any objects, but not which images they are in; scores are None for models without."""
        self.objects += len(class_ids)
        self.classes.add_part(class_ids, areas, np.zeros(len(areas)) if scores is None else scores)
        self._add_to_histograms(areas, scores)

    def _add_objects(self, objects: pa.Table) -> dict[int, float]:
        """Count objects; returns the mean score of each unit, nothing for models without scores."""
        if not objects.num_rows:
            return {}
        units, areas = objects["unit_id"].to_numpy(), objects["area_px"].to_numpy()
        scored = objects["score"].null_count == 0
        scores = objects["score"].fill_null(0.0).to_numpy().astype(np.float64)
        self.objects += objects.num_rows
        self.classes.add(units, objects["class_id"].to_numpy(), areas, scores)
        self._add_to_histograms(areas, scores if scored else None)
        if not scored:
            return {}
        ids, index = np.unique(units, return_inverse=True)
        means = np.bincount(index, weights=scores) / np.bincount(index)
        return dict(zip(ids.tolist(), means.tolist(), strict=True))

    def _add_to_histograms(self, areas: np.ndarray, scores: np.ndarray | None) -> None:
        bins = np.floor(2 * np.log2(areas[areas > 0]) + 1e-9).astype(np.int64)
        self.areas += np.bincount(bins.clip(0, AREA_BINS - 1), minlength=AREA_BINS)
        if scores is not None:
            bins = np.floor(scores * SCORE_BINS + 1e-6).astype(np.int64)
            self.scores += np.bincount(bins.clip(0, SCORE_BINS - 1), minlength=SCORE_BINS)

    def _add_failure(self, row: dict[str, Any]) -> None:
        reason = _without_names(row["reason"] or "no reason given", row["uri"])
        stage, pattern = row["stage"] or "?", re.sub(r"\d+", "…", reason)
        if (stage, pattern) not in self.failures and len(self.failures) >= _MOST_REASONS:
            reason = pattern = _OTHER
        found = self.failures.setdefault((stage, pattern), Failure(stage, reason))
        if found.reason != reason:
            found.reason = pattern
        found.count += 1
        if len(found.examples) < _EXAMPLES:
            found.examples.append((row["uri"], row["page"]))


def tally(store: Store, picks: Picks) -> Tally:
    """Read every commit that counts, some files at a time. A damaged file is named and costs only its own images."""
    out = Tally(picks)

    def read(chunk: str) -> tuple[str, pa.Table, pa.Table] | OutputError:
        try:
            images = read_rows(store, f"images/{chunk}.parquet", LEDGER)
            return chunk, images, read_rows(store, f"objects/{chunk}.parquet", _OBJECTS)
        except OutputError as error:
            return error

    for found in in_order(read, (chunk for chunks in committed(store).values() for chunk in chunks)):
        if isinstance(found, OutputError):
            out.damaged.append(str(found))
        else:
            out.add(*found)
    return out


def tally_ledger(store: Store) -> Tally:
    """The same without objects and pictures, for a job whose objects are not those of the objects table, such as one of tiles."""
    out = Tally(Picks(sample=0, extremes=0))

    def read(chunk: str) -> pa.Table | OutputError:
        try:
            return read_rows(store, f"images/{chunk}.parquet", LEDGER)
        except OutputError as error:
            return error

    for found in in_order(read, (chunk for chunks in committed(store).values() for chunk in chunks)):
        if isinstance(found, OutputError):
            out.damaged.append(str(found))
        else:
            out.add_images(found)
    return out


def _without_names(reason: str, uri: str) -> str:
    """A reason with the image's own name taken out, so that the same trouble of many images reads the same."""
    for name in (uri, uri.rsplit("/", 1)[-1]):
        if len(name) > 3:
            reason = reason.replace(name, "…")
    return reason


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of two vectors, the shorter one filled up with zeros."""
    if len(a) < len(b):
        a, b = b, a
    out = a.copy()
    out[: len(b)] += b
    return out
