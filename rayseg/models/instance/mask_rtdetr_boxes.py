"""Where the boxes of Mask-RT-DETR start: around every place of the maps, and around masks.

Code this follows: PaddleDetection, ppdet/modeling/transformers/mask_rtdetr_transformer.py (`_generate_anchors`) and
utils.py (`mask_to_box_coordinate`, `inverse_sigmoid`), Apache-2.0.
Changed: x is divided by the width of a map and y by its height (the original has them the wrong way round, which squares
do not show); the box of a mask is found from its rows and columns instead of from all of its pixels, with the same
result; places that are not used have a finite box.
"""

from __future__ import annotations

import paddle

FIRST_SIDE = 0.05
"""Side of the first boxes on the finest level, of the image; twice as much on each coarser one."""
EDGE = 0.01
"""First boxes whose centre is nearer to the image's edge than this are not used."""
FAR = 1e4
"""Whose sigmoid is 1: stands for the first boxes that are not used."""


def inverse_sigmoid(x: paddle.Tensor, *, eps: float = 1e-5) -> paddle.Tensor:
    """log(x / (1 - x)) for x in [0, 1], each of the two at least `eps`; what lies outside is moved to the edge first."""
    x = x.clip(0.0, 1.0)
    return paddle.log(x.clip(min=eps) / (1 - x).clip(min=eps))


def first_boxes(sizes: list[tuple[int, int]]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """A small box around every place of every map, larger on coarser maps.

    Returns:
        float32 [1, L, 4]: centre x and y, width, height before the sigmoid, `FAR` where not usable; bool [1, L, 1].
    """
    found = []
    for level, (height, width) in enumerate(sizes):
        xs = ((paddle.arange(width, dtype="float32") + 0.5) / width).unsqueeze(0).tile([height, 1])
        ys = ((paddle.arange(height, dtype="float32") + 0.5) / height).unsqueeze(1).tile([1, width])
        side = paddle.full([height, width], FIRST_SIDE * 2.0**level)
        found.append(paddle.stack([xs, ys, side, side], axis=-1).reshape([1, height * width, 4]))
    boxes = paddle.concat(found, axis=1)
    usable = ((boxes > EDGE) & (boxes < 1 - EDGE)).all(-1, keepdim=True)
    inside = usable.astype("float32")
    return paddle.log(boxes / (1 - boxes)) * inside + FAR * (1 - inside), usable


def boxes_of_masks(logits: paddle.Tensor) -> paddle.Tensor:
    """The box around the positive pixels of each mask: [N, Q, h, w] -> [N, Q, 4]; no gradient.

    Returns:
        Centre x and y, width, height in [0, 1]; zeros where no pixel is positive.
    """
    logits = logits.detach()
    x0, x1 = _extent(logits.max(axis=2) > 0)
    y0, y1 = _extent(logits.max(axis=3) > 0)
    return paddle.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=-1)


def _extent(set_: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """First place that is set and the end of the last, as shares of the whole: bool [N, Q, n] -> two [N, Q], 0 if none."""
    count = set_.shape[-1]
    places, inside = paddle.arange(count, dtype="float32"), set_.astype("float32")
    # Counted from the other end, so that nothing found is 0 on both sides.
    stop = (inside * (places + 1)).max(-1)
    start = (count - (inside * (count - places)).max(-1)) * (stop > 0).astype("float32")
    return start / count, stop / count
