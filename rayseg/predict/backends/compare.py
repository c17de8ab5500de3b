"""Are an engine's results on real images those of the plain one? Counted object by object, pixel by pixel.

A selection (NMS, top-k, a threshold, argmax) turns last bits into whole objects, so some differences mean nothing. Each has to
be understood; what is not counts against the engine, and one such object is enough:

    at the cut       its score is a hair from the threshold, or it was swapped at the end of a full list
    unstable         the plain engine itself loses it, changes it or brings it when its input moves by a part in a million
    near-equal       two candidates that suppress each other: the other side kept one of the same class in nearly the same
                     place with nearly the same score. Only now and then: an engine whose boxes are all a little off is wrong

How engines are run is measure.py's, and which of them wins trial.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rayseg import rle
from rayseg.predict.backends.probe import BOX_TOLERANCE_PX, SCORE_TOLERANCE, union, unlike
from rayseg.results import Instances, Result, SemanticMap
from rayseg.rle import Rle

NEAR_EQUAL_IOU = 0.7
"""Of masks or boxes: two objects that overlap so much suppress each other in any NMS."""
NEAR_EQUALS_PER_MATCH = 20
"""One near-equal is excused for so many objects that are alike on both sides."""
FULL_LIST = 20
"""Objects from which on two lists of one length may be full, so that their last ones depend on last bits."""
SAME_OBJECT_IOU = 0.5
"""Masks of one object under two precisions overlap at least so much."""
PIXELS_UNEXPLAINED, PIXELS_ALWAYS_ALLOWED = 1e-4, 4
"""Pixels of a label map that may differ where the plain engine is sure: a share of the image, and a few."""
_NAMED = 3


@dataclass(frozen=True)
class Agreement:
    """What comparing an engine's results with the plain engine's found.

    Attributes:
        compared: objects that are alike on both sides; of label maps, pixels that were looked at.
        excused: differences that are understood, by kind.
        unexplained: the others, each in words.
    """

    compared: int = 0
    excused: dict[str, int] = field(default_factory=dict)
    unexplained: tuple[str, ...] = ()

    @property
    def n_excused(self) -> int:
        return sum(self.excused.values())

    def said(self) -> str:
        """In words."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.excused.items() if n)
        return f"{self.compared} compared" + (f"; excused: {kinds}" if kinds else "")


@dataclass(frozen=True)
class Change:
    """What another precision does to results.

    Attributes:
        objects: of the plain engine; lost: those without a partner; new: the other side's without one.
        mean_iou: of the masks of partners; None without any.
        pixels: share of pixels whose class changed; None for objects.
    """

    objects: int = 0
    lost: int = 0
    new: int = 0
    mean_iou: float | None = None
    pixels: float | None = None

    def said(self) -> str:
        """In words."""
        if self.pixels is not None:
            return f"{self.pixels:.2%} of the pixels changed"
        alike = "" if self.mean_iou is None else f", masks alike by {self.mean_iou:.3f} (IoU)"
        return f"of {self.objects} objects {self.lost} lost, {self.new} new{alike}"


def agreement(mine: Sequence[Result], sure: Sequence[Result], moved: Sequence[Result], *, threshold: float) -> Agreement:
    """Compare an engine with the plain one.

    Args:
        mine: results of some images.
        sure: those of the plain engine, in the same order.
        moved: those of the plain engine on inputs moved by a part in a million.
        threshold: that all of them were cut with; label maps have none.
    """
    parts = []
    for number, (a, b, c) in enumerate(zip(mine, sure, moved, strict=True)):
        if isinstance(a, SemanticMap) and isinstance(b, SemanticMap) and isinstance(c, SemanticMap):
            parts.append(_compare_pixels(a.labels, b.labels, c.labels, image=number))
        else:
            assert isinstance(a, Instances) and isinstance(b, Instances) and isinstance(c, Instances)
            parts.append(_Comparison(a, b, c, threshold, number).agreement())
    excused: dict[str, int] = {}
    for part in parts:
        for kind, n in part.excused.items():
            excused[kind] = excused.get(kind, 0) + n
    compared = sum(part.compared for part in parts)
    unexplained = [said for part in parts for said in part.unexplained]
    near = excused.get(NEAR_EQUAL, 0)
    if near * NEAR_EQUALS_PER_MATCH > compared:
        unexplained.append(f"{near} objects are nearly, but not quite, where the plain engine has them, {compared} just there")
    return Agreement(compared, excused, tuple(unexplained))


