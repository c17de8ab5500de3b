"""What is looked at on the driver before any predictor starts, so that a job that cannot work says so in its first seconds.

The output is written to, read and deleted from; every node sees the model and the local folders that the settings name; no
predictor asks for more than a node has; the disk has room for what is certain to come; some files of the plan open, and their
headers say what they are. The model itself is checked when it is read (`predict/model_dir.py`), numbers of predictors
in `budget.py`. What needs a run of the model is in `forecast.py`.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayseg.config.device import PINNED
from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError, ImageError, OutputError, SourceError
from rayseg.images import read_header
from rayseg.pipeline.budget import Budget
from rayseg.pipeline.sources import to_path
from rayseg.pipeline.storage import Store, filesystem, is_local, with_retries
from rayseg.predict.spec import ModelSpec
from rayseg.tables import Unit

log = logging.getLogger(__name__)

SAMPLE = 20
"""Images that are looked at."""

_UNIT_BYTES = 64  # what an image without objects takes in compressed tables, at least
_NODE_S = 60.0
_HEAD_BYTES = 64 * 1024
_ATTEMPTS = 3
_THREADS = 8
_NO_RIGHT = ("PermissionError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")


def check_resources(settings: SegmentSettings, budget: Budget, nodes: Sequence[dict[str, float]]) -> None:
    """Refuse a pool that could never be placed; Ray would wait for it without end.

    Args:
        nodes: resources of every node that is alive.

    Raises:
        ConfigError: a predictor needs more than any node has, or the smallest pool does not fit on the nodes.
    """
    cpus, gpus = (max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU"))
    if settings.threads_per_predictor and settings.threads_per_predictor > cpus:
        raise ConfigError(
            f"threads_per_predictor {settings.threads_per_predictor}: no node has more than {cpus:g} CPUs, and a predictor runs "
            "on one. Lower it, or leave it out to share the cores."
        )
    for name in budget.predictor_resources:
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if name not in PINNED and most > 1:
            raise ConfigError(
                f"device {settings.device}: a node has {most:g} {name}, and Ray does not say which of them an actor reserved. "
                "Start one Ray node for each device, each with one of it."
            )
    if not budget.predictor_gpus:
        return
    if budget.predictor_gpus > gpus + 1e-9:
        raise ConfigError(
            f"gpus_per_predictor {budget.predictor_gpus:g}: no node has more than {gpus:g} GPUs, and a predictor runs on one. "
            "Lower it."
        )
    room = sum(int(node.get("GPU", 0.0) / budget.predictor_gpus + 1e-9) for node in nodes)
    if room < budget.min_predictors:
        raise ConfigError(
            f"predictors {settings.predictors}: with {budget.predictor_gpus:g} GPUs each, {room} fit on the nodes, which have "
            f"{', '.join(format(node.get('GPU', 0.0), 'g') for node in nodes)}. Lower --predictors or --gpus-per-predictor."
        )


def check_output(store: Store) -> None:
    """Write, read and delete a small file.

    Raises:
        OutputError: one of the three does not work.
    """
    name, said = f".probe-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex.encode()
    try:
        store.write(name, said)
    except OutputError as error:
        remedy = "its permissions and the free space" if store.local else "the credentials and --endpoint-url"
        raise OutputError(
            f"{store.url}: cannot write there: {str(error.__cause__ or error).rstrip('.')}. Check {remedy}."
        ) from error
    try:
        found = store.read(name)
    except FileNotFoundError:
        found = b""
    store.delete(name)
    if found != said:
        raise OutputError(f"{store.url}: what is written there is not what is read back. Give another output.")


def check_nodes(settings: SegmentSettings, spec: ModelSpec, store: Store) -> None:
    """See that all nodes find the model and the local folders at the same paths as the driver does.

    Raises:
        ConfigError: a node lacks the model or the source.
        OutputError: a node has another folder where the output should be.
    """
    working = [node for node in ray.nodes() if node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU"))]
    nodes = [node for node in working if node["NodeID"] != _here()]
    probe = store.path(f".probe-{uuid.uuid4().hex[:12]}") if store.local else None
    wanted = [path for path in (_model_path(spec), _source_path(settings), probe) if path]
    if not wanted or not nodes:
        return
    if probe:
        store.write(os.path.basename(probe), b"seen")
    try:
        lacking = _lacking(nodes, wanted)
    finally:
        if probe:
            store.delete(os.path.basename(probe))
    for address, path in lacking:
        if path == probe:
            raise OutputError(
                f"{store.url}: node {address} has another folder there than the driver. Give a folder that all nodes share, or a "
                "URL such as s3://bucket/prefix."
            )
        what = "model directory" if path == _model_path(spec) else "source"
        raise ConfigError(
            f"{path}: node {address} has no such {what}. Put it on every node at the same path, or in a folder that all share."
        )


def check_disk(store: Store, units: int) -> None:
    """Refuse to begin where the tables cannot fit, even without objects; object stores do not tell.

    Raises:
        OutputError: less is free than so many units take.
    """
    free, needed = free_bytes(store), units * _UNIT_BYTES
    if free is not None and free < needed:
        raise OutputError(
            f"{store.url}: {free / 1e6:.0f} MB are free there, and {units} images take {needed / 1e6:.0f} MB at the very least. "
            "Free space, or give another output."
        )


def free_bytes(store: Store) -> int | None:
    """Room on the disk of the output; None where the storage does not tell."""
    return shutil.disk_usage(store.root).free if store.local else None


@dataclass(frozen=True)
class Peek:
    """What the headers of some files say.

    Attributes:
        formats: how many there are of each.
        megapixels: of each that can be read.
        failures: (uri, what kind of error, why) of the others.
    """

    formats: Counter[str]
    megapixels: tuple[float, ...]
    failures: tuple[tuple[str, str, str], ...]


def peek(units: Sequence[Unit], settings: SegmentSettings) -> Peek:
    """Open some files of the plan and read their headers; no pixel is decoded.

    Raises:
        SourceError: not one of them may be read: the credentials list the source and do not open it.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda unit: _header(unit, settings), units))
    good = [header for header in found if not isinstance(header, Exception)]
    bad = [(u.uri, type(e).__name__, str(e)) for u, e in zip(units, found, strict=True) if isinstance(e, Exception)]
    if bad and len(bad) == len(units) and all(kind in _NO_RIGHT for _, kind, _ in bad):
        raise SourceError(
            f"{settings.source}: it can be listed, but none of {len(units)} files tried may be read: {bad[0][2]}. "
            "Check the permissions or credentials."
        )
    return Peek(Counter(h.format for h in good), tuple(h.pixels / 1e6 for h in good), tuple(bad))


