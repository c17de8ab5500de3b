"""What commands share: exit statuses, how a command is declared, settings of storage, where a job's tables are."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rayseg.config.load import parse_overrides

DONE, INCOMPLETE, REFUSED = 0, 1, 2
"""Done and right; done but incomplete or with too many failures; could not be done as asked."""

Declare = Callable[..., argparse.ArgumentParser]
"""(name, function, help) -> the parser of a new command."""


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
    options = dict(given or {}) | parse_overrides(pair for pair in args.storage_option if pair not in secrets)
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