def change(mine: Sequence[Result], sure: Sequence[Result]) -> Change:
    """What results have become, the plain engine's being the measure."""
    if isinstance(mine[0], SemanticMap):
        maps = [
            (a.labels, b.labels)
            for a, b in zip(mine, sure, strict=True)
            if isinstance(a, SemanticMap) and isinstance(b, SemanticMap)
        ]
        differing, total = sum(int(np.count_nonzero(a != b)) for a, b in maps), sum(a.size for a, _ in maps)
        return Change(pixels=differing / total)
    objects = lost = new = 0
    ious: list[float] = []
    for a, b in zip(mine, sure, strict=True):
        assert isinstance(a, Instances) and isinstance(b, Instances)
        found = _best_partners(a, b)
        objects, lost, new = objects + len(b), lost + len(b) - len(found), new + len(a) - len(found)
        ious += found
    return Change(objects, lost, new, float(np.mean(ious)) if ious else None)


AT_THE_CUT, UNSTABLE, NEAR_EQUAL = "at the cut", "unstable", "near-equal"


class _Comparison:
    """One image of an instance model."""

    def __init__(self, mine: Instances, sure: Instances, moved: Instances, threshold: float, image: int) -> None:
        self._mine, self._sure, self._moved = mine, sure, moved
        self._threshold, self._image = threshold, image
        best = max([*mine.scores.tolist(), *sure.scores.tolist()], default=1.0)
        self._tolerance = SCORE_TOLERANCE * min(1.0, best)  # of scores that are all small, in proportion

    def agreement(self) -> Agreement:
        pairs = partners(self._sure, self._mine, tolerance=self._tolerance)
        kept = partners(self._sure, self._moved, tolerance=self._tolerance)
        shaky = {i for i in range(len(self._sure)) if i not in kept or unlike(self._sure.masks[i], self._moved.masks[kept[i]])}
        brought = sorted(set(range(len(self._moved))) - set(kept.values()))
        remasked = {i for i, j in pairs.items() if unlike(self._sure.masks[i], self._mine.masks[j])}
        lost = [i for i in range(len(self._sure)) if i not in pairs]
        new = sorted(set(range(len(self._mine))) - set(pairs.values()))
        excused = {AT_THE_CUT: 0, UNSTABLE: len(remasked & shaky), NEAR_EQUAL: 0}
        wrong = [self._say("has another mask", self._sure, i) for i in sorted(remasked - shaky)]
        lost, new, excused[AT_THE_CUT] = self._without_the_cut(lost, new)
        still_lost = [i for i in lost if i not in shaky]
        shaking = self._sure.select(sorted(shaky))
        again = self._moved.select(brought)
        still_new = [j for j in new if not self._brought(j, again) and not self._form_of(j, shaking)]
        excused[UNSTABLE] += len(lost) - len(still_lost) + len(new) - len(still_new)
        couples = self._couples(still_lost, still_new)
        excused[NEAR_EQUAL] = len(couples)
        wrong += [self._say("is lost", self._sure, i) for i in still_lost if i not in couples]
        wrong += [self._say("is new", self._mine, j) for j in still_new if j not in couples.values()]
        return Agreement(len(pairs) - len(remasked), excused, tuple(wrong))

    def _without_the_cut(self, lost: list[int], new: list[int]) -> tuple[list[int], list[int], int]:
        """What is left of lost and new ones without those at the threshold or the end of a full list; and how many those were."""
        at_threshold = self._threshold + self._tolerance
        out_lost = [i for i in lost if self._sure.scores[i] > at_threshold]
        out_new = [j for j in new if self._mine.scores[j] > at_threshold]
        if len(self._mine) == len(self._sure) >= FULL_LIST:
            last = max(float(self._mine.scores.min()), float(self._sure.scores.min())) + self._tolerance
            tail_lost, tail_new = (
                [i for i in out_lost if self._sure.scores[i] <= last],
                [j for j in out_new if self._mine.scores[j] <= last],
            )
            if len(tail_lost) == len(tail_new):
                out_lost = [i for i in out_lost if i not in tail_lost]
                out_new = [j for j in out_new if j not in tail_new]
        return out_lost, out_new, len(lost) - len(out_lost) + len(new) - len(out_new)

    def _brought(self, j: int, again: Instances) -> bool:
        """Whether the plain engine brings the new object, too, when its input is moved."""
        found = partners(self._mine.select([j]), again, tolerance=self._tolerance)
        return bool(found) and not unlike(self._mine.masks[j], again.masks[found[0]])

    def _form_of(self, j: int, shaking: Instances) -> bool:
        """Whether the new object is another form of one that the plain engine itself changes."""
        same = np.flatnonzero(shaking.class_ids == self._mine.class_ids[j])
        return any(mask_iou(self._mine.masks[j], shaking.masks[i]) > SAME_OBJECT_IOU for i in same)

    def _couples(self, lost: list[int], new: list[int]) -> dict[int, int]:
        """Lost object -> new one that took its place; each once."""
        found: dict[int, int] = {}
        for i in lost:
            for j in new:
                if j not in found.values() and self._near_equal(i, j):
                    found[i] = j
                    break
        return found

    def _near_equal(self, i: int, j: int) -> bool:
        a, b = self._sure, self._mine
        if a.class_ids[i] != b.class_ids[j] or abs(float(a.scores[i]) - float(b.scores[j])) > self._tolerance:
            return False
        overlap = box_iou(a.boxes_xyxy[i], b.boxes_xyxy[j])
        return overlap > NEAR_EQUAL_IOU or mask_iou(a.masks[i], b.masks[j]) > NEAR_EQUAL_IOU

    def _say(self, what: str, of: Instances, i: int) -> str:
        x0, y0, x1, y1 = (round(float(v)) for v in of.boxes_xyxy[i])
        return f"image {self._image}: object of class {of.class_ids[i]}, score {of.scores[i]:.4f}, at {x0},{y0},{x1},{y1} {what}"


