"""Mask R-CNN and Cascade Mask R-CNN: boxes, each with a small mask of its class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayseg.predict.families.family import Arrays, Family, rows_of_images
from rayseg.predict.families.full_masks import finish_full_masks, split_full_masks
from rayseg.predict.finish.instance import clip_boxes, finish_boxes
from rayseg.predict.finish.masks import boxes_in_original
from rayseg.predict.finish.pasted_masks import pasted_masks
from rayseg.predict.prepare import Prepared
from rayseg.predict.program import FLOAT, INTEGER
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances
from rayseg.rle import Rle


def split_lean(spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float) -> list[Arrays]:
    """The rows that are kept.

    Returns:
        `bbox` float32 (m, 6): class, score, x0, y0, x1, y1 in pixels of the network's input, inside the image;
        `probabilities` float32 (m, s, s), over the box.
    """
    return [
        {"bbox": outputs[0].reshape(-1, 6)[rows][keep], "probabilities": outputs[2][rows][keep]}
        for _, rows, keep in rows_of_images(spec, outputs, batch, min_score)
    ]


def finish_lean(spec: ModelSpec, raw: Raw, threshold: float) -> Instances:
    """Objects of what `split_lean` kept."""
    edges = boxes_in_original(raw.arrays["bbox"][:, 2:], raw.resized, raw.original)

    def masks(keep: np.ndarray) -> list[Rle]:
        return pasted_masks(raw.arrays["probabilities"][keep], clip_boxes(edges[keep], raw.original), raw.original)

    return finish_boxes(spec, raw, threshold, edges, masks)


PADDLEX = Family(
    name="rcnn",
    task="instance",
    flavour="paddlex",
    outputs=(("bbox", FLOAT, 2), ("bbox_num", INTEGER, 1), ("mask", INTEGER, 3)),
    inputs=frozenset({"im_shape", "image", "scale_factor"}),
    image_input="image",
    # Programs exported by the original fail with more than one image.
    any_batch=False,
    split=split_full_masks,
    finish=finish_full_masks,
    arch="RCNN",
)
LEAN = Family(
    name="rcnn",
    task="instance",
    flavour="lean",
    outputs=(("bbox", FLOAT, 2), ("bbox_num", INTEGER, 1), ("probabilities", FLOAT, 3)),
    inputs=frozenset({"im_shape", "image"}),
    image_input="image",
    any_batch=True,
    split=split_lean,
    finish=finish_lean,
)
