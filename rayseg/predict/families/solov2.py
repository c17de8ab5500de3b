"""SOLOv2: classes, scores and masks; no boxes, which are made from the masks.

An object is kept when its score is not below the threshold, where all other families want more than the threshold;
that is how PaddleX does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rayseg import rle
from rayseg.errors import BackendError
from rayseg.geometry import Size, Window
from rayseg.predict.families.family import Arrays, Family, check_finite, one_after_the_other
from rayseg.predict.families.full_masks import finish_full_masks
from rayseg.predict.finish.instance import check_classes
from rayseg.predict.finish.solov2_masks import STRIDE, SoftMask, cut_soft_mask, enlarge_soft_mask, extent, to_size
from rayseg.predict.prepare import Prepared
from rayseg.predict.program import FLOAT, INTEGER
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances


def split_paddlex(spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float) -> list[Arrays]:
    """The objects of the one image, without the made-up ones of score 0 that every such program appends.

    The program computes the width of its masks with the factor of the height, so it may differ from the image's by a
    pixel, in long narrow images by many: such masks are brought to the right size.

    Returns:
        As `split_full_masks`; a box is the smallest one around the object's pixels.
    """
    check_finite(spec, outputs)
    count, classes, scores, masks = outputs
    if not len(batch) == 1 or not int(count.reshape(-1)[0]) == len(classes) == len(scores) == len(masks):
        raise BackendError(
            f"{spec.name} gave {len(classes)} classes, {len(scores)} scores and {len(masks)} masks, counted as "
            f"{count.tolist()}, for {len(batch)} images"
        )
    original = batch[0].original
    windows, bits, keep = [], [np.empty(0, np.uint8)], _kept(scores, min_score)
    for index in keep.tolist():
        mask = to_size(masks[index], original) > 0
        windows.append(extent(mask))
        bits.append(np.packbits(mask[windows[-1].slices]))
    edges = np.asarray([(w.x0, w.y0, w.x1, w.y1) for w in windows], dtype=np.int64).reshape(-1, 4)
    head = np.stack([classes[keep], _at_most_one(scores[keep])], axis=1).astype(np.float32)
    bbox = np.concatenate([head, edges.astype(np.float32)], axis=1)
    return [{"bbox": bbox, "windows": edges, "bits": np.concatenate(bits)}]


def finish_paddlex(spec: ModelSpec, raw: Raw, threshold: float) -> Instances:
    """Objects of what `split_paddlex` kept."""
    return finish_full_masks(spec, raw, float(np.nextafter(np.float32(threshold), np.float32(-1))))


def split_lean(spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], min_score: float) -> list[Arrays]:
    """The rows that are kept, each with the part of its soft mask that matters.

    Returns:
        `rows` float32 (m, 2): class and score; `windows` int64 (m, 4): where the parts lie, x0, y0, x1, y1 in pixels of
        the soft masks; `soft` float32: the parts, one after the other.
    """
    check_finite(spec, outputs)
    rows, counts, masks = outputs
    if len(counts) != len(batch) or counts.min() < 0 or counts.sum() != len(rows) or len(masks) != len(rows):
        raise BackendError(
            f"{spec.name} gave {len(rows)} objects and {len(masks)} masks counted as {counts.tolist()} for {len(batch)} images"
        )
    found: list[Arrays] = []
    start = 0
    for count in counts.tolist():
        keep = start + _kept(rows[start : start + count, 1], min_score)
        parts = [cut_soft_mask(masks[i]) for i in keep.tolist()]
        edges = [(w.x0, w.y0, w.x1, w.y1) for w in (part.window for part in parts)]
        found.append(
            {
                "rows": np.stack([rows[keep, 0], _at_most_one(rows[keep, 1])], axis=1),
                "windows": np.asarray(edges, dtype=np.int64).reshape(-1, 4),
                "soft": one_after_the_other([part.soft for part in parts]),
            }
        )
        start += count
    return found


def finish_lean(spec: ModelSpec, raw: Raw, threshold: float) -> Instances:
    """Objects of what `split_lean` kept; those that have no pixel at the image's own size are dropped."""
    rows, windows = raw.arrays["rows"], [Window(*edges) for edges in raw.arrays["windows"].tolist()]
    ends = np.cumsum([w.height * w.width for w in windows])
    soft_size = Size(raw.network.height // STRIDE, raw.network.width // STRIDE)
    kept, boxes = [], []

    def enlarged() -> Iterator[tuple[np.ndarray, Window]]:
        for i in _kept(rows[:, 1], threshold).tolist():
            height, width = windows[i].height, windows[i].width
            soft = raw.arrays["soft"][ends[i] - height * width : ends[i]].reshape(height, width)
            box, pixels = enlarge_soft_mask(SoftMask(windows[i], soft), soft_size, raw.resized, raw.original)
            if not box.empty:
                kept.append(i)
                boxes.append((box.x0, box.y0, box.x1, box.y1))
                yield pixels, box

    masks = rle.encode_many(enlarged(), raw.original)
    class_ids = rows[kept, 0].astype(np.int32)
    check_classes(spec, class_ids)
    return Instances(raw.original, np.asarray(boxes, dtype=np.float32).reshape(-1, 4), rows[kept, 1], class_ids, tuple(masks))


def _kept(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Index of the scores that are not below the threshold; 0 is that of a made-up object."""
    return np.flatnonzero((scores >= np.float32(threshold)) & (scores > 0))


def _at_most_one(scores: np.ndarray) -> np.ndarray:
    """Scores are multiplied with a mean of probabilities, which may exceed 1 by a last bit."""
    return np.minimum(scores, 1)


PADDLEX = Family(
    name="solov2",
    task="instance",
    flavour="paddlex",
    outputs=(("bbox_num", INTEGER, 0), ("cate_label", INTEGER, 1), ("cate_score", FLOAT, 1), ("segm", INTEGER, 3)),
    inputs=frozenset({"im_shape", "image", "scale_factor"}),
    image_input="image",
    any_batch=False,
    split=split_paddlex,
    finish=finish_paddlex,
    arch="SOLOv2",
)
LEAN = Family(
    name="solov2",
    task="instance",
    flavour="lean",
    outputs=(("rows", FLOAT, 2), ("count", INTEGER, 1), ("masks", FLOAT, 3)),
    inputs=frozenset({"image"}),
    image_input="image",
    any_batch=True,
    split=split_lean,
    finish=finish_lean,
)