def _header(unit: Unit, settings: SegmentSettings) -> Any:
    """The header of a unit, or why there is none."""

    def look() -> Any:
        fs = filesystem(unit.uri, settings.source_options)
        with fs.open(to_path(fs, unit.uri), "rb", block_size=_HEAD_BYTES) as file:
            try:
                return read_header(file, page=unit.page)
            except ImageError as error:
                return error  # what is no image is none the next time either

    try:
        return with_retries(look, attempts=min(_ATTEMPTS, settings.fetch_attempts), what=unit.uri)
    except Exception as error:  # noqa: BLE001 - storage libraries raise their own trees; all of them cost this file only
        return error


def _here() -> str:
    """The driver's node."""
    return str(ray.get_runtime_context().get_node_id())


def _model_path(spec: ModelSpec) -> str | None:
    return None if spec.path.startswith("fake:") else spec.path


def _source_path(settings: SegmentSettings) -> str | None:
    """The source, where it is a local path and not a pattern."""
    if not is_local(settings.source) or any(c in settings.source for c in "*?["):
        return None
    return os.path.abspath(settings.source.removeprefix("file://"))


def _lacking(nodes: Sequence[dict[str, Any]], paths: Sequence[str]) -> list[tuple[str, str]]:
    """(address, path) of what a node does not have. A node that does not answer is left out: it may be going."""
    look = ray.remote(num_cpus=0, max_retries=0)(_missing)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[look.options(scheduling_strategy=there).remote(list(paths))] = node["NodeManagerAddress"]
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_NODE_S)
    out = []
    for ref in done:
        try:
            out += [(asked[ref], path) for path in ray.get(ref)]
        except ray.exceptions.RayError as error:
            log.warning("node %s was not looked at (%s)", asked[ref], error)
    for ref in late:
        ray.cancel(ref, force=True)
        log.warning("node %s did not answer within %g s; not looked at", asked[ref], _NODE_S)
    return out


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]
