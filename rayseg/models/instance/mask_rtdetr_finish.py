"""From Mask-RT-DETR's queries to objects: the best pairs of query and class, and masks at the size of the image.

Code this follows: PaddleDetection, ppdet/modeling/post_process.py (`DETRPostProcess`), Apache-2.0. As there, a query may
be chosen more than once, for different classes, and nothing is suppressed.
Changed: every image of a batch has masks of its own size (the original gives all the size of the first), and a side of
one pixel sees the middle of the mask instead of its edge.
Masks for whole jobs are made elsewhere, outside the network, from the lean outputs.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from rayseg.models.instance.mask_rtdetr_decoder import FinalQueries, take_rows


def best_objects(found: FinalQueries, *, keep: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The `keep` best pairs of query and class of each image.

    Returns:
        float32 [N, keep, 6]: class, score, x0, y0, x1, y1 in [0, 1] of the input, not clipped; float32 [N, keep, P]:
        mask embeddings. `keep` is smaller where there are fewer pairs.
    """
    queries, classes = found.logits.shape[1:]
    scores, index = paddle.topk(F.sigmoid(found.logits).flatten(1), min(keep, queries * classes), axis=1)
    query = index // classes
    boxes = take_rows(found.boxes, query)
    centre, half = boxes[:, :, :2], 0.5 * boxes[:, :, 2:]
    label = (index % classes).astype(scores.dtype)
    rows = [label.unsqueeze(-1), scores.unsqueeze(-1), centre - half, centre + half]
    return paddle.concat(rows, axis=-1), take_rows(found.embeddings, query)


def original_sizes(im_shape: paddle.Tensor, scale_factor: paddle.Tensor) -> paddle.Tensor:
    """Height and width of the images before resizing, whole numbers: float32 [N, 2]."""
    return paddle.floor(im_shape / scale_factor + 0.5)


def full_size_masks(logits: paddle.Tensor, sizes: paddle.Tensor) -> paddle.Tensor:
    """Enlarge masks to the images, bilinearly, and cut them at 0, which is probability 0.5.

    Enlarging is linear in rows and columns: two products with thin matrices, which may differ from image to image.

    Args:
        logits: float32 [N, K, h, w].
        sizes: float32 [N, 2], height and width of each image.

    Returns:
        int32 [N, K, H, W] of zeros and ones; H and W are the largest of the batch, and what lies right of or below an
        image is 0.
    """
    count, height, width = logits.shape[1:]
    rows = _enlargement(sizes[:, 0], height)
    columns = _enlargement(sizes[:, 1], width)
    wide = paddle.matmul(logits.reshape([0, count * height, width]), columns, transpose_y=True)
    wide = wide.reshape([0, count, height, -1])
    return (paddle.matmul(rows.unsqueeze(1), wide) > 0).astype("int32")


def _enlargement(sizes: paddle.Tensor, count: int) -> paddle.Tensor:
    """What each pixel of the longest image takes from `count` places: sizes [N] -> float32 [N, longest, count].

    Pixel centres are at +0.5, and those before the first place or after the last take it alone. Rows past the end of an
    image are 0.
    """
    pixels = paddle.arange(0, sizes.max(), dtype="float32").unsqueeze(0)
    sizes = sizes.unsqueeze(1)
    at = ((pixels + 0.5) * (count / sizes) - 0.5).clip(0, count - 1)
    share = 1 - (at.unsqueeze(2) - paddle.arange(count, dtype="float32")).abs()
    return F.relu(share) * (pixels < sizes).astype("float32").unsqueeze(2)
