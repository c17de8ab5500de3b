"""Randomness that depends on where a run stands and on nothing else.

All generators are set anew before every micro-step from (seed, step, micro-step, rank). So no generator state has to be
stored, a resumed run draws what the undisturbed one draws, and evaluating in between changes nothing.
"""

from __future__ import annotations

import random

import numpy as np
import paddle


def seed_all(*numbers: int) -> None:
    """Set the global generators of python, numpy and paddle (every device) from some non-negative numbers."""
    for_python, for_numpy, for_paddle = (int(word) for word in np.random.SeedSequence(numbers).generate_state(3))
    random.seed(for_python)
    np.random.seed(for_numpy)  # noqa: NPY002 (what a network or augmentation may use without asking us)
    paddle.seed(for_paddle)
