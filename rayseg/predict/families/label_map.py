"""Semantic networks, all of them: at the size of the network's input a label map, or the probabilities it is decided by.

Probabilities travel as they come, a byte for each class and pixel. Blending those of several tiles is rayseg.tiling's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rayseg.errors import BackendError, ModelError
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


def split_probabilities(
    spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float
) -> list[Arrays]:
    """`probabilities` uint8 (C, H, W) of each image, in 255ths."""
    (found,) = outputs
    wanted = (len(batch), len(spec.labels), *batch[0].network.hw)
    if found.shape != wanted or found.dtype != np.uint8:
        raise BackendError(f"{spec.name} gave probabilities {found.dtype} {found.shape}, expected uint8 {wanted}")
    return [{"probabilities": one} for one in found]


def finish_probabilities(spec: ModelSpec, raw: Raw, threshold: float) -> SemanticMap:
    """The label map at the image's own size: the likeliest class of each pixel, the first of equal ones.

    A lean program of the same network decides before rounding, so the two maps differ at most where the two likeliest
    classes are within one 255th.
    """
    found = SemanticMap.from_probabilities(raw.arrays["probabilities"])
    return finish_semantic(spec, replace(raw, arrays={"labels": found.labels}))


def probabilities(spec: ModelSpec, raw: Raw) -> np.ndarray:
    """Probabilities at the image's own size, each class resized bilinearly on its own.

    Where the network saw the image at another size, their likeliest class need not be that of `finish`, which decides first
    and resizes by nearest neighbour.

    Returns:
        uint8 (C, H, W) in 255ths; by rounding, those of a pixel sum to about 255. Not to be written to.

    Raises:
        ModelError: the model gives labels only.
    """
    if spec.family != "label_map" or spec.flavour != "probabilities":
        raise ModelError(
            f"{spec.name} was exported as {spec.flavour} and gives no probabilities of classes; "
            "export a semantic model with `--flavour probabilities`"
        )
    found = raw.arrays["probabilities"]
    if found.shape[1:] == raw.original.hw:
        return found
    import cv2  # reading a model directory needs no OpenCV

    out = np.empty((len(found), *raw.original.hw), dtype=np.uint8)
    for one, resized in zip(found, out, strict=True):
        cv2.resize(one, raw.original.wh, dst=resized, interpolation=cv2.INTER_LINEAR)
    return out


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
PROBABILITIES = Family(
    name="label_map",
    task="semantic",
    flavour="probabilities",
    outputs=(("probabilities", INTEGER, 4),),
    inputs=None,
    image_input=None,
    any_batch=True,
    split=split_probabilities,
    finish=finish_probabilities,
)
