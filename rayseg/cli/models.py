"""`rayseg models`: the zoo, as a list."""

from __future__ import annotations

import argparse

from rayseg.cli.shared import DONE, Declare


def add_commands(command: Declare) -> None:
    """Declare them."""
    sub = command("models", models, "list the models of the zoo")
    sub.add_argument("--task", choices=("instance", "semantic"))


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
