"""`rayseg verify | report | export-coco | export-geo`: what is asked of a job's output. Needs neither Ray nor Paddle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rayseg.cli.shared import DONE, INCOMPLETE, Declare, add_storage_flags, storage_options, store_of

if TYPE_CHECKING:
    from rayseg.pipeline.verify import Findings


def add_commands(command: Declare) -> None:
    """Declare them."""
    for name, run, help in (
        ("verify", verify, "prove from the files that every planned image is there exactly once"),
        ("report", report, "write OUT/report.html"),
        ("export-coco", export_coco, "write the objects as COCO results JSON"),
        ("export-geo", export_geo, "write the objects of scenes as GeoJSON or GeoPackage"),
    ):
        sub = command(name, run, help)
        sub.add_argument("out", metavar="OUT")
        add_storage_flags(sub)
        if name == "report":
            sub.add_argument("--seed", type=int, default=0, help="of the sample in the gallery")
        if name == "export-coco":
            sub.add_argument("path", metavar="FILE")
            sub.add_argument("--min-score", type=float)
        if name == "export-geo":
            sub.add_argument("path", metavar="FILE.geojson|FILE.gpkg")
            sub.add_argument("--min-score", type=float, metavar="S", help="leave out objects below it")
            sub.add_argument("--lon-lat", action="store_true", help="longitude and latitude (GeoJSON has nothing else)")
            sub.add_argument("--scene", action="append", default=[], metavar="NAME", help="URI or file name; more than once")


def verify(args: argparse.Namespace) -> int:
    """`rayseg verify OUT`"""
    from rayseg.pipeline import identity
    from rayseg.pipeline.verify import verify as check

    store = store_of(args)
    if identity.is_scenes(identity.require(store)):
        return _verify_scenes(store)
    found = check(store)
    _say(found, found.problems, "")
    return DONE if found.ok else INCOMPLETE


def _verify_scenes(store: Any) -> int:
    from rayseg.pipeline.scenes.check import verify_scenes

    found = verify_scenes(store, store.below("tiles"))
    for line in found.between:
        print(line)
    _say(found.scenes, found.scenes.problems, f"scenes: {found.scenes.incomplete} incomplete, ")
    _say(found.tiles, tuple(f"tiles: {line}" for line in found.tiles.problems), "tiles: ")
    return DONE if found.ok else INCOMPLETE


def _say(found: Findings, problems: Sequence[str], what: str) -> None:
    for line in problems:
        print(line)
    if found.n_problems + found.missing > len(problems):
        print(f"... and {found.n_problems + found.missing - len(problems)} more")
    print(
        f"{'complete' if found.ok else 'NOT COMPLETE'}: {what}{found.planned} planned, {found.done_ok} ok, "
        f"{found.failed} failed, {found.missing} missing, {found.objects} objects, {found.n_problems} problems"
    )


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


def export_geo(args: argparse.Namespace) -> int:
    """`rayseg export-geo OUT objects.gpkg`"""
    from rayseg.pipeline.scenes.export import export_scenes  # needs the extra `geo`

    done = export_scenes(store_of(args), args.path, min_score=args.min_score, lon_lat=args.lon_lat, scenes=args.scene)
    notes = (
        (done.incomplete, "of them incomplete"),
        (done.left_out, "more failed or not finished, left out"),
        (done.without_geometry, "objects without a geometry"),
    )
    said = "".join(f"; {n} {words}" for n, words in notes if n)
    print(f"{done.objects} objects of {done.scenes} scene{'' if done.scenes == 1 else 's'} in {args.path}{said}")
    return DONE
