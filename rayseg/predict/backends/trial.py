"""Which engine runs a model fastest on this machine without changing what it finds: tried on real images.

    the plain engine on the images, and on the images moved by a part in a million     what is right, and what is not sure
    each other engine, in a process of its own: loaded, run, timed                     a crash is a row of the table
    its results against the plain ones (compare.py)                                    one unexplained object is one too many
    the fastest that is right                                                          the plain one where none is

An engine that computes in fewer bits changes results, which is what was asked for: the change is measured and not refused, but
the same engine must be right in full precision. Which engines there are is choose.py's; remembering a choice is choices.py's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayseg.config.backends import PRECISIONS
from rayseg.errors import BackendError
from rayseg.predict.backends.child import in_child
from rayseg.predict.backends.choose import candidates, open_backend
from rayseg.predict.backends.compare import Agreement, Change, agreement, change, named
from rayseg.predict.backends.measure import WORTH_S, Measured, Opener, Request, enough_s, measure
from rayseg.predict.prepare import Prepared
from rayseg.predict.spec import ModelSpec

log = logging.getLogger(__name__)

FP32 = PRECISIONS[0]
IMAGES = 8
"""Real images that are worth preparing for a trial."""
BUDGET_S = 60.0
"""For running images, all engines together; loading and converting come on top."""
BATCHES = (1, 2, 4, 8, 16)
"""Sizes that are timed on engines that gain from batches."""
START_LIMIT_S = 600.0
"""An engine that is not loaded, converted and planned by then has hung."""
_SLOWER = 4  # an engine that takes so many times as long as the plain one is stopped

RIGHT, WRONG, UNPROVED, FAILED, REFUSED, CHANGED = "right", "wrong", "unproved", "failed", "refused", "changed"
Candidates = Callable[..., tuple[str, ...]]
"""(spec, *, device, precision) -> names, the sure one first, as `choose.candidates`."""


@dataclass(frozen=True)
class Trial:
    """One row of the table.

    Attributes:
        batch: images at once that were fastest, and ms_per_image at that; None where it did not run.
        start_s: loading it, conversion included where it was not done before.
        verdict: right, wrong, unproved (too little to compare), failed, refused (no such precision), or changed (fewer bits).
        reason: of the verdict, in words.
        compared: objects, or pixels of label maps, that are alike on both sides.
        change: from full precision; for the verdict changed only.
    """

    engine: str
    precision: str
    verdict: str
    reason: str
    batch: int | None = None
    ms_per_image: float | None = None
    start_s: float | None = None
    compared: int = 0
    change: Change | None = None


@dataclass(frozen=True)
class Choice:
    """What came of a trial.

    Attributes:
        engine: the fastest that is right; None where none has the precision, or the trial ended early (`reason` says why).
        images: that all engines were run on.
        threshold: scores that were compared exceed it; lower than the model's where nothing exceeded that.
        ended_early: after the plain engine, as there was little to do.
    """

    engine: str | None
    precision: str
    batch: int
    trials: tuple[Trial, ...]
    images: int = 0
    threshold: float | None = None
    reason: str = ""
    ended_early: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it is kept in files."""
        return asdict(self)

    def serves(self, images_left: float | None) -> bool:
        """Whether a choice that is remembered can be taken: where there was little to do then, there must be little now."""
        if self.engine is not None:
            return True
        each_s = (self.trials[0].ms_per_image or 0.0) / 1000 if self.trials else 0.0
        return self.ended_early and images_left is not None and images_left * each_s < WORTH_S

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Choice:
        """Back again.

        Raises:
            KeyError, TypeError: it is not one.
        """
        rows = tuple(
            Trial(**{**row, "change": None if row["change"] is None else Change(**row["change"])}) for row in found["trials"]
        )
        return cls(**{**found, "trials": rows})


