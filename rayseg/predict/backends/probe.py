"""Is an engine's word to be trusted? One made-up image, compared with the plain engine where there is a doubt.

Engines differ in the last bits, and a selection (NMS, argmax) turns last bits into whole objects. So what comes
before a selection is compared as numbers, and what comes after it as sets that may differ at their edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayseg.geometry import Size
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.execute import execute, feed
from rayseg.predict.finish import finish
from rayseg.predict.prepare import Prepared, prepare
from rayseg.predict.spec import ModelSpec

FREE_SIZE = Size(96, 128)
"""Probe image of models that take any size."""

PROTOTYPE_TOLERANCE = 1e-3
"""Largest difference of a prototype, as a share of the largest prototype value."""
SCORE_TOLERANCE, BOX_TOLERANCE_PX = 1e-3, 0.5
"""Two rows are the same object when class is equal, and score and edges differ at most this much."""
OBJECTS_DIFFERING = 0.02
"""Share of objects one side may have alone; NMS decides near ties by last bits."""
PIXELS_DIFFERING = 2e-3
"""Share of pixels of a label map, or of the masks of an object, that may differ."""


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
    """Why the outputs of two engines cannot be taken for the same, or None."""
    inputs = feed(spec, [probe_image(spec)])
    found, wanted = fast.run(inputs), sure.run(inputs)
    if spec.task == "semantic":
        return _too_many(np.mean(found[0] != wanted[0]), PIXELS_DIFFERING, "of the pixels have another class")
    if spec.flavour == "lean":
        limit = PROTOTYPE_TOLERANCE * float(np.abs(wanted[3]).max())
        worst = float(np.abs(found[3] - wanted[3]).max())
        if not worst <= limit:
            return f"prototypes differ by up to {worst:.2g}, {limit:.2g} is tolerated"
    return _compare_objects(spec, found, wanted)


def _compare_objects(spec: ModelSpec, found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> str | None:
    mine, theirs = (np.flatnonzero(outputs[0].reshape(-1, 6)[:, 1] > 0) for outputs in (found, wanted))
    rows, others = found[0].reshape(-1, 6)[mine], wanted[0].reshape(-1, 6)[theirs]
    partner = _partners(rows, others)
    lost = np.count_nonzero((partner < 0) & _above_the_cut(rows, others))
    extra = np.count_nonzero((_partners(others, rows) < 0) & _above_the_cut(others, rows))
    share = (lost + extra) / max(1, len(rows) + len(others))
    reason = _too_many(share, OBJECTS_DIFFERING, f"of {len(rows)} and {len(others)} objects have no counterpart")
    if reason or spec.flavour == "lean":
        return reason
    pairs = [(mine[i], theirs[j]) for i, j in enumerate(partner.tolist()) if j >= 0]
    differing = [np.mean(found[2][i] != wanted[2][j]) for i, j in pairs]
    return _too_many(max(differing, default=0.0), PIXELS_DIFFERING, "of the pixels of a mask differ")


def _partners(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each row the index of its equal among the others, or -1."""
    partner = np.full(len(rows), -1)
    if not len(others):
        return partner
    for i, row in enumerate(rows):
        gap = np.abs(others - row)
        same = (gap[:, 0] == 0) & (gap[:, 1] <= SCORE_TOLERANCE) & (gap[:, 2:].max(axis=1) <= BOX_TOLERANCE_PX)
        if same.any():
            partner[i] = np.flatnonzero(same)[gap[same, 2:].sum(axis=1).argmin()]
    return partner


def _above_the_cut(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rows that are in for sure: the lowest score of either side may be in or out by its last bits."""
    scores = np.concatenate([rows[:, 1], others[:, 1]])
    return rows[:, 1] > scores.min(initial=1.0) + SCORE_TOLERANCE


def _too_many(share: float, limit: float, what: str) -> str | None:
    return None if share <= limit else f"{share:.2%} {what}, {limit:.2%} are tolerated"
