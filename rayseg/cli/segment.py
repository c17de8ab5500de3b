"""`rayseg segment | retry`: run the job, or what is left of it."""

from __future__ import annotations

import argparse
import logging
import sys

from rayseg.cli.shared import (
    DONE,
    INCOMPLETE,
    Declare,
    add_override_flag,
    add_storage_flags,
    storage_options,
    store_of,
)
from rayseg.config.load import build, parse_overrides, read_yaml
from rayseg.config.segment import SegmentSettings


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
    sub.add_argument("--max-failures", metavar="N|P%", help="stop above this many failed images")
    sub.add_argument("--save-label-maps", action="store_true", default=None, help="also write index PNGs (semantic models)")
    sub.add_argument("--backend", help="auto, paddle, paddle-onednn, eager or fake (default auto)")
    sub.add_argument("--device", help="auto, cpu or gpu (default auto)")
    sub.add_argument("--chunk-images", type=int, metavar="N", help="images per file of results (default: by archive size)")
    sub.add_argument("--manifest-column", metavar="NAME", help="column of a CSV or Parquet manifest that holds the paths")
    _add_run_flags(sub)
    sub = command("retry", retry, "run the failed images of a job again, and those only")
    sub.add_argument("out", metavar="OUT")
    _add_run_flags(sub)


def segment(args: argparse.Namespace) -> int:
    """`rayseg segment SRC OUT --model M`"""
    values = read_yaml(args.config) if args.config else {}
    values |= {k: v for k, v in vars(args).items() if k in _SEGMENT_FLAGS and v is not None}
    values |= parse_overrides(args.override)
    values["source_options"] = storage_options(args, values.get("source_options"))
    values["out_options"] = storage_options(args, values.get("out_options")) or None  # None: those of the source
    return _run_segment(build(SegmentSettings, values, where=args.config or "command line"), args)


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
        forgotten = ledger.forget_failed(store)
    print(f"{forgotten} failed images run again")
    return _run_segment(settings, args)


_SEGMENT_FLAGS = (
    *("source", "out", "model", "threshold", "backend", "device", "max_pixels", "allow_truncated", "max_failures"),
    *("save_label_maps", "predictors", "gpus_per_predictor", "threads_per_predictor", "batch_size", "chunk_images"),
    *("decode_timeout_s", "fetch_attempts", "manifest_column"),
)
_RETRY_FLAGS = (
    "predictors",
    "gpus_per_predictor",
    "threads_per_predictor",
    "batch_size",
    "decode_timeout_s",
    "fetch_attempts",
)


def _run_segment(settings: SegmentSettings, args: argparse.Namespace) -> int:
    from rayseg.pipeline.job import run_job
    from rayseg.pipeline.progress import Progress
    from rayseg.pipeline.runtime import connected

    with connected(args.address, num_cpus=args.num_cpus, verbose=args.verbose):
        result = run_job(settings, progress=Progress(quiet=args.quiet))
    if args.report:
        from rayseg.pipeline.report import write_report

        page = write_report(store_of(args), source_options=settings.source_options)
        logging.getLogger(__name__).info("report: %s", page)
    for line in result.findings.problems:
        print(line, file=sys.stderr)
    if not result.within_limit:
        print(
            f"rayseg: {result.findings.failed} images failed, more than --max-failures {settings.max_failures}",
            file=sys.stderr,
        )
    return DONE if result.complete and result.within_limit else INCOMPLETE


def _add_run_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--predictors", metavar="N|MIN:MAX", help="size of the actor pool (default: one a GPU, or one a CPU)")
    sub.add_argument("--gpus-per-predictor", type=float, metavar="G", help="GPUs an actor is pinned to; fractions allowed")
    sub.add_argument("--threads-per-predictor", type=int, metavar="N", help="threads of a CPU predictor")
    sub.add_argument("--batch-size", type=int, metavar="N", help="most images given to the network at once (default 8)")
    sub.add_argument("--decode-timeout-s", type=float, metavar="S", help="a file that takes longer to decode fails (default 60)")
    sub.add_argument("--fetch-attempts", type=int, metavar="N", help="tries when the storage fails in passing (default 6)")
    sub.add_argument("--address", help="Ray cluster to run on, such as auto; default: one started for this job")
    sub.add_argument("--num-cpus", type=int, metavar="N", help="logical CPUs of a Ray started for this job")
    sub.add_argument("--no-report", dest="report", action="store_false", help="do not write OUT/report.html at the end")
    sub.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    add_storage_flags(sub)
