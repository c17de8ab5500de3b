"""A job of scenes on one page: rasters in, whole objects with coordinates out.

    list -> look at each scene, cut it -> one scaling -> (tiles - ledger of tiles) -> read -> predict -> fragments + commit
         -> (scenes - ledger of scenes) -> stitch strips -> join -> commit

It is two jobs of the usual form, one in the other: OUT/tiles, whose units are tiles, and OUT, whose units are scenes. Both
remember in their output alone, so starting, resuming and finishing are the same call. job.json of OUT is written last: a
planning that was killed is done again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from rayseg.config.scenes import SceneSettings
from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError
from rayseg.geo.aoi import Aoi, read_aoi
from rayseg.geo.gdal import s3_settings
from rayseg.geo.scaling import Scaling
from rayseg.pipeline import identity, ledger
from rayseg.pipeline.board import new_board
from rayseg.pipeline.engine import settled
from rayseg.pipeline.execute import Stages, check_all, do_what_is_left, task
from rayseg.pipeline.forecast import Forecast, forecast
from rayseg.pipeline.machine import Machine
from rayseg.pipeline.metrics import job_tag
from rayseg.pipeline.plan import Plan, Shard, extended, plan_of, write_units
from rayseg.pipeline.progress import Progress
from rayseg.pipeline.scenes.instances import STRIPS
from rayseg.pipeline.scenes.label_maps import region_classes
from rayseg.pipeline.scenes.planning import (
    BATCH_SCENES,
    Cutting,
    find_scaling,
    list_scenes,
    mosaic_name,
    plan_batch,
    plan_mosaic,
)
from rayseg.pipeline.scenes.records import FOLDER, SceneRecord, all_records, batch_names, read_batch
from rayseg.pipeline.scenes.stitch import Finishing, finish_scenes, forget_without_label_map, scenes_left
from rayseg.pipeline.scenes.tiles import SceneContext, encode_tiles, fetch_tiles
from rayseg.pipeline.sources import open_source
from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import Findings
from rayseg.predict.model_dir import ModelSpec
from rayseg.tables import Unit

TILES = "tiles"
_STAGES = Stages(fetch_tiles, encode_tiles)
_MOST_COSTS = 3

# Pixels of tiles on their way together. Strips and streams are read by rows of tiles, which should not be cut too often.
_CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class ScenePlans:
    """What job.json keeps of a job of scenes: both plans, the scaling, and how tiles are cut."""

    scenes: Plan
    tiles: Plan
    scaling: Scaling


def run_scenes(settings: SegmentSettings, spec: ModelSpec, store: Store, progress: Progress) -> Findings:
    """Do what is left of a job of scenes; the caller holds the lock.

    Returns:
        What a check of both jobs found: tiles counted, problems of scenes among them.

    Raises:
        RaysegError: see `job.run_job`.
    """
    assert settings.scenes is not None
    machine, plans, context = _begun(settings, spec, store, progress)
    tiles = context.store
    progress.planned(plans.tiles.units, machine.budget)
    context = settled(context, plans.tiles, machine.budget, _STAGES, progress)
    context = replace(context, board=new_board(job_tag(settings.out)))
    do_what_is_left(context, plans.tiles, machine, progress, stages=_STAGES)
    _put_together(settings.scenes, spec, store, tiles, plans, machine, progress, blend=context.blend)
    ledger.sweep_temporaries(store)
    found, whole = check_all(tiles, plans.tiles, machine.budget), check_all(store, plans.scenes, machine.budget)
    progress.finished(found)
    complete = whole.done_ok - whole.incomplete
    progress.say(f"{complete} scenes whole, {whole.incomplete} incomplete, {whole.failed} failed; {whole.objects} objects")
    return replace(
        found,
        objects=whole.objects,
        failed=found.failed + whole.failed,
        missing=found.missing + whole.missing,
        n_problems=found.n_problems + whole.n_problems,
        problems=(*whole.problems, *(f"tiles: {p}" for p in found.problems)),
    )


def forecast_scenes(settings: SegmentSettings, spec: ModelSpec, store: Store, progress: Progress) -> Forecast:
    """Plan a job of scenes and run some of its tiles; the caller holds the lock. Putting scenes together is not in the time."""
    machine, plans, context = _begun(settings, spec, store, progress)
    costs = Counter(record.reading for record in all_records(store) if record.reading)
    notes = [("scenes", f"{plans.scenes.units}, {costs.total()} of them readable"), ("values", plans.scaling.origin)]
    notes += [("reading", f"{n} scenes: {cost}") for cost, n in costs.most_common(_MOST_COSTS)]
    context = settled(context, plans.tiles, machine.budget, _STAGES, progress)
    return forecast(context, plans.tiles, machine, stages=_STAGES, noun="tiles", notes=notes)


def _begun(
    settings: SegmentSettings, spec: ModelSpec, store: Store, progress: Progress
) -> tuple[Machine, ScenePlans, SceneContext]:
    """The machine, the plans, and what the stages need to know but for a board."""
    assert settings.scenes is not None
    progress.noun = "tiles"
    blend = _blend(settings.scenes, spec)
    machine, tiles = Machine.look(settings), store.below(TILES)
    aoi = None if settings.scenes.aoi is None else read_aoi(settings.scenes.aoi)
    cutting = _cutting(settings, spec, aoi)
    wanted = _identity(settings, spec, aoi)
    plans = _plans(settings, spec, store, tiles, machine, progress, cutting=cutting, wanted=wanted)
    return machine, plans, SceneContext(settings, spec, tiles, None, store, plans.tiles.digest, plans.scaling, blend)


def _put_together(
    scenes: SceneSettings,
    spec: ModelSpec,
    store: Store,
    tiles: Store,
    plans: ScenePlans,
    machine: Machine,
    progress: Progress,
    *,
    blend: bool,
) -> None:
    if spec.task == "semantic":
        forget_without_label_map(store)
    left = scenes_left(store, plans.scenes)
    if not left:
        tiles.delete_folder(STRIPS)  # of a run that was killed when all else was done
        return
    progress.say(f"putting together {len(left)} scenes")
    committed = ray.put(ledger.sweep(tiles))
    finishing = Finishing(store, tiles, plans.tiles, committed, spec, scenes, blend)
    for done, (uri, status) in enumerate(finish_scenes(left, finishing, machine.budget), 1):
        if len(left) <= 20 or done % (len(left) // 20) == 0:
            progress.say(f"{done}/{len(left)} scenes: {uri} {status}")


def _plans(
    settings: SegmentSettings,
    spec: ModelSpec,
    store: Store,
    tiles: Store,
    machine: Machine,
    progress: Progress,
    *,
    cutting: Cutting,
    wanted: dict[str, Any],
) -> ScenePlans:
    """The plans of this output: those it has, if they were made for the same job, or new ones."""
    found = identity.read(store)
    if found is None:
        identity.check_fresh(store)
        plans = _write_plans(settings, store, tiles, machine, progress, cutting)
        identity.write(tiles, settings, spec, wanted, plans.tiles)
        identity.write(store, settings, spec, wanted, plans.scenes, scenes={"scaling": plans.scaling.to_dict()})
        return plans
    identity.check_same(found, wanted, store.url)
    plans = read_plans(found, identity.require(tiles))
    if settings.chunk_images not in (None, plans.tiles.chunk_images):
        raise ConfigError(
            f"chunk_images {settings.chunk_images}: {store.url} was planned with {plans.tiles.chunk_images} tiles a file, "
            "and files that are there cannot be cut again. Leave it out, or give another output folder."
        )
    again = [Unit(work.record.uri) for work in scenes_left(store, plans.scenes) if not _has_tiles(work.record, plans.tiles)]
    if not again:
        return plans
    number = int(batch_names(store)[-1]) + 1
    shards, failed = ray.get(task(machine.budget, plan_batch).remote(store, tiles, number, again, cutting))
    progress.say(f"looked at {len(again)} scenes again; {failed} still cannot be read")
    if shards:
        if plans.tiles.units == 0:  # no scene could be opened before: the scaling was found from nothing, and nobody used it
            plans = replace(plans, scaling=_scaling(store, machine, cutting))
            identity.write(store, settings, spec, wanted, plans.scenes, scenes={"scaling": plans.scaling.to_dict()})
        plans = replace(plans, tiles=extended(plans.tiles, shards))
        identity.write(tiles, settings, spec, wanted, plans.tiles)
    return plans


def _has_tiles(record: SceneRecord, tiles: Plan) -> bool:
    """Whether the plan has the tiles of a scene.

    Not where it could not be opened, and `rayseg retry` took its row back or a kill never let it be written; nor where it was
    looked at again by a run that was killed before its tiles counted.
    """
    if record.reason is not None:
        return False
    return record.tiles == 0 or any(shard.startswith(f"{record.batch}-") for shard in tiles.shards)


def read_plans(job: dict[str, Any], tile_job: dict[str, Any]) -> ScenePlans:
    """From job.json of OUT and of OUT/tiles."""
    return ScenePlans(identity.plan(job), identity.plan(tile_job), Scaling.from_dict(job["scenes"]["scaling"]))


def _cutting(settings: SegmentSettings, spec: ModelSpec, aoi: Aoi | None) -> Cutting:
    assert settings.scenes is not None
    if settings.source.startswith("s3://"):
        s3_settings(settings.source_options)  # says at once which options cannot be honoured
    fixed = min(spec.fixed_input.hw) if spec.fixed_input else None
    tile_px, overlap_px = settings.scenes.tiling(fixed)
    if spec.task == "instance" and overlap_px == 0:
        raise ConfigError(f"tile_px {tile_px}: tiles of one pixel share none with their neighbours. Give a larger --tile-px")
    return Cutting(settings.scenes, tile_px, overlap_px, aoi, dict(settings.source_options))


def _write_plans(
    settings: SegmentSettings, store: Store, tiles: Store, machine: Machine, progress: Progress, cutting: Cutting
) -> ScenePlans:
    scenes = cutting.settings
    for folder in ("plan", FOLDER, TILES):
        store.delete_folder(folder)
    source = open_source(
        settings.source,
        column=settings.manifest_column,
        options=settings.source_options,
        out=settings.out,
        attempts=settings.fetch_attempts,
    )
    budget = machine.budget
    units = ray.get(task(budget, list_scenes).remote(source))
    progress.say(f"{len(units)} rasters found")
    if scenes.mosaic:
        mosaic = Unit(mosaic_name(settings.source))
        uris = [unit.uri for unit in units]
        cut = [ray.get(task(budget, plan_mosaic).remote(store, tiles, mosaic, uris, cutting))]
        units = [mosaic]
    else:
        cut = _cut_all(store, tiles, units, cutting, machine, progress)
    shards = [shard for found, _ in cut for shard in found]
    failed = sum(n for _, n in cut)
    if failed == len(units):
        _refuse_settings(store)
    if failed:
        progress.say(f"{failed} of {len(units)} rasters cannot be read; each is a failed row that says why")
    scaling = _scaling(store, machine, cutting)
    progress.say(f"tiles of {cutting.tile_px} px that share {cutting.overlap_px}; values to 8 bits: {scaling.origin}")
    chunk = settings.chunk_images or max(1, min(128, _CHUNK_BYTES // (3 * cutting.tile_px**2)))
    plan = write_units(store, units)
    return ScenePlans(
        plan_of(plan, chunk_images=1, chunk_bytes=1),
        plan_of(shards, chunk_images=chunk, chunk_bytes=4 * _CHUNK_BYTES),
        scaling,
    )


def _scaling(store: Store, machine: Machine, cutting: Cutting) -> Scaling:
    find = task(machine.budget, find_scaling)
    found: Scaling = ray.get(find.remote(store, batch_names(store), cutting.settings.scale, cutting.storage))
    return found


def _refuse_settings(store: Store) -> None:
    """Raise ConfigError when no scene can be read as the settings ask; without any readable scene, each is a failed row."""
    records = [record for name in batch_names(store) for record in read_batch(store, name)]
    asked = [record.reason for record in records if record.stage == "prepare"]
    if asked and len(asked) == len(records):
        none = f"none of the {len(records)} rasters" if len(records) > 1 else "the raster"
        cannot = "can" if len(records) > 1 else "cannot"
        raise ConfigError(f"{none} {cannot} be read as asked: {asked[0]}")


def _cut_all(
    store: Store, tiles: Store, units: Sequence[Unit], cutting: Cutting, machine: Machine, progress: Progress
) -> list[tuple[list[Shard], int]]:
    size = max(1, min(BATCH_SCENES, len(units) // (2 * machine.parallelism)))
    plan_one = task(machine.budget, plan_batch)
    running = [
        plan_one.remote(store, tiles, number, units[start : start + size], cutting)
        for number, start in enumerate(range(0, len(units), size))
    ]
    out = []
    for ref in running:
        out.append(ray.get(ref))
        progress.listed(sum(shard.units for shards, _ in out for shard in shards))
    return out


def _identity(settings: SegmentSettings, spec: ModelSpec, aoi: Aoi | None) -> dict[str, Any]:
    """What decides the result; the polygons count by what they are, not by the name of their file."""
    found = json.loads(json.dumps(identity.of(settings, spec)))
    if aoi is not None:
        found["scenes"]["aoi"] = hashlib.sha256(aoi.wkb + (aoi.crs_wkt or "").encode()).hexdigest()
    return dict(found)


def _blend(scenes: SceneSettings, spec: ModelSpec) -> bool:
    """Whether label maps are blended.

    Raises:
        ConfigError: settings for the other kind of model, classes it does not have, or a model that gives no probabilities.
    """
    semantic = spec.task == "semantic"
    if not semantic and (scenes.regions is not None or scenes.seams != "auto"):
        name = "regions" if scenes.regions is not None else "seams"
        raise ConfigError(f"{name} is about label maps; {spec.name} finds instances. Leave it out")
    if semantic and scenes.coarse is not None:
        raise ConfigError(f"coarse is about objects; {spec.name} gives label maps. Leave it out")
    if semantic:
        region_classes(scenes.regions, spec.labels)  # said now, not when all tiles are predicted
    able = semantic and spec.flavour == "probabilities"
    if scenes.seams == "blend" and not able:
        raise ConfigError(
            f"seams blend: {spec.path} gives labels only. Export the model with `rayseg export --flavour probabilities`, "
            "or use --seams centre"
        )
    return able and scenes.seams != "centre"
