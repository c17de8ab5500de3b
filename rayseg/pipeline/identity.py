"""job.json: what was asked. A folder of results belongs to one job; a different one is refused, with the difference named.

It is written once, when the plan is whole: a folder without it holds no plan that counts.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from rayseg.config.segment import SegmentSettings
from rayseg.errors import JobMismatch, OutputError
from rayseg.pipeline.plan import Plan, plan_from_json, plan_to_json
from rayseg.pipeline.storage import Store
from rayseg.predict.model_dir import ModelSpec

FORMAT = 1
_NAME = "job.json"
_PACKAGES = (
    "rayseg",
    "ray",
    "paddlepaddle",
    "paddlepaddle-gpu",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "pyarrow",
)
_SECRETS = ("key", "secret", "token", "password", "credential")


def of(settings: SegmentSettings, spec: ModelSpec) -> dict[str, Any]:
    """What decides every row of the result."""
    model = {"model": spec.name, "model_fingerprint": spec.fingerprint}
    threshold = spec.draw_threshold if settings.threshold is None else settings.threshold
    return {**settings.identity(), **model, "threshold": threshold}


def read(store: Store) -> dict[str, Any] | None:
    """The job of this folder, or None when it has none.

    Raises:
        OutputError: there is a job.json that is not ours.
    """
    if not store.exists(_NAME):
        return None
    try:
        job = json.loads(store.read(_NAME))
        found = job["format"]
        job["identity"], job["plan"]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{store.url}/{_NAME} is not a rayseg job ({type(error).__name__}: {error}); give another output folder"
        ) from error
    if found != FORMAT:
        raise OutputError(f"{store.url}/{_NAME} has format {found}, this rayseg reads {FORMAT}; use the version that wrote it")
    return job


def require(store: Store) -> dict[str, Any]:
    """As `read`, for commands that need a job.

    Raises:
        OutputError: the folder holds no job.
    """
    job = read(store)
    if job is None:
        raise OutputError(f"{store.url}: no {_NAME} there, so this is not the output of a rayseg job (or planning never ended)")
    return job


def check_same(job: dict[str, Any], wanted: dict[str, Any], url: str) -> None:
    """Raise JobMismatch, naming every difference, unless the folder's job is the wanted one."""
    found, wanted = _flat(job["identity"], wanted)
    differing = [k for k in sorted({*found, *wanted}) if found.get(k) != wanted.get(k)]
    if differing == ["model_fingerprint"]:
        said = f"model {wanted['model']!r} was another one of that name: its files differ"
    else:
        said = "; ".join(_change(k, found.get(k), wanted.get(k)) for k in differing if k != "model_fingerprint")
    if differing:
        raise JobMismatch(f"{url} holds the results of another job ({said}). Give another output folder, or the same settings.")


def _change(name: str, before: Any, now: Any) -> str:
    if name == "scenes":  # of one of them only, see `_flat`
        return "it was of scenes, now of images" if before else "it was of images, now of scenes"
    return f"{name} was {before!r}, now {now!r}"


def check_fresh(store: Store) -> None:
    """Raise OutputError when there are results without a job.json that explains them."""
    for folder in ("images", "objects"):
        if any(name.endswith(".parquet") for name in store.list(folder)):
            raise OutputError(f"{store.url}/{folder}/ has Parquet files but there is no {_NAME}; give an empty output folder")


def write(
    store: Store,
    settings: SegmentSettings,
    spec: ModelSpec,
    wanted: dict[str, Any],
    plan: Plan,
    *,
    scenes: dict[str, Any] | None = None,
) -> None:
    """Make a plan count.

    Args:
        scenes: what a job of scenes found out before it began; its presence tells such a job from others.
    """
    before = read(store) or {}
    job = {
        "format": FORMAT,
        "rayseg": version_of("rayseg"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": wanted,
        "settings": {k: _without_secrets(v) for k, v in asdict(_from_anywhere(settings)).items()},
        "model": {
            "name": spec.name,
            "task": spec.task,
            "flavour": spec.flavour,
            "labels": list(spec.labels),
            "threshold": wanted["threshold"],
            "fingerprint": spec.fingerprint,
            "path": spec.path,
        },
        "plan": plan_to_json(plan),
        **({} if scenes is None else {"scenes": scenes}),
        **({"engine": before["engine"]} if before.get("engine") else {}),  # of the same job, planned further
        "versions": {"python": platform.python_version(), **{p: version_of(p) for p in _PACKAGES if version_of(p)}},
    }
    save(store, job)


def save(store: Store, job: dict[str, Any]) -> None:
    """Write job.json in place of whatever is there."""
    store.write(_NAME, json.dumps(job, indent=2).encode())


def updating(job: dict[str, Any]) -> bool:
    """Whether an update of the source was decided and not finished (`incremental.py`)."""
    return "updating" in job


def plan(job: dict[str, Any]) -> Plan:
    return plan_from_json(job["plan"])


def is_scenes(job: dict[str, Any]) -> bool:
    """Whether the folder holds a job of scenes, with one of tiles below it."""
    return "scenes" in job


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """The settings a job was started with; credentials were never stored and must be given again."""
    stored = {**job["settings"], "model": job["model"]["path"], "source": job["identity"]["source"]}
    for name in ("source_options", "out_options"):
        if stored.get(name) is not None:
            stored[name] = {k: v for k, v in stored[name].items() if v != "(not stored)"}
    return stored


def _from_anywhere(settings: SegmentSettings) -> SegmentSettings:
    """With the file of polygons named so that it is found from any folder; the source is, by its identity."""
    scenes = settings.scenes
    if scenes is None or scenes.aoi is None or "://" in scenes.aoi:
        return settings
    return replace(settings, scenes=replace(scenes, aoi=os.path.abspath(scenes.aoi)))


def _flat(a: dict[str, Any], b: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both with settings of settings under names such as scenes.tile_px, where both have them."""
    nested = [k for k in a if isinstance(a[k], dict) and isinstance(b.get(k), dict)]
    one, other = (
        {k: v for k, v in x.items() if k not in nested} | {f"{k}.{name}": v for k in nested for name, v in x[k].items()}
        for x in (a, b)
    )
    return one, other


def _without_secrets(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    secret = {k for k in value if any(word in str(k).lower() for word in _SECRETS)}
    return {k: "(not stored)" if k in secret else _without_secrets(v) for k, v in value.items()}


def version_of(package: str) -> str | None:
    """Of an installed package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
