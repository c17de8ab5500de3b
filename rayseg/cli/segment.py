"""`rayseg segment | retry`: run the job, or what is left of it."""

from __future__ import annotations

import argparse
import logging
from contextlib import AbstractContextManager
from typing import Any

from rayseg.cli.shared import (
    DONE,
    INCOMPLETE,
    Declare,
    add_override_flag,
    add_storage_flags,
    complain,
    storage_options,
    store_of,
)
from rayseg.config.load import build, parse_overrides, read_yaml
from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError
from rayseg.logs import about


def add_commands(command: Declare) -> None:
    """Declare them."""
    sub = command("segment", segment, "find the masks of every image of SRC and write them to OUT; run again to resume")
    sub.add_argument(
        "source",
        metavar="SRC",
        help="file, folder, 'glob', manifest (.txt .csv .parquet) or URL such as s3://bucket/prefix",
    )
    sub.add_argument("out", metavar="OUT", help="folder or URL for the tables")
    sub.add_argument("-m", "--model", help="inference model directory")
    sub.add_argument("-c", "--config", help="YAML file with any of these settings")
    add_override_flag(sub, "KEY=VALUE", "set one setting; wins over flags and file")
    sub.add_argument("--threshold", type=float, help="smallest score of an object (default: the model's)")
    sub.add_argument("--max-pixels", type=int, help="refuse larger images from their header (default 500000000)")
    sub.add_argument("--allow-truncated", action="store_true", default=None, help="take what can be decoded of cut files")
    sub.add_argument(
        "--scaled-decode",
        action="store_true",
        default=None,
        help="decode large JPEGs at a part of their size, in less time; changes results a little",
    )
    sub.add_argument("--max-failures", metavar="N|P%", help="stop above this many failed images")
    sub.add_argument("--save-label-maps", action="store_true", default=None, help="also write index PNGs (semantic models)")
    sub.add_argument(
        "--backend", help="auto, paddle, paddle-onednn, onnxruntime, openvino, ... (default auto: the fastest right one)"
    )
    sub.add_argument("--precision", help="fp32, bf16 or fp16 (default fp32; the others change results)")
    sub.add_argument("--device", help="auto, cpu, gpu, gpu:0,1, npu, ... (default auto)")
    sub.add_argument("--chunk-images", type=int, metavar="N", help="images per file of results (default: by archive size)")
    sub.add_argument("--manifest-column", metavar="NAME", help="column of a CSV or Parquet manifest that holds the paths")
    sub.add_argument("--update", action="store_true", help="list SRC again; do what is new or changed, name what vanished")
    sub.add_argument("--plan-only", action="store_true", help="plan, say what the job will take from a sample run, and stop")
    _add_scene_flags(sub)
    _add_run_flags(sub)
    sub = command("retry", retry, "run the failed images of a job again, and those only")
    sub.add_argument("out", metavar="OUT")
    _add_run_flags(sub)


def segment(args: argparse.Namespace) -> int:
    """`rayseg segment SRC OUT --model M`"""
    values = read_yaml(args.config) if args.config else {}
    values |= {k: v for k, v in vars(args).items() if k in _SEGMENT_FLAGS and v is not None}
    values |= parse_overrides(args.override)
    values |= _scene_values(args, values.get("scenes"))
    values["source_options"] = storage_options(args, values.get("source_options"))
    values["out_options"] = storage_options(args, values.get("out_options")) or None  # None: those of the source
    if "model" not in values:
        raise ConfigError("no model: give its inference model directory as --model DIR, or as `model` in a file for -c")
    settings = build(SegmentSettings, values, where=args.config or "command line")
    with _about(settings):
        return _forecast(settings, args) if args.plan_only else _run_segment(settings, args, update=args.update)


def retry(args: argparse.Namespace) -> int:
    """`rayseg retry OUT`: forget the failed rows, then do what is left, with the settings of the job."""
    from rayseg.pipeline import identity, ledger
    from rayseg.pipeline.lock import locked

    store = store_of(args)
    values = identity.settings(identity.require(store))
    values["out"] = args.out
    values["source_options"] = storage_options(args, values.get("source_options"))
    values["out_options"] = storage_options(args, values.get("out_options")) or None  # None: those of the source
    values |= {k: v for k, v in vars(args).items() if k in _RETRY_FLAGS and v is not None}
    settings = build(SegmentSettings, values, where="job.json")
    with locked(store):
        if identity.is_scenes(identity.require(store)):
            from rayseg.pipeline.scenes import check

            scenes, forgotten = check.forget_failed(store, store.below("tiles"))
            print(f"{forgotten} failed tiles run again, and {scenes} scenes are put together again")
        else:
            print(f"{ledger.forget_failed(store)} failed images run again")
    with _about(settings):
        return _run_segment(settings, args)


_SEGMENT_FLAGS = (
    *("source", "out", "model", "threshold", "backend", "precision", "device", "max_pixels", "allow_truncated", "max_failures"),
    *("save_label_maps", "predictors", "gpus_per_predictor", "threads_per_predictor", "batch_size", "chunk_images"),
    *("decode_timeout_s", "fetch_attempts", "manifest_column", "scaled_decode"),
)
_RETRY_FLAGS = (
    "predictors",
    "gpus_per_predictor",
    "threads_per_predictor",
    "batch_size",
    "decode_timeout_s",
    "fetch_attempts",
)


