"""Writing inference model directories: a network of the zoo by name, or what training left.

`rayseg export` itself is declared in training.py, since both go by that name.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rayseg.cli.shared import DONE
from rayseg.config.checks import within
from rayseg.config.train import Settings
from rayseg.errors import ConfigError

if TYPE_CHECKING:
    from rayseg.models.network import Flavour

_NAMED = {"weights": None, "labels": None, "draw_threshold": None, "flavour": None, "overwrite": False}
"""Flags of `export MODEL DIR`; with a file of settings it is Export that says."""


def add_flags(sub: argparse.ArgumentParser) -> None:
    """`MODEL DIR` and its flags."""
    sub.add_argument("name", metavar="MODEL", nargs="?", help="of the zoo; without, -c FILE says what to export")
    sub.add_argument("dir", metavar="DIR", nargs="?")
    sub.add_argument("--weights", help=".pdparams file, URL, or model whose published weights to take (default: MODEL's)")
    sub.add_argument("--draw-threshold", type=float, metavar="S", help="written down as the score to exceed (default 0.5)")
    sub.add_argument(
        "--labels", metavar="A,B,...|FILE", help="class names, or a file with one a line (default: class_0, class_1, ...)"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace a directory that is there")
    sub.add_argument("--flavour", choices=("lean", "paddlex", "probabilities"), help="default: lean; see Export.flavour")


def refuse_flags(args: argparse.Namespace) -> None:
    """With a file of settings the flags have no say.

    Raises:
        ConfigError: one was given.
    """
    for name, unset in _NAMED.items():
        if getattr(args, name) != unset:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} belongs to `rayseg export MODEL DIR`; with -c FILE use -o Export.key=value")


def export_named(args: argparse.Namespace) -> int:
    """`rayseg export MODEL DIR --weights FILE`"""
    from rayseg.models.zoo import find_model
    from rayseg.predict.export import export_model
    from rayseg.training.trained import load_trained, numbered

    if args.dir is None:
        raise ConfigError(f"where to? rayseg export {args.name} DIR")
    if args.draw_threshold is not None:
        within("--draw-threshold", args.draw_threshold, 0, 1)
    row = find_model(args.name)
    labels = _labels(args.labels) or numbered(row.num_classes)
    export_model(
        load_trained(args.name, args.weights or args.name, num_classes=len(labels)),
        args.dir,
        name=args.name,
        labels=labels,
        flavour=args.flavour or "lean",
        draw_threshold=0.5 if args.draw_threshold is None else args.draw_threshold,
        overwrite=args.overwrite,
    )
    print(args.dir)
    return DONE


def export_trained(settings: Settings) -> Path:
    """What Export says, from effective settings; returns the directory."""
    from rayseg.geometry import Size
    from rayseg.predict.export import export_model
    from rayseg.training.trained import labels_of, load_trained

    wanted, weights = settings.export, str(settings.export.weight_path)
    labels = labels_of(settings, weights)
    return export_model(
        load_trained(settings.general.model, weights, num_classes=len(labels)),
        str(wanted.save_dir),
        name=settings.general.model,
        labels=labels,
        flavour=cast("Flavour", wanted.flavour),  # checked when the settings were made
        input_size=Size(*wanted.input_size) if wanted.input_size else None,
        draw_threshold=wanted.draw_threshold,
        overwrite=wanted.overwrite,
    )


def _labels(given: str | None) -> tuple[str, ...]:
    """Class names from a comma-separated list or a file with one a line.

    Raises:
        ConfigError: it reads like the path of a file that is not there.
    """
    if given is None:
        return ()
    if os.path.isfile(given):
        with open(given, encoding="utf-8") as file:
            return tuple(line.strip() for line in file if line.strip())
    if "," not in given and (given.endswith(".txt") or given.startswith(("/", "./", "../", "~"))):
        raise ConfigError(f"--labels {given}: there is no such file; give one with a class a line, or the names as a,b,c")
    return tuple(name.strip() for name in given.split(","))
