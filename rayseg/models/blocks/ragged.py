"""Rows of several images in one tensor: image by image, with a count for each image.

This is how operators that find a different number of things in every image give and take them. No function here
branches on a number found at run time, so all of them can be exported for any batch.
"""

from __future__ import annotations

import paddle


def row_numbers(rows: paddle.Tensor) -> paddle.Tensor:
    """0, 1, 2, ... for the first axis: [M, ...] -> int64 [M]."""
    return paddle.arange(rows.shape[0], dtype="int64")


def image_of_rows(rows: paddle.Tensor, counts: paddle.Tensor) -> paddle.Tensor:
    """Which image each row belongs to.

    Args:
        rows: [M, ...]; only M matters, it may be 0.
        counts: integer [N], rows of each image.

    Returns:
        int64 [M].
    """
    ends = paddle.cumsum(counts.astype("int64"))
    return (row_numbers(rows).unsqueeze(1) >= ends.unsqueeze(0)).astype("int64").sum(1)


def best_rows(
    scores: paddle.Tensor, image: paddle.Tensor, counts: paddle.Tensor, *, keep: int
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The best rows of every image, whatever the other images have.

    Args:
        scores: float32 [M].
        image: int64 [M], the image of each row, in any order.
        counts: integer [N], rows of each image.
        keep: at most so many rows an image.

    Returns:
        int64 [K]: the rows that stay, image by image. Best first where some had to go, otherwise in the order given;
        int32 [N]: how many of each image.
    """
    counts = counts.astype("int64")
    place = row_numbers(scores)
    crowded = paddle.gather(counts, image) > keep
    key = paddle.where(crowded, scores, -place.astype("float32"))
    order = paddle.argsort(key, descending=True, stable=True)
    order = paddle.gather(order, paddle.argsort(paddle.gather(image, order), stable=True))
    starts = paddle.cumsum(counts) - counts
    rank = place - paddle.gather(starts, paddle.gather(image, order))
    return paddle.masked_select(order, rank < keep), counts.clip(max=keep).astype("int32")
