"""Prometheus series of a job, exported by Ray's agent on every node. Names and tags are stable: dashboards rely on them.

Ray puts `ray_` before each name. The tag is `rayseg_job` because Prometheus keeps `job` for itself, and renames ours. A run
counts its own work, so a resumed job starts at zero; what is finished in all is in `rayseg_images_done`. dashboards/grafana.json
is made from this table.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

from fsspec.core import split_protocol

COUNTER, GAUGE = "counter", "gauge"
JOB = "rayseg_job"
OUTSIDE = ""
"""The tag of work that belongs to no job, such as a sample: it is not counted."""


@dataclass(frozen=True)
class Series:
    """One series. `tags` are those beside JOB, which all have."""

    name: str
    kind: str
    tags: tuple[str, ...]
    meaning: str


SERIES = (
    Series(
        "rayseg_images_total", COUNTER, ("stage", "status"), "Images that left decode, predict or encode, ok or failed there."
    ),
    Series("rayseg_objects_total", COUNTER, (), "Objects written."),
    Series("rayseg_stage_seconds_total", COUNTER, ("stage",), "Seconds of work in fetch, decode, prepare, predict and encode."),
    Series("rayseg_predictor_seconds_total", COUNTER, ("state",), "Seconds of all predictors, busy or waiting for images."),
    Series("rayseg_chunks_waiting", GAUGE, ("stage",), "Chunks that wait for predict or encode, or are in it."),
    Series("rayseg_images_planned", GAUGE, (), "Images of the job."),
    Series("rayseg_images_done", GAUGE, ("status",), "Images in the ledger, ok or failed, those of earlier runs too."),
)


def job_tag(out: str) -> str:
    """What a job is called in series and log lines: the last part of its output, and what tells it from others of that name."""
    if not out:
        return OUTSIDE
    protocol, path = split_protocol(out)
    whole = os.path.abspath(path) if protocol in (None, "file", "local") else out.rstrip("/")
    return f"{whole.rsplit('/', 1)[-1]}-{hashlib.blake2b(whole.encode('utf-8', 'surrogateescape'), digest_size=3).hexdigest()}"


def count(job: str, stage: str, *, images: int, failed: int, objects: int, seconds: dict[str, float]) -> None:
    """Add what passed a stage; `images` are those that did not fail there. Zero is not counted."""
    _add(job, "rayseg_images_total", images, stage=stage, status="ok")
    _add(job, "rayseg_images_total", failed, stage=stage, status="failed")
    _add(job, "rayseg_objects_total", objects)
    for name, value in seconds.items():
        _add(job, "rayseg_stage_seconds_total", value, stage=name)


def predictor(job: str, *, busy_s: float, waiting_s: float) -> None:
    """Add the time a predictor worked on a chunk, and the time it had none before."""
    _add(job, "rayseg_predictor_seconds_total", busy_s, state="busy")
    _add(job, "rayseg_predictor_seconds_total", waiting_s, state="waiting")


def waiting(job: str, chunks: dict[str, int]) -> None:
    """Say how many chunks each stage has before it."""
    for stage, n in chunks.items():
        _set(job, "rayseg_chunks_waiting", n, stage=stage)


def ledger(job: str, *, planned: int, done: int, failed: int) -> None:
    """Say how far the job is; `done` includes `failed`."""
    _set(job, "rayseg_images_planned", planned)
    _set(job, "rayseg_images_done", done - failed, status="ok")
    _set(job, "rayseg_images_done", failed, status="failed")


def _add(job: str, name: str, value: float, **tags: str) -> None:
    if job != OUTSIDE and value > 0:
        _metrics()[name].inc(value, tags={JOB: job, **tags})


def _set(job: str, name: str, value: float, **tags: str) -> None:
    if job != OUTSIDE:
        _metrics()[name].set(value, tags={JOB: job, **tags})


@cache
def _metrics() -> dict[str, Any]:
    from ray.util.metrics import Counter, Gauge  # not above: whoever reads the table needs no Ray

    kinds = {COUNTER: Counter, GAUGE: Gauge}
    return {s.name: kinds[s.kind](s.name, description=s.meaning, tag_keys=(JOB, *s.tags)) for s in SERIES}
