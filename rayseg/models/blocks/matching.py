"""Hungarian assignment: the cheapest one-to-one pairing of predictions and objects.

Method: Crouse, "On implementing 2D rectangular assignment algorithms", IEEE TAES 2016, as
scipy.optimize.linear_sum_assignment implements it. What a pair costs is the business of each family's matcher.
"""

from __future__ import annotations

import numpy as np
import paddle
from scipy.optimize import linear_sum_assignment

from rayseg.errors import ModelError


def match(cost: np.ndarray | paddle.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pair each object with a prediction of its own, so that the pairs cost least in total.

    Args:
        cost: [predictions, objects], any float type; either side may be empty, and there may be more objects than
            predictions (then the objects that are cheapest to leave out stay alone).

    Returns:
        Two int64 [min(predictions, objects)]: the predictions, ascending, and the object of each.

    Raises:
        ModelError: the cost is no matrix, or a number in it is not finite.
    """
    values = np.asarray(cost.numpy() if isinstance(cost, paddle.Tensor) else cost)
    if values.ndim != 2:
        raise ModelError(f"Pairing needs costs of shape [predictions, objects], got {list(values.shape)}.")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ModelError(
            f"{bad} of {values.size} pairing costs are not finite: the network's outputs have overflowed or its targets "
            "hold NaN. A lower learning rate, gradient clipping or float32 usually helps."
        )
    predictions, objects = linear_sum_assignment(values)
    return predictions.astype("int64"), objects.astype("int64")
