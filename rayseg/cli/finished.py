"""`rayseg verify | report | export-coco`: what is asked of a job's output. Needs neither Ray nor Paddle."""

from __future__ import annotations

import argparse

from rayseg.cli.shared import DONE, INCOMPLETE, Declare, add_storage_flags, storage_options, store_of


def add_commands(command: Declare) -> None:
    """Declare them."""
    for name, run, help in (
        ("verify", verify, "prove from the files that every planned image is there exactly once"),
        ("report", report, "write OUT/report.html"),
        ("export-coco", export_coco, "write the objects as COCO results JSON"),
    ):
        sub = command(name, run, help)
        sub.add_argument("out", metavar="OUT")
        add_storage_flags(sub)
        if name == "report":
            sub.add_argument("--seed", type=int, default=0, help="of the sample in the gallery")
        if name == "export-coco":
            sub.add_argument("path", metavar="FILE")
            sub.add_argument("--min-score", type=float)


def verify(args: argparse.Namespace) -> int:
    """`rayseg verify OUT`"""
    from rayseg.pipeline.verify import verify as check

    found = check(store_of(args))
    for line in found.problems:
        print(line)
    if found.n_problems + found.missing > len(found.problems):
        print(f"... and {found.n_problems + found.missing - len(found.problems)} more")
    print(
        f"{'complete' if found.ok else 'NOT COMPLETE'}: {found.planned} planned, {found.done_ok} ok, {found.failed} failed, "
        f"{found.missing} missing, {found.objects} objects, {found.n_problems} problems"
    )
    return DONE if found.ok else INCOMPLETE


def report(args: argparse.Namespace) -> int:
    """`rayseg report OUT`"""
    from rayseg.pipeline.report import write_report

    print(write_report(store_of(args), seed=args.seed, source_options=storage_options(args, None)))
    return DONE


def export_coco(args: argparse.Namespace) -> int:
    """`rayseg export-coco OUT results.json`"""
    from rayseg.pipeline.export_coco import export_coco as write

    print(f"{write(store_of(args), args.path, min_score=args.min_score)} results in {args.path}")
    return DONE
