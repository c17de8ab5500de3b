"""OUT/report.html: one page, no network, that says how a job went and shows what it found.

Works from the output's files alone, at any time: while a job runs, after it was killed, years later. `tally.py` adds up
the numbers and `picks.py` chooses images on the way; `gallery.py` draws them; `page.py` writes the HTML. Jobs of scenes have
the files that begin with scene_ instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rayseg.errors import ConfigError
from rayseg.pipeline.identity import is_scenes
from rayseg.pipeline.read_tables import read_job, read_runs
from rayseg.pipeline.report import query, scene_page
from rayseg.pipeline.report.facts import Facts
from rayseg.pipeline.report.gallery import draw_pictures
from rayseg.pipeline.report.page import render
from rayseg.pipeline.report.picks import Picks
from rayseg.pipeline.report.scene_page import SceneFacts
from rayseg.pipeline.report.scene_pictures import ScenePicture, draw_scenes, shown
from rayseg.pipeline.report.scene_tally import tally_scenes
from rayseg.pipeline.report.tally import tally, tally_ledger
from rayseg.pipeline.storage import Store

NAME = "report.html"

# Of all JPEGs; base64 adds a third, so the page stays below 5 MB.
_PICTURES_BYTES = 3_400_000


def write_report(store: Store, *, seed: int = 0, gallery: int = 12, source_options: Mapping[str, Any] | None = None) -> str:
    """Write OUT/report.html from the files of a job.

    Args:
        seed: of the random sample in the gallery. Scenes are not drawn by chance: the largest and the incomplete ones are shown.
        gallery: images in that sample; a third as many with most objects, and as many of lowest confidence, are added.
        source_options: fsspec options to read the images with, on top of those in job.json (which keeps no secrets).

    Returns:
        Path or URL of the page.

    Raises:
        OutputError: the folder holds no job, or the page cannot be written.
    """
    job = read_job(store)
    written = datetime.now(UTC).isoformat(timespec="seconds")
    settings = job.get("settings") or {}
    stored = {k: v for k, v in (settings.get("source_options") or {}).items() if v != "(not stored)"}
    options = {**stored, **(source_options or {})}
    if is_scenes(job):
        page = scene_page.render(_scene_facts(store, job, options, seed=seed, written=written))
    else:
        page = render(_facts(store, job, options, seed=seed, gallery=gallery, written=written))
    store.write(NAME, page.encode())
    return store.path(NAME) if store.local else f"{store.url.rstrip('/')}/{NAME}"


def _facts(store: Store, job: dict[str, Any], options: dict[str, Any], *, seed: int, gallery: int, written: str) -> Facts:
    """Of a job of images."""
    sums = tally(store, Picks(sample=gallery, extremes=-(-gallery // 3), seed=seed))
    groups = sums.picks.chosen()
    chosen = [pick for group in groups.values() for pick in group]
    pictures = draw_pictures(
        store,
        chosen,
        labels=job["model"]["labels"],
        source_options=options,
        allow_truncated=bool((job.get("settings") or {}).get("allow_truncated")),
        budget_bytes=_PICTURES_BYTES,
    )
    drawn = {picture.pick.unit_id: picture for picture in pictures}
    return Facts(
        job=job,
        runs=read_runs(store),
        sums=sums,
        groups={name: [drawn[pick.unit_id] for pick in group] for name, group in groups.items()},
        seed=seed,
        out=query.where(store),
        written=written,
    )


def _scene_facts(store: Store, job: dict[str, Any], options: dict[str, Any], *, seed: int, written: str) -> SceneFacts:
    """Of a job of scenes and that of its tiles; without the extra `geo` there are no pictures."""
    tiles = store.below("tiles")
    sums = tally_scenes(store)
    drawn: list[ScenePicture] | ConfigError
    try:
        drawn = draw_scenes(store, shown(sums), job=job, source_options=options, budget_bytes=_PICTURES_BYTES)
    except ConfigError as error:
        drawn = error
    common: dict[str, Any] = {"groups": {}, "seed": seed, "out": query.where(store), "written": written}
    return SceneFacts(
        Facts(job=job, runs=[], sums=sums.sums, unit="scene", **common),
        Facts(job=read_job(tiles), runs=read_runs(tiles), sums=tally_ledger(tiles), unit="tile", **common),
        sums,
        drawn,
    )