def partners(some: Instances, others: Instances, *, tolerance: float = SCORE_TOLERANCE) -> dict[int, int]:
    """Index of each object -> index of its equal among the others; nobody has two.

    Equal: of one class, scores within the tolerance and edges within a pixel. The closest find each other first, by their masks
    where several are as close.
    """
    found: list[tuple[float, int, int]] = []
    for i in range(len(some)):
        edges = np.abs(others.boxes_xyxy - some.boxes_xyxy[i])
        scores = np.abs(others.scores - some.scores[i])
        same = (others.class_ids == some.class_ids[i]) & (scores <= tolerance) & (edges <= BOX_TOLERANCE_PX).all(axis=1)
        choices = np.flatnonzero(same).tolist()
        for j in choices:
            unlikeness = 1 - mask_iou(some.masks[i], others.masks[j]) if len(choices) > 1 else 0.0
            found.append((float(edges[j].sum() + scores[j]) + unlikeness, i, j))
    out: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(found):
        if i not in out and j not in taken:
            out[i] = j
            taken.add(j)
    return out


def mask_iou(a: Rle, b: Rle) -> float:
    """Pixels of both over pixels of either; 0 for two empty masks."""
    both = union(a.extent, b.extent)
    x, y = rle.decode_window(a, both), rle.decode_window(b, both)
    return int(np.count_nonzero(x & y)) / max(1, int(np.count_nonzero(x | y)))


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes xyxy."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inside = float(np.prod(np.clip(high - low, 0, None)))
    either = float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - inside
    return inside / either if either > 0 else 0.0


def _best_partners(mine: Instances, sure: Instances) -> list[float]:
    """IoU of the masks of each two objects of one class that overlap most, best first; nobody has two."""
    found: list[tuple[float, int, int]] = []
    for i in range(len(sure)):
        for j in np.flatnonzero(mine.class_ids == sure.class_ids[i]):
            if box_iou(sure.boxes_xyxy[i], mine.boxes_xyxy[j]) <= 0:
                continue
            overlap = mask_iou(sure.masks[i], mine.masks[int(j)])
            if overlap > SAME_OBJECT_IOU:
                found.append((overlap, i, int(j)))
    out: list[float] = []
    rows: set[int] = set()
    columns: set[int] = set()
    for overlap, i, j in sorted(found, reverse=True):
        if i not in rows and j not in columns:
            out.append(overlap)
            rows.add(i)
            columns.add(j)
    return out


def _compare_pixels(mine: np.ndarray, sure: np.ndarray, moved: np.ndarray, *, image: int) -> Agreement:
    if mine.shape != sure.shape:
        return Agreement(0, {}, (f"image {image}: a label map of {mine.shape}, the plain engine's is of {sure.shape}",))
    differing = mine != sure
    alone = int(np.count_nonzero(differing & (moved == sure)))
    excused = {UNSTABLE: int(np.count_nonzero(differing)) - alone}
    if alone <= PIXELS_ALWAYS_ALLOWED + PIXELS_UNEXPLAINED * mine.size:
        return Agreement(mine.size, excused)
    return Agreement(mine.size, excused, (f"image {image}: {alone / mine.size:.3%} of the pixels have another class",))


def named(unexplained: Sequence[str]) -> str:
    """The first few of them."""
    more = f"; and {len(unexplained) - _NAMED} more" if len(unexplained) > _NAMED else ""
    return "; ".join(unexplained[:_NAMED]) + more
