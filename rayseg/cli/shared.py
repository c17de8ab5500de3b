"""What commands share: exit statuses, how a command is declared, settings of storage, where a job's tables are."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from rayseg import logs
from rayseg.config.load import parse_overrides

DONE, INCOMPLETE, REFUSED = 0, 1, 2
"""Done and right; done but incomplete or with too many failures; could not be done as asked."""

Declare = Callable[..., argparse.ArgumentParser]
"""(name, function, help) -> the parser of a new command."""


def set_up_logs(args: argparse.Namespace) -> None:
    """What a command logs, as its flags say, and what others may say meanwhile."""
    quiet, as_json = getattr(args, "quiet", False), getattr(args, "log_json", False)
    logs.set_up(logging.WARNING if quiet else logging.DEBUG if args.verbose else logging.INFO, as_json=as_json)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    for message in ("No ccache found", "When training, we now always track"):  # Paddle, on import and for each network trained
        warnings.filterwarnings("ignore", message=message, category=UserWarning)


def complain(args: argparse.Namespace, text: str, **about: str) -> None:
    """Say on stderr why a command did not do all it should; with --log-json as a line of JSON, about what `about` says."""
    if getattr(args, "log_json", False):
        logging.getLogger("rayseg").error("%s", text, extra=about)
    else:
        print(f"rayseg: {text}", file=sys.stderr)


def declare_on(parser: argparse.ArgumentParser) -> Declare:
    """A function that adds commands to a parser; each calls its function with the parsed arguments."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def declare(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(run=run)
        sub.add_argument("-v", "--verbose", action="store_true", help="also show what Ray and the workers log")
        return sub

    return declare


def add_override_flag(sub: argparse.ArgumentParser, metavar: str, help: str) -> None:
    """`-o`, as often as wanted."""
    sub.add_argument("-o", "--override", action="append", default=[], metavar=metavar, help=help)


def add_storage_flags(sub: argparse.ArgumentParser) -> None:
    """For commands that read or write a URL."""
    sub.add_argument("--endpoint-url", metavar="URL", help="of an S3-compatible server (also AWS_ENDPOINT_URL)")
    sub.add_argument("--anonymous", action="store_true", help="read a public bucket without credentials")
    sub.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="passed to fsspec, such as key=... secret=...",
    )


def storage_options(args: argparse.Namespace, given: dict[str, Any] | None) -> dict[str, Any]:
    """fsspec options from the flags, over those given."""
    secrets = [pair for pair in args.storage_option if pair.startswith(("key=", "secret=", "token="))]
    plain = [pair for pair in args.storage_option if pair not in secrets]
    options = dict(given or {}) | parse_overrides(plain, flag="--storage-option")
    options |= dict(pair.split("=", 1) for pair in secrets)  # as they are: 1e5 is no number there
    if args.endpoint_url:
        options["endpoint_url"] = args.endpoint_url
    if args.anonymous:
        options["anon"] = True
    return options


def store_of(args: argparse.Namespace) -> Any:
    """The tables of the job at OUT."""
    from rayseg.pipeline.storage import Store, is_local

    return Store(args.out, {} if is_local(args.out) else storage_options(args, None))
