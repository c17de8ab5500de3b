"""Which images a report shows: a random sample, those with most objects, and those the model was least sure of.

The sample is decided by a hash of seed and unit id, so it is the same however the rows are cut into files and in
whatever order these are read. Drawing the chosen images is in `gallery.py`.
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True)
class Pick:
    """One image that may be shown. `mean_score` is None without objects, or for models without scores."""

    unit_id: int
    uri: str
    page: int
    width: int
    height: int
    n_objects: int
    mean_score: float | None
    chunk: str


@dataclass
class Picks:
    """Candidates so far, in heaps of fixed size.

    Attributes:
        sample: how many images the random sample has.
        extremes: how many images with most objects, and how many with the lowest mean score.
    """

    sample: int
    extremes: int
    seed: int = 0
    _random: list[tuple[float, int, Pick]] = field(default_factory=list)
    _densest: list[tuple[float, int, Pick]] = field(default_factory=list)
    _least_sure: list[tuple[float, int, Pick]] = field(default_factory=list)

    def add(self, chunk: str, images: pa.Table, mean_scores: dict[int, float]) -> None:
        """Consider the ok images of a commit."""
        if not self.sample + self.extremes:
            return
        names = ["unit_id", "uri", "page", "width", "height", "n_objects"]
        for row in images.select(names).to_pylist():
            unit = row["unit_id"]
            order = _order(self.seed, unit)
            pick = Pick(**row, mean_score=mean_scores.get(unit), chunk=chunk)
            # Each list can lose images to those before it, so it keeps as many more.
            _keep(self._random, -order, order, pick, self.sample + 2 * self.extremes)
            if pick.n_objects:
                _keep(self._densest, pick.n_objects, order, pick, self.extremes)
            if pick.mean_score is not None:
                _keep(self._least_sure, -pick.mean_score, order, pick, 2 * self.extremes)

    def chosen(self) -> dict[str, list[Pick]]:
        """The images to show under "sample", "densest" and "least_sure"; none twice.

        With no more images than the sample may have, all of them are in "all", in order of name.
        """
        random, densest, least_sure = (_ranked(heap) for heap in (self._random, self._densest, self._least_sure))
        if len(random) <= self.sample:
            return {"all": sorted(random, key=lambda p: (p.uri, p.page))}
        taken = {pick.unit_id for pick in densest}
        least_sure = [pick for pick in least_sure if pick.unit_id not in taken][: self.extremes]
        taken |= {pick.unit_id for pick in least_sure}
        sample = [pick for pick in random if pick.unit_id not in taken][: self.sample]
        return {"sample": sample, "densest": densest, "least_sure": least_sure}


def _keep(heap: list[tuple[float, int, Pick]], value: float, order: int, pick: Pick, limit: int) -> None:
    """Keep the `limit` entries of largest value; a unit that is listed twice counts once."""
    entry = (value, order, pick)
    if limit <= 0 or (len(heap) == limit and entry[:2] <= heap[0][:2]):
        return
    if any(order == kept for _, kept, _ in heap):
        return
    if len(heap) < limit:
        heapq.heappush(heap, entry)
    else:
        heapq.heapreplace(heap, entry)


def _ranked(heap: list[tuple[float, int, Pick]]) -> list[Pick]:
    """Largest value first; the order number decides between equals."""
    return [pick for _, _, pick in sorted(heap, key=lambda entry: entry[:2], reverse=True)]


def _order(seed: int, unit_id: int) -> int:
    """A random-looking number that belongs to a unit under a seed."""
    key = f"{seed}\0{unit_id}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
