"""Programs of PaddleX that give each object's mask at the size of the image: what is kept, and how it is finished.

Of each mask only the part inside the object's box is kept, eight pixels a byte; PaddleX looks at no more either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayseg import rle
from rayseg.geometry import Box, Size, Window
from rayseg.predict.families.family import Arrays, rows_of_images
from rayseg.predict.finish.instance import clip_boxes, finish_boxes
from rayseg.predict.prepare import Prepared
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances
from rayseg.rle import Rle


def split_full_masks(spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float) -> list[Arrays]:
    """`bbox`, `bbox_num` and `mask` (rows, H, W), of which positive values belong to the object.

    Returns:
        `bbox` float32 (m, 6) with edges in original pixels; `windows` int64 (m, 4), the boxes as x0, y0, x1, y1 in
        whole pixels, no larger than the mask the program gave; `bits` uint8, the masks inside them, packed one after
        the other, each beginning with a byte of its own.
    """
    found = []
    for index, rows, keep in rows_of_images(spec, outputs, batch, min_score):
        bbox, masks, original = outputs[0].reshape(-1, 6)[rows][keep], outputs[2][rows], batch[index].original
        made = Size(min(masks.shape[1], original.height), min(masks.shape[2], original.width)) if len(keep) else None
        windows = [
            Box(*edges).rounded_window().clip(made) if made else Window(0, 0, 0, 0)
            for edges in _ordered(clip_boxes(bbox[:, 2:], original)).tolist()
        ]
        bits = [np.packbits(masks[i][w.slices] > 0) for i, w in zip(keep, windows, strict=True)]
        found.append(
            {
                "bbox": bbox,
                "windows": np.asarray([(w.x0, w.y0, w.x1, w.y1) for w in windows], dtype=np.int64).reshape(-1, 4),
                "bits": np.concatenate([np.empty(0, np.uint8), *bits]),
            }
        )
    return found


def finish_full_masks(spec: ModelSpec, raw: Raw, threshold: float) -> Instances:
    """Objects of what `split_full_masks` kept."""
    windows = [Window(*edges) for edges in raw.arrays["windows"].tolist()]
    areas = np.asarray([w.height * w.width for w in windows], dtype=np.int64)
    ends = np.cumsum(-(-areas // 8))

    def inside(i: int) -> np.ndarray:
        packed = raw.arrays["bits"][ends[i] - -(-areas[i] // 8) : ends[i]]
        return np.unpackbits(packed, count=int(areas[i])).reshape(windows[i].height, windows[i].width)

    def masks(keep: np.ndarray) -> list[Rle]:
        return rle.encode_many(((inside(i), windows[i]) for i in keep.tolist()), raw.original)

    return finish_boxes(spec, raw, threshold, raw.arrays["bbox"][:, 2:], masks)


def _ordered(boxes: np.ndarray) -> np.ndarray:
    """Reversed boxes, which are no objects, made empty."""
    return np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:], boxes[:, :2])], axis=1)
