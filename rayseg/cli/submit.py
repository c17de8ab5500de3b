"""`rayseg submit COMMAND ...`: a command of rayseg as a job of a Ray cluster; `rayseg await`: first wait for its machines.

The arguments after COMMAND are those the command has here, and are checked here, before anything is sent. Flags of the
submission may stand among them. What jobs are doing is asked with `rayseg jobs`.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rayseg.cli import segment, training
from rayseg.cli.jobs import follow_to_the_end
from rayseg.cli.same_paths import check_paths
from rayseg.cli.shared import DONE, Declare, declare_on, set_up_logs
from rayseg.errors import ConfigError

COMMANDS = ("segment", "retry", "check-dataset", "train", "evaluate", "tune")
HELP = (
    "run a command as a job of a Ray cluster; with --follow the exit status is the job's: "
    "0 done, 1 incomplete, 2 refused, 130 stopped"
)


def add_commands(command: Declare) -> None:
    """Declare them."""
    sub = command("submit", submit, HELP)
    _add_flags(sub)
    sub.add_argument("job", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    sub.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments; the flags above may stand among them"
    )
    sub = command("await", await_machines, "on a cluster: wait until it has so many CPUs and GPUs, then run a command of rayseg")
    sub.add_argument("--cpus", type=int, default=0, metavar="N", help="in all; an autoscaling cluster starts machines for them")
    sub.add_argument("--gpus", type=int, default=0, metavar="N")
    sub.add_argument("--patience-s", type=float, default=1800.0, metavar="S", help="give up after so long (default 1800)")
    sub.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND ...")


def submit(args: argparse.Namespace) -> int:
    """`rayseg submit segment s3://bucket/in s3://bucket/out --model demo/model --address http://head:8265 --follow`"""
    words, root, env = check_arguments(args)
    job_id = args.job_id or f"rayseg-{args.job}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"

    from rayseg.pipeline.remote import JobServer

    server = JobServer(args.address)
    command = _entrypoint(args, words)
    with tempfile.TemporaryDirectory(prefix="rayseg-") as scratch:
        server.submit(command, job_id=job_id, archive=_archive(args, root, Path(scratch)) if root else None, env=env)
    _say(f"submitted {job_id} to {server.address}: {command}")
    if args.follow:
        return follow_to_the_end(server, job_id)
    print(job_id)
    _say(f"to follow it: rayseg jobs logs {job_id} --follow --address {server.address}")
    return DONE


def await_machines(args: argparse.Namespace) -> int:
    """`rayseg await --cpus 16 --gpus 1 segment SRC OUT --model M`"""
    words = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    if not words or words[0] not in COMMANDS:
        what = f"{words[0]!r} is not a command it runs" if words else "no command to run"
        raise ConfigError(f"await: {what}; name one of {', '.join(COMMANDS)}")
    if args.patience_s <= 0:
        raise ConfigError(f"await: --patience-s {args.patience_s:g} must be above 0")

    inner = _parse(words)
    set_up_logs(inner)

    from rayseg.pipeline.capacity import large_enough

    # One connection for both: machines that nothing uses are soon taken away again.
    with large_enough(cpus=args.cpus, gpus=args.gpus, patience_s=args.patience_s, verbose=inner.verbose):
        return int(inner.run(inner))


def check_arguments(args: argparse.Namespace) -> tuple[list[str], Path | None, dict[str, str]]:
    """(arguments of the job, folder to upload or None, its variables); flags of the submission go from there into `args`.

    Raises:
        ConfigError: the submission or the job cannot be as it is asked for. Nothing was sent.
    """
    words = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    if not {"-h", "--help"} & set(words):
        mixed = argparse.ArgumentParser(prog="rayseg submit", add_help=False, allow_abbrev=False)
        _add_flags(mixed, default=argparse.SUPPRESS)
        _, words = mixed.parse_known_args(words, namespace=args)
    if args.job_id is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", args.job_id):
        raise ConfigError(f"--job-id {args.job_id!r}: expected up to 128 letters, digits, dots, dashes and underscores")
    env, root = environment(args.env), _folder(args)
    _check(args.job, words, root, args.exclude, args.include)
    return words, root, env


def environment(given: Sequence[str]) -> dict[str, str]:
    """Variables of a job from `--env NAME=VALUE` and `--env NAME`, which takes the value it has here.

    Raises:
        ConfigError: NAME is not set here, no name at all, Ray's own, or a secret written out.
    """
    out = {}
    for pair in given:
        name, written, value = pair.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(f"--env {name}: expected NAME or NAME=VALUE")
        if name.startswith("RAY_") and not name.startswith("RAY_DATA_"):
            raise ConfigError(f"--env {name}: the cluster sets this itself for its jobs; leave it out")
        if not written and name not in os.environ:
            raise ConfigError(f"--env {name}: not set here. Set it, or write --env {name}=VALUE")
        if written and re.search(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY|CREDENTIAL", name.upper()):
            raise ConfigError(
                f"--env {name}=...: what stands on a command line is seen by all of this machine. "
                f"Set {name} in your environment and write --env {name}"
            )
        out[name] = value if written else os.environ[name]
    return out


def _add_flags(sub: argparse.ArgumentParser, *, default: object = None) -> None:
    """Those of the submission. With SUPPRESS, only what is given changes the namespace."""

    def flag(name: str, *, otherwise: object = None, **more: object) -> None:
        sub.add_argument(name, default=otherwise if default is None else default, **more)  # type: ignore[arg-type]

    flag("--address", metavar="URL", help="of the dashboard, such as http://head:8265 (also RAY_API_SERVER_ADDRESS)")
    flag("--follow", action="store_true", otherwise=False, help="print what the job says; end with its exit status")
    flag("--job-id", metavar="ID", help="a name for it, used once; default: made of the command and the time")
    flag(
        "--env",
        action=_Gather,
        otherwise=[],
        metavar="NAME[=VALUE]",
        help="for its processes; NAME alone takes its value from here",
    )
    flag("--installed", action="store_true", otherwise=False, help="rayseg is installed on the cluster: upload nothing")
    flag("--working-dir", metavar="DIR", help="upload this folder, where the job starts (default: the current one, a checkout)")
    flag("--exclude", action=_Gather, otherwise=[], metavar="PATTERN", help="do not upload; more than once")
    flag("--include", action=_Gather, otherwise=[], metavar="PATH", help="upload though git ignores it; more than once")
    flag("--max-upload-mib", type=float, otherwise=100.0, metavar="N", help="refuse to upload more (default 100)")
    flag(
        "--await-cpus", type=int, otherwise=0, metavar="N", help="start when the cluster has so many CPUs; autoscaling gets them"
    )
    flag("--await-gpus", type=int, otherwise=0, metavar="N", help="the same for GPUs")
    flag("--await-s", type=float, otherwise=1800.0, metavar="S", help="wait for them so long (default 1800)")
    flag("--python", otherwise="python", metavar="PATH", help="interpreter on the cluster (default python)")


class _Gather(argparse.Action):
    """Append, also to what the flags before COMMAND gave."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option_string: object = None) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest, None) or []), values])


