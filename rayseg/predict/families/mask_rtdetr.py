"""Mask-RT-DETR: a fixed number of boxes an image, however unlikely, with mask embeddings and, once an image, prototypes.

Nothing is suppressed: an object may appear twice with different classes, as in the original.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayseg.geometry import Size, Window
from rayseg.predict.families.family import Arrays, Family, in_network, one_after_the_other, rows_of_images
from rayseg.predict.families.full_masks import finish_full_masks, split_full_masks
from rayseg.predict.finish.instance import finish_boxes
from rayseg.predict.finish.logit_masks import CoarseGrid, CoarsePart, windows_of
from rayseg.predict.finish.masks import boxes_in_original
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
    bbox, bbox_num, embeddings, prototypes = outputs
    lean = [in_network(bbox, batch), bbox_num, embeddings.reshape(-1, embeddings.shape[-1]), prototypes]
    return split_lean(spec, lean, batch, min_score)


def finish_paddlex(spec: ModelSpec, raw: Raw, threshold: float) -> Instances:
    """Objects of what `split_paddlex` kept."""
    return (finish_full_masks if "bits" in raw.arrays else finish_lean)(spec, raw, threshold)


def split_lean(spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float) -> list[Arrays]:
    """The rows that are kept, each with the part of its coarse mask that its box needs.

    The prototypes of an image take 13 MB; what is kept of them here takes at most 0.1 MB an object.

    Returns:
        `bbox` float32 (m, 6): class, score, x0, y0, x1, y1 in pixels of the network's input; `windows` int64 (m, 4): where
        the parts lie, x0, y0, x1, y1 in pixels of the coarse masks; `logits` float32: the parts, one after the other;
        `coarse` int64 (2,): height and width of the whole coarse masks.
    """
    found: list[Arrays] = []
    for index, rows, keep in rows_of_images(spec, outputs, batch, min_score):
        bbox, prototypes, image = outputs[0].reshape(-1, 6)[rows][keep], outputs[3][index], batch[index]
        count, height, width = prototypes.shape
        masks = (outputs[2][rows][keep] @ prototypes.reshape(count, -1)).reshape(-1, height, width)
        grid = CoarseGrid(Size(height, width), image.original)
        windows = windows_of(boxes_in_original(bbox[:, 2:], image.resized, image.original), image.original)
        parts = [grid.cut(mask, window) for mask, window in zip(masks, windows, strict=True)]
        edges = [(w.x0, w.y0, w.x1, w.y1) for w in (part.window for part in parts)]
        found.append(
            {
                "bbox": bbox,
                "windows": np.asarray(edges, dtype=np.int64).reshape(-1, 4),
                "logits": one_after_the_other([part.logits for part in parts]),
                "coarse": np.asarray([height, width], dtype=np.int64),
            }
        )
    return found


def finish_lean(spec: ModelSpec, raw: Raw, threshold: float) -> Instances:
    """Objects of what `split_lean` kept."""
    edges = boxes_in_original(raw.arrays["bbox"][:, 2:], raw.resized, raw.original)

    def masks(keep: np.ndarray) -> list[Rle]:
        coarse = [Window(*ends) for ends in raw.arrays["windows"].tolist()]
        stops = np.cumsum([w.height * w.width for w in coarse])
        grid = CoarseGrid(Size(*raw.arrays["coarse"].tolist()), raw.original)

        def part(i: int) -> CoarsePart:
            shape = (coarse[i].height, coarse[i].width)
            return CoarsePart(coarse[i], raw.arrays["logits"][stops[i] - shape[0] * shape[1] : stops[i]].reshape(shape))

        parts = (part(i) for i in keep.tolist())
        return grid.enlarge_many(zip(parts, windows_of(edges[keep], raw.original), strict=True))

    return finish_boxes(spec, raw, threshold, edges, masks)


PADDLEX = Family(
    name="mask_rtdetr",
    task="instance",
    flavour="paddlex",
    outputs=(("bbox", FLOAT, 2), ("bbox_num", INTEGER, 1), ("mask", INTEGER, 3)),
    inputs=frozenset({"im_shape", "image", "scale_factor"}),
    image_input="image",
    any_batch=False,  # programs exported by PaddleX give all masks of a batch the size of its first image
    split=split_paddlex,
    finish=finish_paddlex,
    arch="DETR",
)
LEAN = Family(
    name="mask_rtdetr",
    task="instance",
    flavour="lean",
    outputs=(("bbox", FLOAT, 2), ("bbox_num", INTEGER, 1), ("embeddings", FLOAT, 2), ("prototypes", FLOAT, 4)),
    inputs=frozenset({"image"}),
    image_input="image",
    any_batch=True,
    split=split_lean,
    finish=finish_lean,
)
