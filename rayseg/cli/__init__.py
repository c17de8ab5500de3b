"""The command line: `rayseg COMMAND ...`, one file below for each group of commands.

Each command parses its arguments, makes one call and turns the outcome into an exit status: 0 done and right, 1 done
but incomplete or with too many failures, 2 could not be done as asked. Only this package prints.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from rayseg.cli import finished, models, segment, training
from rayseg.cli.shared import DONE, INCOMPLETE, REFUSED, declare_on
from rayseg.errors import RaysegError

__all__ = ["DONE", "INCOMPLETE", "REFUSED", "main"]
GROUPS = (segment, finished, training, models)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rayseg", description="An archive of images in, a table of masks out, exactly once.")
    parser.add_argument("--version", action="version", version=_version())
    command = declare_on(parser)
    for group in GROUPS:
        group.add_commands(command)
    return parser


def _set_up_logs(*, quiet: bool, verbose: bool) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("rayseg").setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    for message in ("No ccache found", "When training, we now always track"):  # Paddle, on import and for each network trained
        warnings.filterwarnings("ignore", message=message, category=UserWarning)


def _version() -> str:
    from rayseg import __version__

    return f"rayseg {__version__}"