def _folder(args: argparse.Namespace) -> Path | None:
    """What is uploaded; None for nothing."""
    if args.working_dir:
        root = Path(args.working_dir).resolve()
        if not root.is_dir():
            raise ConfigError(f"--working-dir {args.working_dir}: no such folder")
    elif args.installed:
        return None
    else:
        root = Path.cwd()
    if not args.installed and not (root / "rayseg" / "cli").is_dir():
        raise ConfigError(
            f"{root}: no checkout of rayseg, which the job would need. Run this in one, name it with --working-dir, or say "
            "--installed where the machines of the cluster have rayseg"
        )
    return root


def _check(job: str, words: Sequence[str], root: Path | None, exclude: Sequence[str], include: Sequence[str]) -> None:
    """Parse the job's arguments as the job will, and look at its paths."""
    from rayseg.pipeline.upload import files_to_upload

    args = _parse([job, *words])
    if getattr(args, "address", None) or getattr(args, "num_cpus", None):
        raise ConfigError(f"{job}: --num-cpus is about a Ray started for one job; the cluster has its own. Leave it out")
    for pair in [*getattr(args, "storage_option", ()), *getattr(args, "override", ())]:
        if re.match(r"((source|out)_options(\.|=.*))?(key|secret|token|password)\b", pair):
            raise ConfigError(
                f"{pair.partition('=')[0]}=...: the command of a job is seen by all who see the cluster. Give credentials as "
                "--env AWS_ACCESS_KEY_ID --env AWS_SECRET_ACCESS_KEY, or give the machines a role that may read and write"
            )
    uploaded = files_to_upload(root, exclude=exclude, include=include) if root else []
    for note in check_paths(job, args, root, uploaded):
        _say(note)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """As `rayseg WORDS` would."""
    parser = argparse.ArgumentParser(prog="rayseg")
    command = declare_on(parser)
    for group in (segment, training):
        group.add_commands(command)
    return parser.parse_args(words)


def _entrypoint(args: argparse.Namespace, words: Sequence[str]) -> str:
    wait = []
    if args.await_cpus or args.await_gpus:
        wait = ["await", "--cpus", str(args.await_cpus), "--gpus", str(args.await_gpus)]
        wait += ["--patience-s", f"{args.await_s:g}"]
    return shlex.join([args.python, "-m", "rayseg.cli", *wait, args.job, *words])


def _archive(args: argparse.Namespace, root: Path, scratch: Path) -> Path:
    from rayseg.pipeline.upload import check_size, files_to_upload, pack

    names = files_to_upload(root, exclude=args.exclude, include=args.include)
    total = check_size(root, names, limit=int(args.max_upload_mib * 2**20))
    _say(f"uploading {len(names)} files of {root}, {total / 2**20:.1f} MiB")
    return pack(root, names, scratch / "working_dir.zip")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
