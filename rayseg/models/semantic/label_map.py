"""The label map of an image from scores at a lower resolution, without the scores of all classes at full size."""

from __future__ import annotations

import paddle

from rayseg.models.network import LABELS_IN_A_BYTE
from rayseg.models.semantic.layers import resize_like


def resized_argmax(scores: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
    """`argmax(resize_like(scores, like), axis=1)`, one class after the other.

    150 classes of a picture of 4000 x 4000 are 9.6 GB of scores; here it is the best score so far and that of one class. It
    is not slower either.

    Args:
        scores: float32 [N, C, h, w].
        like: [N, ..., H, W].

    Returns:
        [N, H, W], uint8 up to 256 classes, int32 above; the first of equal classes.
    """
    best = resize_like(scores[:, :1], like)
    label = (best > best).astype("int32")  # zeros: `zeros_like` and `where` warn while exporting
    for index in range(1, scores.shape[1]):
        score = resize_like(scores[:, index : index + 1], like)
        label = paddle.maximum(label, (score > best).astype("int32") * index)  # a later class has the greater number
        best = paddle.maximum(best, score)
    label = label.squeeze(1)
    return label.astype("uint8") if scores.shape[1] <= LABELS_IN_A_BYTE else label
