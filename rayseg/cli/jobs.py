"""`rayseg jobs list | status | logs | stop`: what the jobs of a Ray cluster are doing. Submitting is in `submit.py`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rayseg.cli.shared import DONE, INCOMPLETE, Declare
from rayseg.errors import ConfigError

if TYPE_CHECKING:
    from rayseg.pipeline.remote import Job, JobServer

LEFT = 130
"""Exit status when Ctrl-C ends the following, not the job."""


def add_commands(command: Declare) -> None:
    """Declare them."""
    sub = command("jobs", jobs, "list the jobs of a Ray cluster, show one, what it says, or stop it")
    sub.add_argument("action", choices=("list", "status", "logs", "stop"))
    sub.add_argument("job_id", metavar="ID", nargs="?", help="of one job; `list` takes none")
    sub.add_argument("--address", metavar="URL", help="of the dashboard, such as http://head:8265 (also RAY_API_SERVER_ADDRESS)")
    sub.add_argument("--follow", action="store_true", help="of logs: go on until the job is over; the exit status is the job's")


def jobs(args: argparse.Namespace) -> int:
    """`rayseg jobs list`, `rayseg jobs logs ID --follow`"""
    if (args.action == "list") != (args.job_id is None):
        raise ConfigError(
            f"rayseg jobs list takes no ID, got {args.job_id}; status, logs and stop take one"
            if args.action == "list"
            else f"which job? rayseg jobs {args.action} ID; `rayseg jobs list` shows those there are"
        )
    if args.follow and args.action != "logs":
        raise ConfigError(f"rayseg jobs {args.action}: --follow belongs to `rayseg jobs logs ID`")

    from rayseg.pipeline.remote import JobServer

    server = JobServer(args.address)
    if args.action == "list":
        print("\n".join(_table(server.jobs())))
        return DONE
    if args.action == "status":
        _describe(server.job(args.job_id))
        return DONE
    if args.action == "stop":
        return _stop(server, args.job_id)
    if args.follow:
        return follow_to_the_end(server, args.job_id)
    sys.stdout.write(server.log(args.job_id))
    return DONE


def follow_to_the_end(server: JobServer, job_id: str) -> int:
    """Print what a job says; returns its exit status."""
    try:
        for text in server.follow(job_id):
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        print(
            f"\nno longer following; the job goes on. rayseg jobs logs {job_id} --follow, or rayseg jobs stop {job_id}",
            file=sys.stderr,
        )
        return LEFT
    job = server.job(job_id)
    print(f"{job.id}: {job.status}, exit status {job.exit_status}. {_advice(job)}", file=sys.stderr)
    return job.exit_status


def _stop(server: JobServer, job_id: str) -> int:
    before = server.job(job_id)
    if before.over:
        print(f"{job_id}: {before.status} already")
        return DONE
    job = server.stop(job_id)
    print(f"{job_id}: {job.status}. {_advice(job)}")
    return DONE if job.over else INCOMPLETE


def _describe(job: Job) -> None:
    print(*_table([job]), sep="\n")
    if job.message:
        print(job.message)
    if job.over and job.exit_status != DONE:
        print(_advice(job))


def _advice(job: Job) -> str:
    if job.status == "SUCCEEDED" or not job.over:
        return ""
    return "What is done stays; submit the same command again to go on."


def _table(jobs: list[Job]) -> list[str]:
    """A line for each job under a heading."""
    rows = [("JOB", "STATUS", "EXIT", "STARTED (UTC)", "TOOK", "COMMAND")]
    for job in jobs:
        started = job.started.strftime("%Y-%m-%d %H:%M:%S") if job.started else "-"
        took = _duration(job.started, job.ended) if job.started else "-"
        rows.append((job.id, job.status, str(job.exit_status) if job.over else "-", started, took, job.entrypoint))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)), row[5]]) for row in rows]


def _duration(started: datetime, ended: datetime | None) -> str:
    seconds = max(0, int(((ended or datetime.now(UTC)) - started).total_seconds()))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
