"""Which images a worker sees in which step of an epoch. Indices only; a pure function of settings, epoch and step.

An epoch is one order of all images, drawn anew for each epoch and dealt out like cards: image p of the order goes to
worker p mod size. So step k of all workers together is step k of a single worker with a batch as large as theirs together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from rayseg.errors import ConfigError, DatasetError

Last = Literal["fill", "short", "drop"]


class Stream(IntEnum):
    """What a random generator is for. SeedSequence takes (1, 2) and (1, 2, 0) for the same, so the purpose comes first."""

    ORDER = 1
    VISIT = 2
    STEP = 3


def generator(stream: Stream, seed: int, epoch: int, number: int = 0) -> np.random.Generator:
    """The generator of one purpose in one place of a run."""
    return np.random.default_rng([stream, seed, epoch, number])


@dataclass(frozen=True)
class Step:
    """One worker's share of a step.

    Attributes:
        number: in the epoch, from 0; the same for all workers.
        visits: an image's index, plus the number of images for each time it came before in this epoch: a second look at an
            image is augmented in another way.
    """

    number: int
    visits: tuple[int, ...]


@dataclass(frozen=True)
class EpochOrder:
    """The order of one worker."""

    images: int
    """In the data set."""
    batch_size: int
    """Of one worker."""
    rank: int = 0
    size: int = 1
    """Workers."""
    seed: int = 0
    visits_per_image: int = 1
    """How often an epoch comes to each image."""
    last: Last = "fill"
    """The last step of an epoch. fill: completed with images of the same epoch, from the start of its order. short: every
    image exactly as often as set and batches may be smaller, but a worker that would get none gets one as with fill, since
    all workers need as many steps. drop: what does not fill a step is left out."""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise DatasetError("the training set has no images; check its annotation file or list")
        for name in ("batch_size", "size", "visits_per_image"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.rank < self.size:
            raise ConfigError(f"rank is {self.rank}, but workers are numbered 0 to {self.size - 1}")
        if self.last not in ("fill", "short", "drop"):
            raise ConfigError(f"last is {self.last!r}; expected fill, short or drop")
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"{self.images} images x {self.visits_per_image} visits do not fill one step of {self.global_batch}; "
                "make batches smaller, or fill the last one"
            )

    @property
    def global_batch(self) -> int:
        """Images of a step over all workers."""
        return self.batch_size * self.size

    @property
    def steps_per_epoch(self) -> int:
        """The same for all workers."""
        total = self.images * self.visits_per_image
        return total // self.global_batch if self.last == "drop" else -(-total // self.global_batch)

    def steps(self, epoch: int, *, start: int = 0) -> Iterator[Step]:
        """This worker's steps of an epoch, from step `start` on.

        Raises:
            ValueError: the epoch is negative, or has no such step.
        """
        if epoch < 0 or not 0 <= start <= self.steps_per_epoch:
            raise ValueError(f"epoch {epoch}, step {start}: an epoch has the steps 0 to {self.steps_per_epoch - 1}")
        order = self._order(epoch)
        for number in range(start, self.steps_per_epoch):
            first = number * self.global_batch + self.rank
            places = range(first, first + self.global_batch, self.size)
            if self.last == "short":
                places = range(first, max(first + 1, min(places.stop, len(order))), self.size)
            yield Step(number, tuple(self._visit(order, place) for place in places))

    def _order(self, epoch: int) -> np.ndarray:
        rng = generator(Stream.ORDER, self.seed, epoch)
        return np.concatenate([rng.permutation(self.images) + lap * self.images for lap in range(self.visits_per_image)])

    def _visit(self, order: np.ndarray, place: int) -> int:
        lap, inside = divmod(place, len(order))
        return int(order[inside]) + lap * len(order)


def exact_shard(count: int, rank: int, size: int) -> range:
    """Indices of one worker where each is to be worked on exactly once, as in evaluation; lengths differ by one at most."""
    if not 0 <= rank < size:
        raise ConfigError(f"rank is {rank}, but workers are numbered 0 to {size - 1}")
    return range(rank, count, size)
