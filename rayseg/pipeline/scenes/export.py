"""The objects of a job of scenes as one GeoJSON or GeoPackage file, for tools that do not read GeoParquet.

How the formats are written is `rayseg.geo.export`'s; here is which files of the job are theirs, wherever these lie.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rayseg.errors import ConfigError, OutputError
from rayseg.geo.export import export_geojson, export_gpkg
from rayseg.pipeline import identity
from rayseg.pipeline.read_tables import committed, in_order, opened, read_rows
from rayseg.pipeline.storage import Store, is_local
from rayseg.tables import FAILED, INCOMPLETE

SUFFIXES = (".geojson", ".gpkg")
_LEDGER = ["uri", "status", "reason", "crs"]
_MOST_NAMED = 3


@dataclass(frozen=True)
class ExportedScenes:
    """What was written.

    Attributes:
        objects: rows of the file.
        without_geometry: of these.
        scenes: they come from.
        incomplete: of these.
        left_out: scenes that failed or are not finished, of those asked for.
    """

    objects: int
    without_geometry: int
    scenes: int
    incomplete: int
    left_out: int


@dataclass(frozen=True)
class _Scene:
    uri: str
    status: str
    reason: str | None
    crs: str | None
    file: str


def export_scenes(
    store: Store,
    path: str | os.PathLike[str],
    *,
    min_score: float | None = None,
    lon_lat: bool = False,
    scenes: Sequence[str] = (),
) -> ExportedScenes:
    """Write the objects of all finished scenes, or of some, to `path`.

    Args:
        path: local file; its suffix says which format. It appears only when it is whole.
        min_score: leave out objects below it.
        lon_lat: WGS 84 longitude and latitude in a GeoPackage; GeoJSON has nothing else.
        scenes: URIs or file names; empty for all.

    Raises:
        ConfigError: not a job of scenes, an unknown suffix, a URL, a scene there is not, or scores where there are none.
        OutputError: nothing is finished, scenes in several reference systems for one layer, or a file that cannot be read.
    """
    job, path = identity.require(store), os.fspath(path)
    suffix = Path(path).suffix.lower()
    if not identity.is_scenes(job):
        raise ConfigError(f"{store.url} is a job of images, which have no place on the ground; use `rayseg export-coco`")
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path}: unknown suffix {suffix!r}; name the file .geojson or .gpkg")
    if not is_local(path):
        raise ConfigError(f"{path}: export-geo writes local files only; copy them afterwards")
    if min_score is not None and job["model"].get("task") == "semantic":
        raise ConfigError(f"min_score {min_score} is set, but regions of a semantic model have no scores; leave it out")
    if job["model"].get("task") == "semantic" and not _regions(job):
        raise ConfigError(f"{store.url} holds label maps without polygons; run the job with --regions, in another folder")
    found = [scene for part in in_order(lambda chunk: _read(store, chunk), _chunks(store)) for scene in part]
    planned = int(job["plan"]["units"])
    if scenes:
        found = _named(found, scenes, store.url)
        planned = len(found)
    usable = [scene for scene in found if scene.status != FAILED]
    if not usable:
        raise OutputError(f"{store.url}: no scene is finished, or all failed; `rayseg verify {store.url}` says what is there")
    _check_crs(usable, geojson=suffix == ".geojson", lon_lat=lon_lat)
    with ExitStack() as last:
        files = _files(store, usable, last)
        if suffix == ".geojson":
            done = export_geojson(files, path, min_score=min_score)
        else:
            done = export_gpkg(files, path, lon_lat=lon_lat, min_score=min_score)
    incomplete = sum(scene.status == INCOMPLETE for scene in usable)
    return ExportedScenes(done.rows, done.without_geometry, len(usable), incomplete, planned - len(usable))


def _chunks(store: Store) -> list[str]:
    return [chunk for chunks in committed(store).values() for chunk in chunks]


def _read(store: Store, chunk: str) -> list[_Scene]:
    rows = read_rows(store, f"images/{chunk}.parquet", _LEDGER).to_pylist()
    return [_Scene(**row, file=f"objects/{chunk}.parquet") for row in rows]


def _regions(job: dict[str, Any]) -> bool:
    return bool(((job.get("settings") or {}).get("scenes") or {}).get("regions"))


def _named(found: list[_Scene], wanted: Sequence[str], url: str) -> list[_Scene]:
    """The scenes asked for, in order of the job.

    Raises:
        ConfigError: there is no finished one of that name, several, or it failed.
    """
    by_uri = {scene.uri: scene for scene in found}
    chosen: set[str] = set()
    for name in wanted:
        uris = [name] if name in by_uri else [uri for uri in by_uri if _file_name(uri) == name]
        if not uris:
            near = difflib.get_close_matches(name, [*by_uri, *map(_file_name, by_uri)], n=1)
            hint = f"the nearest name is {near[0]}" if near else "give a URI of the column uri in images/, or its last part"
            raise ConfigError(f"no finished scene {name!r} in {url}; {hint}")
        if len(uris) > 1:
            raise ConfigError(f"{len(uris)} scenes are called {name!r}; give one of {', '.join(uris[:_MOST_NAMED])}")
        scene = by_uri[uris[0]]
        if scene.status == FAILED:
            reason = (scene.reason or "no reason given").rstrip(".")
            raise ConfigError(f"scene {name!r} failed and has no objects: {reason}. `rayseg retry {url}` tries it again")
        chosen.add(scene.uri)
    return [scene for scene in found if scene.uri in chosen]


def _file_name(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _check_crs(scenes: list[_Scene], *, geojson: bool, lon_lat: bool) -> None:
    """Name the scenes before anything is written.

    Raises:
        OutputError: they do not fit into one file.
    """
    by_crs: dict[str | None, list[str]] = {}
    for scene in scenes:
        by_crs.setdefault(scene.crs, []).append(_file_name(scene.uri))
    if (geojson or lon_lat) and None in by_crs:
        where = "GeoJSON knows degrees only; export them to .gpkg" if geojson else "leave out --lon-lat"
        raise OutputError(
            f"{_some(by_crs[None])} {_lie(by_crs[None])} in pixels, without a reference system: {where}, "
            "or the others alone with --scene"
        )
    if not geojson and not lon_lat and len(by_crs) > 1:
        said = "; ".join(f"{_some(names)} in {_short(crs)}" for crs, names in list(by_crs.items())[:_MOST_NAMED])
        remedy = "choose some with --scene" if None in by_crs else "give --lon-lat, or choose some with --scene"
        raise OutputError(
            f"one layer has one reference system, and the scenes have {len(by_crs)}: {said}. To export them, {remedy}"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _lie(names: list[str]) -> str:
    return "lies" if len(names) == 1 else "lie"


def _short(crs: str | None) -> str:
    return "pixels" if crs is None else crs if len(crs) <= 40 else f"{crs[:37]}..."


def _files(store: Store, scenes: list[_Scene], last: ExitStack) -> Iterator[IO[bytes]]:
    """Their objects files, one open at a time; the last one is closed with `last`."""
    for scene in scenes:
        last.close()
        yield last.enter_context(opened(store, scene.file))
