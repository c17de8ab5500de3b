"""The command line: `rayseg segment | verify | retry | report | export | export-coco | models`.

Each command parses its arguments, makes one call and turns the outcome into an exit status: 0 done and right, 1 done
but incomplete or with too many failures, 2 could not be done as asked. Only this file prints.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from rayseg.config.load import build, parse_overrides, read_yaml
from rayseg.config.segment import SegmentSettings
from rayseg.errors import RaysegError, WeightsError

DONE, INCOMPLETE, REFUSED = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    _set_up_logs(quiet=getattr(args, "quiet", False), verbose=args.verbose)
    try:
        return int(args.run(args))
    except RaysegError as error:
        print(f"rayseg: {type(error).__name__}: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("rayseg: stopped. What is done stays; run the same command again to go on.", file=sys.stderr)
        return 130


def segment(args: argparse.Namespace) -> int:
    """`rayseg segment SRC OUT --model M`"""
    values = read_yaml(args.config) if args.config else {}
    values |= {k: v for k, v in vars(args).items() if k in _SEGMENT_FLAGS and v is not None}
    values |= parse_overrides(args.override)
    values["source_options"] = _storage_options(args, values.get("source_options"))
    values["out_options"] = _storage_options(args, values.get("out_options")) or None  # None: those of the source
    return _run_segment(build(SegmentSettings, values, where=args.config or "command line"), args)


def retry(args: argparse.Namespace) -> int:
    """`rayseg retry OUT`: forget the failed rows, then do what is left, with the settings of the job."""
    from rayseg.pipeline import identity, ledger
    from rayseg.pipeline.lock import locked

    store = _store(args)
    values = identity.settings(identity.require(store))
    values["out"] = args.out
    values["source_options"] = _storage_options(args, values.get("source_options"))
    values["out_options"] = _storage_options(args, values.get("out_options")) or None  # None: those of the source
    values |= {k: v for k, v in vars(args).items() if k in _RETRY_FLAGS and v is not None}
    settings = build(SegmentSettings, values, where="job.json")
    with locked(store):
        forgotten = ledger.forget_failed(store)
    print(f"{forgotten} failed images run again")
    return _run_segment(settings, args)


def verify(args: argparse.Namespace) -> int:
    """`rayseg verify OUT`"""
    from rayseg.pipeline.verify import verify as check

    found = check(_store(args))
    for line in found.problems:
        print(line)
    if found.n_problems + found.missing > len(found.problems):
        print(f"... and {found.n_problems + found.missing - len(found.problems)} more")
    print(
        f"{'complete' if found.ok else 'NOT COMPLETE'}: {found.planned} planned, {found.done_ok} ok, {found.failed} failed, "
        f"{found.missing} missing, {found.objects} objects, {found.n_problems} problems"
    )
    return DONE if found.ok else INCOMPLETE


def report(args: argparse.Namespace) -> int:
    """`rayseg report OUT`"""
    from rayseg.pipeline.report import write_report

    print(write_report(_store(args), seed=args.seed, source_options=_storage_options(args, None)))
    return DONE


def export_coco(args: argparse.Namespace) -> int:
    """`rayseg export-coco OUT results.json`"""
    from rayseg.pipeline.export_coco import export_coco as write

    print(f"{write(_store(args), args.path, min_score=args.min_score)} results in {args.path}")
    return DONE


def export(args: argparse.Namespace) -> int:
    """`rayseg export NAME DIR --weights FILE`: one of our networks as an inference model directory."""
    from rayseg.models.weights import load_weights
    from rayseg.models.zoo import find_model
    from rayseg.predict.export import export_model

    row = find_model(args.name)
    labels = _labels(args.labels) or [f"class_{i}" for i in range(row.num_classes)]
    network = row.build(len(labels))
    loaded = load_weights(network, args.weights or args.name)
    if loaded.unset:
        raise WeightsError(
            f"{args.weights or args.name} leaves {len(loaded.unset)} parameters without trained values, such as "
            f"{loaded.unset[0]}; it was made for another number of classes than the {len(labels)} asked for, or is a backbone alone"
        )
    export_model(
        network,
        args.dir,
        name=args.name,
        labels=labels,
        flavour=args.flavour,
        draw_threshold=args.draw_threshold,
        overwrite=args.overwrite,
    )
    print(args.dir)
    return DONE


def models(args: argparse.Namespace) -> int:
    """`rayseg models`"""
    from rayseg.models.zoo import MODELS

    print(f"{'model':<40} {'task':<9} {'classes':>7} {'input':>9} {'published score':<16} on")
    for row in MODELS.values():
        if args.task in (None, row.task):
            size = f"{row.typical_input.height}x{row.typical_input.width}" if row.preprocess.resize else "any"
            score = f"{row.published.metric} {row.published.value:.1f}"
            print(f"{row.name:<40} {row.task:<9} {row.num_classes:>7} {size:>9} {score:<16} {row.published.dataset}")
    return DONE


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

        page = write_report(_store(args), source_options=settings.source_options)
        logging.getLogger(__name__).info("report: %s", page)
    for line in result.findings.problems:
        print(line, file=sys.stderr)
    if not result.within_limit:
        print(
            f"rayseg: {result.findings.failed} images failed, more than --max-failures {settings.max_failures}",
            file=sys.stderr,
        )
    return DONE if result.complete and result.within_limit else INCOMPLETE


def _labels(given: str | None) -> list[str]:
    """Class names from a comma-separated list or a file with one a line."""
    if given is None:
        return []
    if os.path.isfile(given):
        with open(given, encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    return [name.strip() for name in given.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rayseg", description="An archive of images in, a table of masks out, exactly once.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(run=run)
        sub.add_argument("-v", "--verbose", action="store_true", help="also show what Ray and the workers log")
        return sub

    sub = command("segment", segment, "find the masks of every image of SRC and write them to OUT; run again to resume")
    sub.add_argument(
        "source",
        metavar="SRC",
        help="file, folder, 'glob', manifest (.txt .csv .parquet) or URL such as s3://bucket/prefix",
    )
    sub.add_argument("out", metavar="OUT", help="folder or URL for the tables")
    sub.add_argument("-m", "--model", help="inference model directory")
    sub.add_argument("-c", "--config", help="YAML file with any of these settings")
    sub.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one setting; wins over flags and file",
    )
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
    for name, run, help in (
        ("verify", verify, "prove from the files that every planned image is there exactly once"),
        ("report", report, "write OUT/report.html"),
        ("export-coco", export_coco, "write the objects as COCO results JSON"),
    ):
        sub = command(name, run, help)
        sub.add_argument("out", metavar="OUT")
        _add_storage_flags(sub)
        if name == "report":
            sub.add_argument("--seed", type=int, default=0, help="of the sample in the gallery")
        if name == "export-coco":
            sub.add_argument("path", metavar="FILE")
            sub.add_argument("--min-score", type=float)
    sub = command("export", export, "write a network of the zoo as an inference model directory")
    sub.add_argument("name", metavar="MODEL")
    sub.add_argument("dir", metavar="DIR")
    sub.add_argument("--weights", help=".pdparams file, URL, or model whose published weights to take (default: MODEL's)")
    sub.add_argument("--draw-threshold", type=float, default=0.5, metavar="S", help="written down as the score to exceed")
    sub.add_argument(
        "--labels", metavar="A,B,...|FILE", help="class names, or a file with one a line (default: class_0, class_1, ...)"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace a directory that is there")
    sub.add_argument("--flavour", choices=("lean", "paddlex"), default="lean")
    sub = command("models", models, "list the models of the zoo")
    sub.add_argument("--task", choices=("instance", "semantic"))
    return parser


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
    _add_storage_flags(sub)


def _add_storage_flags(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--endpoint-url", metavar="URL", help="of an S3-compatible server (also AWS_ENDPOINT_URL)")
    sub.add_argument("--anonymous", action="store_true", help="read a public bucket without credentials")
    sub.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="passed to fsspec, such as key=... secret=...",
    )


def _storage_options(args: argparse.Namespace, given: dict[str, Any] | None) -> dict[str, Any]:
    secrets = [pair for pair in args.storage_option if pair.startswith(("key=", "secret=", "token="))]
    options = dict(given or {}) | parse_overrides(pair for pair in args.storage_option if pair not in secrets)
    options |= dict(pair.split("=", 1) for pair in secrets)  # as they are: 1e5 is no number there
    if args.endpoint_url:
        options["endpoint_url"] = args.endpoint_url
    if args.anonymous:
        options["anon"] = True
    return options


def _store(args: argparse.Namespace) -> Any:
    from rayseg.pipeline.storage import Store, is_local

    return Store(args.out, {} if is_local(args.out) else _storage_options(args, None))


def _set_up_logs(*, quiet: bool, verbose: bool) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("rayseg").setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")


def _version() -> str:
    from rayseg import __version__

    return f"rayseg {__version__}"


if __name__ == "__main__":
    sys.exit(main())
