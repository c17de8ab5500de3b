"""Is an engine's word to be trusted? One made-up image, compared with the plain engine where there is a doubt.

Engines differ in the last bits, and a selection (NMS, argmax) turns last bits into whole objects. So finished results
are compared, as sets that may differ at their edges.
"""

from __future__ import annotations

import numpy as np

from rayseg import rle
from rayseg.geometry import Size, Window
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.execute import execute
from rayseg.predict.families import finish
from rayseg.predict.prepare import Prepared, prepare
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances, SemanticMap
from rayseg.rle import Rle

FREE_SIZE = Size(96, 128)
"""Probe image of models that take any size."""

SCORE_TOLERANCE, BOX_TOLERANCE_PX = 1e-3, 1.0
"""Two objects are the same when the class is equal, and score and edges differ at most this much. Some boxes are
those of masks, whole pixels."""
OBJECTS_DIFFERING = 0.02
"""Share of objects one side may have alone, or with another mask; NMS decides near ties by last bits."""
MASK_DIFFERING, PIXELS_ALWAYS_ALLOWED = 0.01, 4
"""Masks are alike when at most so many pixels differ: a share of the window that holds both, and a few."""
PIXELS_DIFFERING = 2e-3
"""Share of pixels of a label map that may differ."""


def probe_image(spec: ModelSpec) -> Prepared:
    """The same made-up picture every time: coloured waves, bright discs, a little noise."""
    size = spec.fixed_input or FREE_SIZE
    ys, xs = np.mgrid[: size.height, : size.width].astype(np.float32)
    waves = [np.sin(xs / (9 + 4 * c)) + np.cos(ys / (7 + 3 * c)) for c in range(3)]
    picture = 90 + 25 * np.stack(waves, axis=-1)
    random = np.random.default_rng(7)
    for x, y, radius in random.uniform(0, 1, (12, 3)) * (size.width, size.height, min(size.hw) / 8):
        picture[(xs - x) ** 2 + (ys - y) ** 2 < radius**2] += random.uniform(40, 110, 3)
    picture += random.normal(0, 4, picture.shape)
    return prepare(spec, np.clip(picture, 0, 255).astype(np.uint8))


def check_runs(spec: ModelSpec, backend: Backend) -> None:
    """Run the probe image to the end.

    Raises:
        ModelError: the outputs make no sense, or a class has no label. What the engine raises passes through.
    """
    (raw,) = execute(spec, backend, [probe_image(spec)])
    finish(spec, raw, threshold=0.0)


def deviation(spec: ModelSpec, fast: Backend, sure: Backend) -> str | None:
    """Why the results of two engines cannot be taken for the same, or None."""
    image = probe_image(spec)
    if spec.task == "semantic":
        found, wanted = (_labels(spec, backend, image) for backend in (fast, sure))
        return _too_many(np.mean(found != wanted), PIXELS_DIFFERING, "of the pixels have another class")
    mine, theirs = (_objects(spec, backend, image) for backend in (fast, sure))
    return _compare_objects(mine, theirs)


def _labels(spec: ModelSpec, backend: Backend, image: Prepared) -> np.ndarray:
    (raw,) = execute(spec, backend, [image])
    found = finish(spec, raw, threshold=0.0)
    assert isinstance(found, SemanticMap)
    return found.labels


def _objects(spec: ModelSpec, backend: Backend, image: Prepared) -> Instances:
    (raw,) = execute(spec, backend, [image])
    found = finish(spec, raw, threshold=0.0)
    assert isinstance(found, Instances)
    return found


def _compare_objects(mine: Instances, theirs: Instances) -> str | None:
    partner = _partners(mine, theirs)
    lowest = min([*mine.scores.tolist(), *theirs.scores.tolist()], default=1.0) + SCORE_TOLERANCE
    lost = np.count_nonzero((partner < 0) & (mine.scores > lowest))
    extra = np.count_nonzero((_partners(theirs, mine) < 0) & (theirs.scores > lowest))
    share = (lost + extra) / max(1, len(mine) + len(theirs))
    reason = _too_many(share, OBJECTS_DIFFERING, f"of {len(mine)} and {len(theirs)} objects have no counterpart")
    if reason:
        return reason
    pairs = [(i, j) for i, j in enumerate(partner.tolist()) if j >= 0]
    differing = sum(unlike(mine.masks[i], theirs.masks[j]) for i, j in pairs)
    return _too_many(differing / max(1, len(pairs)), OBJECTS_DIFFERING, "of the objects have another mask")


def _partners(some: Instances, others: Instances) -> np.ndarray:
    """For each of some objects the index of its equal among the others, or -1.

    An object at the lowest score of either side may be in or out by its last bits, so it needs none.
    """
    partner = np.full(len(some), -1)
    for i in range(len(some)):
        edges = np.abs(others.boxes_xyxy - some.boxes_xyxy[i])
        same = (
            (others.class_ids == some.class_ids[i])
            & (np.abs(others.scores - some.scores[i]) <= SCORE_TOLERANCE)
            & (edges <= BOX_TOLERANCE_PX).all(axis=1)
        )
        if same.any():
            partner[i] = np.flatnonzero(same)[edges[same].sum(axis=1).argmin()]
    return partner


def unlike(mine: Rle, theirs: Rle) -> bool:
    """Whether two masks differ by more than pixels on their outlines."""
    both = union(mine.extent, theirs.extent)
    differing = np.count_nonzero(rle.decode_window(mine, both) != rle.decode_window(theirs, both))
    return bool(differing > PIXELS_ALWAYS_ALLOWED + MASK_DIFFERING * both.height * both.width)


def union(a: Window, b: Window) -> Window:
    """The smallest window that holds both; an empty one adds nothing."""
    if a.empty or b.empty:
        return b if a.empty else a
    return Window(min(a.x0, b.x0), min(a.y0, b.y0), max(a.x1, b.x1), max(a.y1, b.y1))


def _too_many(share: float, limit: float, what: str) -> str | None:
    return None if share <= limit else f"{share:.2%} {what}, {limit:.2%} are tolerated"