def try_engines(
    spec: ModelSpec,
    images: Sequence[Prepared],
    *,
    device: str,
    threads: int,
    precision: str = FP32,
    also: Sequence[str] = (),
    engines: Sequence[str] | None = None,
    threshold: float | None = None,
    batches: Sequence[int] = BATCHES,
    images_left: float | None = None,
    budget_s: float = BUDGET_S,
    known: Candidates = candidates,
    opener: Opener = open_backend,
) -> Choice:
    """Try the engines of this machine.

    Args:
        images: real ones, prepared for the model; at least one. Slow models are tried on the first few.
        device: cpu, or gpu:N.
        threads: of a CPU engine.
        precision: that the choice is made for; `also`: others that are measured, too.
        engines: names to try beside the sure one; None takes all candidates.
        threshold: score that objects of a job must exceed; None takes the model's.
        images_left: for one predictor to do; where that is little work, the trial ends after the plain engine. None: no matter.
        known, opener: the table of engines; both can be imported by their names.

    Raises:
        ValueError: no image.
        BackendError: a device or precision nobody knows, or the plain engine does not run the images.
    """
    if not images:
        raise ValueError("a trial needs at least one image")
    names = known(spec, device=device, precision=FP32)
    sure_name, others = names[0], [name for name in names[1:] if engines is None or name in engines]
    ask = _Asking(spec, tuple(_alike_first(images)), device, threads, tuple(batches), opener)
    wanted = spec.draw_threshold if threshold is None else threshold
    sure = ask(sure_name, FP32, wanted, budget_s=0.4 * budget_s, plain=True, images_left=images_left)
    if isinstance(sure, str):
        raise BackendError(f"{spec.name}: the plain engine does not run it on {device}: {sure}")
    rows = [_row(sure_name, FP32, RIGHT, "the measure of the others", sure, compared=_found(sure))]
    if images_left is not None and images_left * min(sure.seconds.values()) < WORTH_S:
        said = f"about {images_left * min(sure.seconds.values()):.0f} s of work with the plain engine are not worth a trial"
        return Choice(None, precision, 1, tuple(rows), len(sure.results), sure.threshold, said, ended_early=True)
    if images_left is not None:
        budget_s = min(budget_s, enough_s(images_left * min(sure.seconds.values())))
    lower = [p for p in (precision, *also) if p != FP32]
    able = {p: known(spec, device=device, precision=p) for p in lower}
    share = 0.6 * budget_s / max(1, len(others) + sum(len(found) for found in able.values()))
    for name in others:
        rows.append(_judged(name, ask(name, FP32, sure.threshold, budget_s=share, sure=sure), sure))
        _tell(spec, rows[-1])
    for p in lower:
        for name in dict.fromkeys((*[row.engine for row in rows], *(n for n in able[p] if engines is None or n in engines))):
            rows.append(_lower(name, p, able[p], rows, ask, sure, share))
            _tell(spec, rows[-1])
    return _chosen(rows, precision, sure)


@dataclass(frozen=True)
class _Asking:
    """What all measurements have in common."""

    spec: ModelSpec
    images: tuple[Prepared, ...]
    device: str
    threads: int
    batches: tuple[int, ...]
    opener: Opener

    def __call__(
        self,
        engine: str,
        precision: str,
        threshold: float,
        *,
        budget_s: float,
        plain: bool = False,
        sure: Measured | None = None,
        images_left: float | None = None,
    ) -> Measured | str:
        """A measurement, or why there is none."""
        n = 1 if sure is None else len(sure.results)
        images = self.images if sure is None else self.images[:n]
        limit_s = START_LIMIT_S + budget_s + (0 if sure is None else _SLOWER * n * (sure.first_s + sure.seconds[1]))
        request = Request(
            self.spec,
            engine,
            precision,
            self.opener,
            images,
            self.device,
            self.threads,
            threshold,
            batches=self.batches,
            budget_s=budget_s,
            must=n,
            plain=plain,
            images_left=images_left,
        )
        try:
            return in_child(measure, request, timeout_s=limit_s)
        except BackendError as error:
            return str(error)


