"""Prometheus series of a job, exported by Ray's agent on every node. Names and tags are stable: dashboards rely on them."""

from __future__ import annotations

from functools import cache
from typing import Any

from ray.util.metrics import Counter


@cache
def _counters() -> dict[str, Any]:
    return {
        "images": Counter("rayseg_images_total", description="Images that left a stage.", tag_keys=("stage", "status")),
        "objects": Counter("rayseg_objects_total", description="Objects written."),
        "seconds": Counter("rayseg_stage_seconds_total", description="Seconds of work in a stage.", tag_keys=("stage",)),
    }


def count(stage: str, *, images: int, failed: int, objects: int, seconds: dict[str, float]) -> None:
    """Add what passed a stage; zero is not counted."""
    counters = _counters()
    for status, n in (("ok", images), ("failed", failed)):
        if n:
            counters["images"].inc(n, tags={"stage": stage, "status": status})
    if objects:
        counters["objects"].inc(objects)
    for name, value in seconds.items():
        if value > 0:
            counters["seconds"].inc(value, tags={"stage": name})
