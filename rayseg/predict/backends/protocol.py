"""What every engine must offer, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class Backend(Protocol):
    """A loaded program in this process.

    Contract: the same inputs give the same outputs, bit for bit, in one process; what an image gets does not depend
    on the other images of its batch, but for last bits; outputs belong to the caller and are not overwritten by the
    next run. `run` raises whatever its engine raises.
    """

    name: str
    """As the user may ask for it, one of `rayseg.config.backends.BACKENDS`; paddle on a GPU is paddle-gpu."""
    batches: bool
    """Whether to give it several images at once. Not on CPUs: there a batch takes as long as its images one by one,
    and vector instructions round the tail of an array differently, so that a score could depend in its last bit on
    its place in the batch."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """Execute once.

        Args:
            inputs: by the program's names; C-contiguous, first axis the batch.

        Returns:
            The program's outputs in its own order.
        """
        ...
