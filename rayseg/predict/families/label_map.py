"""Semantic networks, all of them: a label map at the size of the network's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayseg.errors import BackendError
from rayseg.predict.families.family import Arrays, Family
from rayseg.predict.finish.semantic import finish_semantic
from rayseg.predict.prepare import Prepared
from rayseg.predict.program import INTEGER
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import SemanticMap


def split_labels(spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float) -> list[Arrays]:
    """`labels` uint8 or uint16 (H, W) of each image; label maps have no scores."""
    (labels,) = outputs
    if labels.shape != (len(batch), *batch[0].network.hw):
        raise BackendError(f"{spec.name} gave a label map of {labels.shape} for {len(batch)} images of {batch[0].network}")
    narrow = np.uint8 if len(spec.labels) <= 256 else np.uint16
    if labels.dtype != narrow and not 0 <= int(labels.min()) <= int(labels.max()) < len(spec.labels):
        raise BackendError(f"{spec.name} gave class ids {labels.min()} to {labels.max()}, it has {len(spec.labels)} labels")
    return [{"labels": one.astype(narrow)} for one in labels]


def finish_labels(spec: ModelSpec, raw: Raw, threshold: float) -> SemanticMap:
    """The label map at the image's own size."""
    return finish_semantic(spec, raw)


PADDLEX = Family(
    name="label_map",
    task="semantic",
    flavour="paddlex",
    outputs=(("labels", INTEGER, 3),),
    inputs=None,
    image_input=None,
    any_batch=True,
    split=split_labels,
    finish=finish_labels,
)
LEAN = Family(
    name="label_map",
    task="semantic",
    flavour="lean",
    outputs=(("labels", INTEGER, 3),),
    inputs=None,
    image_input=None,
    any_batch=True,
    split=split_labels,
    finish=finish_labels,
)