_SCENE_FLAGS = (
    *("tile_px", "overlap_px", "object_px", "coarse", "bands", "scale", "aoi", "mosaic", "simplify_px", "seams", "regions"),
)


def _scene_values(args: argparse.Namespace, given: Any) -> dict[str, Any]:
    """`scenes` from the flags over those given; nothing where neither says anything of scenes."""
    said = {name: getattr(args, name) for name in _SCENE_FLAGS if getattr(args, name) is not None}
    if not said and not args.scenes:
        return {}
    if given is not None and not isinstance(given, dict):
        raise ConfigError(f"scenes: expected settings such as tile_px, got {given!r}")
    return {"scenes": {**(given or {}), **said}}


def _add_scene_flags(sub: argparse.ArgumentParser) -> None:
    """Any of them makes the images of a job scenes."""
    group = sub.add_argument_group("scenes", "rasters of any size, cut into tiles and put together again")
    group.add_argument("--scenes", action="store_true", help="the images are scenes, with the defaults of what follows")
    group.add_argument("--tile-px", type=int, metavar="N", help="side of a tile (default: the model's input, else 1024)")
    group.add_argument("--overlap-px", type=int, metavar="N", help="what neighbours share (default: --object-px, else a fifth)")
    group.add_argument("--object-px", type=int, metavar="N", help="greatest extent of a usual object")
    group.add_argument("--coarse", type=int, metavar="N", help="look again, N times coarser, for objects longer than a tile")
    group.add_argument("--bands", metavar="R,G,B", help="three bands, or one, by number or name (default: by the file)")
    group.add_argument("--scale", metavar="LOW,HIGH|p2,p98|dtype", help="stored values to 8 bits, one scaling for the whole job")
    group.add_argument("--aoi", metavar="FILE", help="polygons; only what touches them is looked at")
    group.add_argument("--mosaic", action="store_true", default=None, help="all rasters of SRC are parts of one scene")
    group.add_argument("--simplify-px", type=float, metavar="PX", help="let outlines move by so much to have fewer corners")
    group.add_argument("--seams", metavar="auto|blend|centre", help="label maps where tiles overlap (semantic models)")
    group.add_argument("--regions", metavar="NAMES|all", help="classes whose regions become polygons, too (semantic models)")


def _about(settings: SegmentSettings) -> AbstractContextManager[None]:
    """Log lines of the block name the job."""
    from rayseg.pipeline.metrics import job_tag

    return about(job=job_tag(settings.out))


def _forecast(settings: SegmentSettings, args: argparse.Namespace) -> int:
    from rayseg.pipeline.job import forecast_job
    from rayseg.pipeline.progress import Progress
    from rayseg.pipeline.runtime import connected

    with connected(args.address, num_cpus=args.num_cpus, device=settings.accelerator(), verbose=args.verbose):
        progress = Progress(quiet=args.quiet, log_units=args.log_json)
        for line in forecast_job(settings, progress=progress, update=args.update).lines():
            print(line)
    return DONE


def _run_segment(settings: SegmentSettings, args: argparse.Namespace, *, update: bool = False) -> int:
    from rayseg.pipeline.job import run_job
    from rayseg.pipeline.progress import Progress
    from rayseg.pipeline.runtime import connected

    with connected(args.address, num_cpus=args.num_cpus, device=settings.accelerator(), verbose=args.verbose):
        result = run_job(settings, progress=Progress(quiet=args.quiet, log_units=args.log_json), update=update)
    if args.report:
        from rayseg.pipeline.report import write_report

        page = write_report(store_of(args), source_options=settings.source_options)
        logging.getLogger(__name__).info("report: %s", page)
    for line in result.findings.problems:
        complain(args, line)
    if not result.within_limit:
        what = "tiles and scenes" if settings.scenes else "images"
        complain(args, f"{result.findings.failed} {what} failed, more than --max-failures {settings.max_failures}")
    return DONE if result.complete and result.within_limit else INCOMPLETE


def _add_run_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--predictors", metavar="N|MIN:MAX", help="size of the actor pool (default: one a GPU, or one a CPU)")
    sub.add_argument("--gpus-per-predictor", type=float, metavar="G", help="GPUs an actor is pinned to; fractions allowed")
    sub.add_argument("--threads-per-predictor", type=int, metavar="N", help="threads of a CPU predictor")
    sub.add_argument(
        "--batch-size", type=int, metavar="N", help="most images given to the network at once (default: found by trying)"
    )
    sub.add_argument("--decode-timeout-s", type=float, metavar="S", help="a file that takes longer to decode fails (default 60)")
    sub.add_argument("--fetch-attempts", type=int, metavar="N", help="tries when the storage fails in passing (default 6)")
    sub.add_argument("--address", help="Ray cluster to run on, such as auto; default: one started for this job")
    sub.add_argument("--num-cpus", type=int, metavar="N", help="logical CPUs of a Ray started for this job")
    sub.add_argument("--no-report", dest="report", action="store_false", help="do not write OUT/report.html at the end")
    sub.add_argument("--log-json", action="store_true", help="one JSON object a line on stderr, failed images among them")
    sub.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    add_storage_flags(sub)
