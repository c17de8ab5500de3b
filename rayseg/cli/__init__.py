"""The command line: `rayseg COMMAND ...`, one file below for each group of commands.

Each command parses its arguments, makes one call and turns the outcome into an exit status: 0 done and right, 1 done
but incomplete or with too many failures, 2 could not be done as asked. Only this package prints.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence

from rayseg.cli import engines, finished, jobs, models, predict, segment, submit, training
from rayseg.cli.shared import DONE, INCOMPLETE, REFUSED, complain, declare_on, set_up_logs
from rayseg.errors import RaysegError

__all__ = ["DONE", "INCOMPLETE", "REFUSED", "main"]
GROUPS = (segment, predict, finished, training, models, engines, submit, jobs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(predict.with_command(argv))
    try:
        set_up_logs(args)
        status = int(args.run(args))
        sys.stdout.flush()
        return status
    except RaysegError as error:
        complain(args, f"{type(error).__name__}: {error}", error=type(error).__name__)
        return REFUSED
    except KeyboardInterrupt:
        complain(args, "stopped. What is done stays; run the same command again to go on.")
        return 130
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        return 128 + signal.SIGPIPE


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone, as in `rayseg models | head -n 1`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rayseg", description="An archive of images in, a table of masks out, exactly once.")
    parser.add_argument("--version", action="version", version=_version())
    command = declare_on(parser)
    for group in GROUPS:
        group.add_commands(command)
    return parser


def _version() -> str:
    from rayseg import __version__

    return f"rayseg {__version__}"
