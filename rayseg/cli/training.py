"""`rayseg check-dataset | train | tune | evaluate | export | run`: commands that a file of settings describes.

`rayseg train -c FILE` and, as in PaddleX, `rayseg run -c FILE -o Global.mode=train` are the same call.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rayseg.cli import export as exporting
from rayseg.cli.recorded import Outcome, recorded, write_text
from rayseg.cli.shared import DONE, INCOMPLETE, Declare, add_override_flag, add_storage_flags, store_of
from rayseg.config.train import Settings, load_settings
from rayseg.errors import ConfigError

log = logging.getLogger(__name__)


def add_commands(command: Declare) -> None:
    """Declare them."""
    _settings_flags(command("check-dataset", _as("check_dataset"), "look at every image and annotation of a data set"))
    _settings_flags(command("train", _as("train"), "fine-tune a model of the zoo"))
    _settings_flags(command("tune", _as("tune"), "search settings of training, many trials at once"))
    sub = command("evaluate", evaluate, "score weights on the validation part, or a finished job of `rayseg segment`")
    sub.add_argument("out", metavar="OUT", nargs="?", help="score this job from its tables, without running a model")
    sub.add_argument(
        "--truth", metavar="FILE", help="of OUT: COCO annotations; for semantic jobs a list or folder of index masks"
    )
    sub.add_argument("--json", metavar="FILE", help="of OUT: also write the scores")
    _settings_flags(sub, required=False)
    add_storage_flags(sub)
    sub = command("export", export, "write a network as an inference model directory")
    exporting.add_flags(sub)
    _settings_flags(sub, required=False)
    _settings_flags(command("run", run, "do what Global.mode says: " + ", ".join(ACTS)))


def run(args: argparse.Namespace) -> int:
    """`rayseg run -c FILE -o Global.mode=...`"""
    settings = load_settings(args.config, args.override)
    if settings.general.mode not in ACTS:
        raise ConfigError(f"Global.mode {settings.general.mode} cannot be run here; known are {', '.join(ACTS)}")
    return _run(settings, args)


def evaluate(args: argparse.Namespace) -> int:
    """`rayseg evaluate -c FILE`, or `rayseg evaluate OUT --truth FILE`."""
    if args.out is None:
        return _as("evaluate")(args)
    if args.config or args.override or not args.truth:
        raise ConfigError("to score a finished job: rayseg evaluate OUT --truth FILE; to score weights: rayseg evaluate -c FILE")
    from rayseg.pipeline.score_job import score_job

    found = score_job(store_of(args), args.truth)
    print(found.to_text())
    if args.json:
        write_text(Path(args.json), json.dumps(found.to_json(), indent=2) + "\n")
    return DONE


def export(args: argparse.Namespace) -> int:
    """`rayseg export -c FILE`, or `rayseg export MODEL DIR`."""
    if args.name is None:
        exporting.refuse_flags(args)
        return _as("export")(args)
    if args.config or args.override:
        raise ConfigError(f"give either -c FILE or MODEL DIR, got -c {args.config} and {args.name}")
    return exporting.export_named(args)


def _as(mode: str) -> Callable[[argparse.Namespace], int]:
    """A command that has one mode, whatever the file says."""

    def command(args: argparse.Namespace) -> int:
        if args.config is None:
            other = {"evaluate": "; for a finished job: rayseg evaluate OUT --truth FILE", "export": ", or MODEL DIR"}
            raise ConfigError(f"{mode.replace('_', '-')} needs -c FILE, such as one of configs/{other.get(mode, '')}")
        return _run(load_settings(args.config, [*args.override, f"Global.mode={mode}"]), args)

    return command


def _run(settings: Settings, args: argparse.Namespace) -> int:
    from rayseg.models.defaults import effective

    given, settings = settings, effective(settings)
    if not args.quiet:
        print(settings.to_yaml(), flush=True)
    act = ACTS[settings.general.mode]
    # What is left open follows the parameters of each trial
    return recorded(settings, lambda known: act(given if known.general.mode == "tune" else known, args))


def _check_dataset(settings: Settings, args: argparse.Namespace) -> Outcome:
    from rayseg.models.zoo import find_model
    from rayseg.pipeline.check_dataset import check_from_settings

    with _connected(settings, args):
        found = check_from_settings(_from_anywhere(settings), task=find_model(settings.general.model).task)
    for level in ("errors", "warnings"):
        for kind in found[level]:
            print(f"{level[:-1]} {kind['kind']}: {kind['count']}", *kind["examples"], sep="\n  ", file=sys.stderr)
    print(f"{settings.general.output}/check_dataset_result.json: {'passed' if found['check_pass'] else 'NOT PASSED'}")
    return Outcome(status=DONE if found["check_pass"] else INCOMPLETE)


def _train(settings: Settings, args: argparse.Namespace) -> Outcome:
    if settings.in_process():
        from rayseg.training.run import train

        result = train(settings)
    else:
        from rayseg.distributed.trainer import train_on_ray
        from rayseg.training.journal import describe

        result = train_on_ray(settings, report=lambda event: log.info("%s", describe(event)))
    print(f"{result.best}: {settings.search.metric} {result.best_score}")
    return Outcome()


def _tune(settings: Settings, args: argparse.Namespace) -> Outcome:
    from rayseg.tuning.search import tune
    from rayseg.tuning.watching import describe

    result = tune(_from_anywhere(settings), report=lambda event: log.info("%s", describe(event)))
    print(result.to_text())
    print(f"\n{result.best_model}: {result.metric} {result.best.best_score} by trial {result.best.id}")
    return Outcome()


def _evaluate(settings: Settings, args: argparse.Namespace) -> Outcome:
    from rayseg.pipeline.evaluate import evaluate as score

    if settings.in_process():
        found = score(settings)
    else:
        with _connected(settings, args):
            found = score(settings)
    print(json.dumps(found["metrics"]))
    return Outcome(found)


def _export(settings: Settings, args: argparse.Namespace) -> Outcome:
    where = exporting.export_trained(settings)
    print(where)
    return Outcome({"save_dir": str(where)})


def _predict(settings: Settings, args: argparse.Namespace) -> Outcome:
    from rayseg.config.segment import SegmentSettings
    from rayseg.pipeline.job import run_job
    from rayseg.pipeline.progress import Progress

    if settings.predict.input is None:
        raise ConfigError("Predict.input is not set; name a file, folder, manifest or URL of images")
    job = SegmentSettings(
        source=settings.predict.input,
        out=f"{settings.general.output}/predict",
        model=str(settings.predict.model_dir),
        threshold=settings.predict.threshold,
        batch_size=settings.predict.batch_size,
        device=settings.general.device.partition(":")[0],
    )
    with _connected(settings, args):
        result = run_job(job, progress=Progress(quiet=args.quiet))
    for line in result.findings.problems:
        print(line, file=sys.stderr)
    counts = {"images": result.findings.done_ok, "failed": result.findings.failed, "objects": result.findings.objects}
    return Outcome({"out": job.out, **counts}, status=DONE if result.complete else INCOMPLETE)


ACTS: dict[str, Callable[[Settings, argparse.Namespace], Outcome]] = {
    "check_dataset": _check_dataset,
    "train": _train,
    "tune": _tune,
    "evaluate": _evaluate,
    "export": _export,
    "predict": _predict,
}
"""What each mode does."""


def _from_anywhere(settings: Settings) -> Settings:
    """With a local data set named so that workers find it, whose own folder is another on a Ray that is there already."""
    folder = settings.general.dataset_dir
    if folder is None or "://" in folder or os.path.isabs(folder):
        return settings
    return settings.with_values({"Global.dataset_dir": os.path.abspath(folder)})


def _connected(settings: Settings, args: argparse.Namespace) -> AbstractContextManager[None]:
    """Ray as Cluster says; one that is started here sees the GPUs that Global.device names, and no others.

    Raises:
        ConfigError: Global.device names GPUs of a cluster that is there already.
    """
    from rayseg.pipeline.runtime import connected

    ids, there = settings.general.device_ids(), settings.cluster.address or os.environ.get("RAY_ADDRESS")
    if ids and there:
        raise ConfigError(
            f"Global.device {settings.general.device} numbers GPUs, but a cluster hands out its own; write `device: gpu`"
        )
    if ids:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, ids))
    return connected(settings.cluster.address, num_cpus=settings.cluster.num_cpus, verbose=args.verbose)


def _settings_flags(sub: argparse.ArgumentParser, *, required: bool = True) -> None:
    sub.add_argument("-c", "--config", metavar="FILE", required=required, help="YAML file of settings, such as one of configs/")
    add_override_flag(sub, "SECTION.KEY=VALUE", "change one setting; values as in YAML, such as 1e-3, true, null or [1, 4]")
    sub.add_argument("-q", "--quiet", action="store_true", help="do not print the settings and the progress")