def _judged(name: str, found: Measured | str, sure: Measured) -> Trial:
    """The row of an engine in full precision."""
    if isinstance(found, str):
        return Trial(name, FP32, FAILED, found)
    seen = _agreement(found, sure)
    if seen.unexplained:
        return _row(name, FP32, WRONG, named(seen.unexplained), found, compared=seen.compared)
    if not seen.compared:
        said = f"the plain engine finds nothing on {len(sure.results)} images, and nothing compared is no proof"
        return _row(name, FP32, UNPROVED, said, found)
    if _of_objects(sure) and seen.n_excused > seen.compared:
        said = f"more differences had to be excused than objects agreed: {seen.said()}"
        return _row(name, FP32, UNPROVED, said, found, compared=seen.compared)
    return _row(name, FP32, RIGHT, seen.said(), found, compared=seen.compared)


def _agreement(found: Measured, sure: Measured) -> Agreement:
    """Of images one by one; and of those in the batch that is fastest, whose troubles are added."""
    seen = agreement(found.results, sure.results, sure.moved, threshold=sure.threshold)
    together = found.batched.get(found.batch, ())
    n = len(together)
    again = agreement(together, sure.results[:n], sure.moved[:n], threshold=sure.threshold) if n else Agreement()
    in_batch = tuple(f"in a batch of {found.batch}, {said}" for said in again.unexplained)
    return Agreement(seen.compared, seen.excused, seen.unexplained + in_batch)


def _lower(
    name: str, precision: str, able: Sequence[str], rows: Sequence[Trial], ask: _Asking, sure: Measured, budget_s: float
) -> Trial:
    """The row of an engine in fewer bits."""
    full = next((row for row in rows if row.engine == name and row.precision == FP32), None)
    if name not in able:
        return Trial(name, precision, REFUSED, f"{name} does not compute in {precision} on {ask.device}")
    if full is not None and full.verdict != RIGHT:
        return Trial(name, precision, REFUSED, f"{name} is {full.verdict} in {FP32} already")
    found = ask(name, precision, sure.threshold, budget_s=budget_s, sure=sure)
    if isinstance(found, str):
        return Trial(name, precision, FAILED, found)
    seen = change(found.results, sure.results)
    return _row(name, precision, CHANGED, seen.said(), found, change=seen)


def _chosen(rows: Sequence[Trial], precision: str, sure: Measured) -> Choice:
    """The fastest right one of the wanted precision."""
    good = [
        row for row in rows if row.precision == precision and row.verdict in (RIGHT, CHANGED) and row.ms_per_image is not None
    ]
    if not good:
        said = "; ".join(f"{row.engine}: {row.reason}" for row in rows if row.precision == precision)
        return Choice(
            None, precision, 1, tuple(rows), len(sure.results), sure.threshold, said or f"no engine here has {precision}"
        )
    best = min(good, key=lambda row: row.ms_per_image or 0.0)
    return Choice(best.engine, precision, best.batch or 1, tuple(rows), len(sure.results), sure.threshold)


def _row(
    name: str, precision: str, verdict: str, reason: str, found: Measured, *, compared: int = 0, change: Change | None = None
) -> Trial:
    ms = round(1000 * found.seconds[found.batch], 3)
    return Trial(name, precision, verdict, reason, found.batch, ms, round(found.start_s, 3), compared, change)


def _found(sure: Measured) -> int:
    """Objects, or pixels."""
    if _of_objects(sure):
        return sum(len(result.masks) for result in sure.results if hasattr(result, "masks"))
    return sum(result.labels.size for result in sure.results if hasattr(result, "labels"))


def _of_objects(sure: Measured) -> bool:
    """Whether the results are objects, not label maps."""
    return hasattr(sure.results[0], "masks")


def _alike_first(images: Sequence[Prepared]) -> list[Prepared]:
    """Those of the commonest network size before the others: batches are made of images of one size."""
    commonest = Counter(image.network for image in images).most_common(1)[0][0]
    return sorted(images, key=lambda image: image.network != commonest)


def _tell(spec: ModelSpec, row: Trial) -> None:
    ms = "" if row.ms_per_image is None else f", {row.ms_per_image:.1f} ms an image"
    log.info("%s: engine %s %s: %s%s (%s)", spec.name, row.engine, row.precision, row.verdict, ms, row.reason)
