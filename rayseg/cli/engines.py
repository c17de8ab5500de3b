"""`rayseg engines`: what can run a model on this machine, how fast, how right, and, given annotations, with which scores."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import numpy as np

from rayseg.cli.shared import DONE, INCOMPLETE, Declare
from rayseg.config.backends import PRECISIONS
from rayseg.errors import BackendError, ConfigError, RaysegError, SourceError

_SCORING_S = 24 * 3600.0


def add_commands(command: Declare) -> None:
    """Declare them."""
    sub = command(
        "engines", engines, "try every engine of this machine on images of SRC: time, agreement with the plain one, scores"
    )
    sub.add_argument("model", metavar="MODEL", help="inference model directory")
    sub.add_argument("source", metavar="SRC", help="image or folder; with --truth, the folder that its names are relative to")
    sub.add_argument("--truth", metavar="FILE", help="COCO .json, or a list of images and index masks; adds AP or mIoU")
    sub.add_argument("--precision", default=PRECISIONS[0], help=f"{', '.join(PRECISIONS)} or all (default {PRECISIONS[0]})")
    sub.add_argument("--device", help="cpu, gpu:0, ... (default: the first GPU, else the CPU)")
    sub.add_argument("--threads", type=int, metavar="N", help="of a CPU engine (default: all cores)")
    sub.add_argument("--images", type=int, default=8, metavar="N", help="images to try engines on, spread over SRC (default 8)")
    sub.add_argument("--budget-s", type=float, default=60.0, metavar="S", help="for running images, without loading (default 60)")
    sub.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def engines(args: argparse.Namespace) -> int:
    """`rayseg engines MODEL SRC`"""
    from rayseg.predict.backends.trial import try_engines
    from rayseg.predict.devices import find_devices
    from rayseg.predict.model_dir import load_model_dir

    precisions = _checked(args)
    spec = load_model_dir(args.model)
    if spec.scripted:
        raise ConfigError(f"{args.model}: fake models have no engines to choose from; give a model directory")
    (device, *more) = find_devices(args.device)
    if more or device.kind not in ("cpu", "gpu"):
        raise ConfigError(f"device {args.device}: engines are tried on one CPU or GPU; give cpu or gpu:N")
    if args.truth:
        from rayseg.evaluation.engines import open_truth

        open_truth(spec.task, args.truth, args.source, len(spec.labels))  # said now, not after minutes of trials
    threads = args.threads or len(os.sched_getaffinity(0))
    choice = try_engines(
        spec,
        _prepared(spec, args.source, args.images),
        device=str(device),
        threads=threads,
        precision=precisions[0],
        also=precisions[1:],
        budget_s=args.budget_s,
    )
    scores = {} if not args.truth else _scores(choice, spec, args, device=str(device), threads=threads)
    if args.json:
        named = {f"{engine} {precision}": found for (engine, precision), found in scores.items()}
        print(
            json.dumps(
                {"model": spec.name, "device": str(device), "threads": threads, **choice.to_json(), "scores": named}, indent=2
            )
        )
    else:
        _print(choice, spec, scores)
    return DONE if choice.engine is not None else INCOMPLETE


def _checked(args: argparse.Namespace) -> list[str]:
    """The precisions that are asked for; the choice is made for the first."""
    for name in ("images", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if not args.budget_s > 0:
        raise ConfigError(f"--budget-s must be above 0, got {args.budget_s}")
    if args.precision not in (*PRECISIONS, "all"):
        raise ConfigError(f"--precision {args.precision!r} is unknown; use {', '.join(PRECISIONS)} or all")
    return list(PRECISIONS) if args.precision == "all" else [args.precision]


def _prepared(spec: Any, source: str, n: int) -> list[Any]:
    """Images spread over a source, ready for the network; those that cannot be read are left out."""
    from rayseg.paddlex.inputs import pictures
    from rayseg.predict.prepare import prepare

    listed = list(pictures(source))
    chosen = [listed[i] for i in np.unique(np.linspace(0, len(listed) - 1, min(n, len(listed))).astype(int))]
    found, troubles = [], []
    for picture in chosen:
        try:
            found.append(prepare(spec, picture.read()))
        except RaysegError as error:
            troubles.append(str(error))
    if not found:
        raise SourceError(f"{source}: no image there that can be read" + (f"; {troubles[0]}" if troubles else ""))
    return found


def _scores(choice: Any, spec: Any, args: argparse.Namespace, *, device: str, threads: int) -> dict[tuple[str, str], Any]:
    """Scores of the engines that ran, each in a process of its own; a message where one does not last."""
    from rayseg.predict.backends.child import in_child

    out: dict[tuple[str, str], Any] = {}
    for row in choice.trials:
        if row.ms_per_image is None:
            continue
        print(f"scoring {row.engine} {row.precision}", file=sys.stderr)
        try:
            out[row.engine, row.precision] = in_child(
                _score, spec.path, row.engine, row.precision, device, threads, args.truth, args.source, timeout_s=_SCORING_S
            )
        except BackendError as error:
            out[row.engine, row.precision] = f"{error}"
    return out


def _score(model: str, engine: str, precision: str, device: str, threads: int, truth: str, images: str) -> dict[str, float]:
    """In the child."""
    from rayseg.evaluation.engines import score_engine

    return score_engine(model, engine, precision, device=device, threads=threads, truth=truth, images=images)


def _print(choice: Any, spec: Any, scores: dict[tuple[str, str], Any]) -> None:
    from rayseg.evaluation.engines import MAIN_METRIC

    metric = MAIN_METRIC[spec.task]
    head = f"{'engine':<16} {'precision':<9} {'ms/image':>9} {'at once':>7} {'start s':>8} {'verdict':<9}"
    print(head + (f" {metric:>7}" if scores else "") + "  reason")
    for row in choice.trials:
        ms = "-" if row.ms_per_image is None else f"{row.ms_per_image:.1f}"
        start = "-" if row.start_s is None else f"{row.start_s:.1f}"
        line = f"{row.engine:<16} {row.precision:<9} {ms:>9} {row.batch or '-':>7} {start:>8} {row.verdict:<9}"
        if scores:
            found = scores.get((row.engine, row.precision))
            line += f" {found[metric]:>7.4f}" if isinstance(found, dict) and metric in found else f" {'-':>7}"
        print(f"{line}  {row.reason}")
    for (engine, precision), found in scores.items():
        if isinstance(found, str):
            print(f"{engine} {precision} was not scored: {found}")
    print(
        f"compared on {choice.images} image{'' if choice.images == 1 else 's'}; "
        + (f"chosen: {choice.engine} {choice.precision}" if choice.engine else choice.reason)
    )
