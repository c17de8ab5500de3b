"""From what a network said to a result: `finish`. Runs anywhere; needs no network and no Paddle."""

from __future__ import annotations

from rayseg.predict.finish.instance import finish_instance
from rayseg.predict.finish.semantic import finish_semantic
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Result

__all__ = ["finish", "finish_instance", "finish_semantic"]


def finish(spec: ModelSpec, raw: Raw, threshold: float | None = None) -> Result:
    """The result for one image.

    Args:
        threshold: objects must exceed this score; None takes the model's own. Label maps have none.

    Raises:
        ModelError: a class id without a label.
        ValueError: a threshold below the one the outputs were already cut with.
    """
    if spec.task == "semantic":
        return finish_semantic(spec, raw)
    return finish_instance(spec, raw, threshold=spec.draw_threshold if threshold is None else threshold)
