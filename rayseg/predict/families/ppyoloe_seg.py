"""PP-YOLOE_seg: boxes with mask coefficients and, once an image, mask prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayseg.predict.families.family import Arrays, Family, in_network, rows_of_images
from rayseg.predict.families.full_masks import finish_full_masks, split_full_masks
from rayseg.predict.finish.instance import finish_boxes
from rayseg.predict.finish.masks import boxes_in_original, lean_masks
from rayseg.predict.prepare import Prepared
from rayseg.predict.program import FLOAT, INTEGER
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances
from rayseg.rle import Rle


def split_paddlex(spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float) -> list[Arrays]:
    """What an engine gives: masks of full size, or what they are made of (`convert.lean`)."""
    if len(outputs) == len(PADDLEX.outputs):
        return split_full_masks(spec, outputs, batch, min_score)
    return split_lean(spec, [in_network(outputs[0], batch), *outputs[1:]], batch, min_score)


def finish_paddlex(spec: ModelSpec, raw: Raw, threshold: float) -> Instances:
    """Objects of what `split_paddlex` kept."""
    return (finish_full_masks if "windows" in raw.arrays else finish_lean)(spec, raw, threshold)


def split_lean(spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float) -> list[Arrays]:
    """The rows that are kept, and the prototypes of images that have any.

    Returns:
        `bbox` float32 (m, 6): class, score, x0, y0, x1, y1 in pixels of the network's input; `coefficients` float32
        (m, P); `prototypes` float32 (P, h, w), absent when m is 0.
    """
    found: list[Arrays] = []
    for index, rows, keep in rows_of_images(spec, outputs, batch, min_score):
        arrays = {"bbox": outputs[0].reshape(-1, 6)[rows][keep], "coefficients": outputs[2][rows][keep]}
        found.append({**arrays, "prototypes": outputs[3][index].copy()} if len(keep) else arrays)
    return found


def finish_lean(spec: ModelSpec, raw: Raw, threshold: float) -> Instances:
    """Objects of what `split_lean` kept."""
    bbox = raw.arrays["bbox"]

    def masks(keep: np.ndarray) -> list[Rle]:
        if not len(keep):
            return []
        return lean_masks(
            raw.arrays["coefficients"][keep],
            raw.arrays["prototypes"],
            bbox[keep, 2:],
            raw.network,
            raw.original,
            resized=raw.resized,
        )

    return finish_boxes(spec, raw, threshold, boxes_in_original(bbox[:, 2:], raw.resized, raw.original), masks)


PADDLEX = Family(
    name="ppyoloe_seg",
    task="instance",
    flavour="paddlex",
    outputs=(("bbox", FLOAT, 2), ("bbox_num", INTEGER, 1), ("mask", FLOAT, 3)),
    inputs=frozenset({"im_shape", "image", "scale_factor"}),
    image_input="image",
    any_batch=False,
    split=split_paddlex,
    finish=finish_paddlex,
    arch="PPYOLOE",
)
LEAN = Family(
    name="ppyoloe_seg",
    task="instance",
    flavour="lean",
    outputs=(("bbox", FLOAT, 2), ("bbox_num", INTEGER, 1), ("coefficients", FLOAT, 2), ("prototypes", FLOAT, 4)),
    inputs=frozenset({"image"}),
    image_input="image",
    any_batch=True,
    split=split_lean,
    finish=finish_lean,
)
