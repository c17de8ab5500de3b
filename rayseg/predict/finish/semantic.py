"""The label map of one image at its own size."""

from __future__ import annotations

from rayseg.errors import ModelError
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import SemanticMap


def finish_semantic(spec: ModelSpec, raw: Raw) -> SemanticMap:
    """Labels brought back to the image's size by nearest neighbour, as PaddleX does.

    Raises:
        ModelError: a class id without a label.
    """
    labels = raw.arrays["labels"]
    if labels.max() >= len(spec.labels):
        raise ModelError(f"{spec.name} found class {labels.max()}, it has {len(spec.labels)} labels")
    if labels.shape != raw.original.hw:
        import cv2  # reading a model directory needs no OpenCV

        labels = cv2.resize(labels, raw.original.wh, interpolation=cv2.INTER_NEAREST)
    return SemanticMap(labels)
