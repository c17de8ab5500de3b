"""From what the heads of the R-CNN family predict to objects: decoding, selection, and masks at the size of the image.

Code this follows: PaddleDetection, ppdet/modeling/layers.py (`RCNNBox`, `MultiClassNMS`) and post_process.py, Apache-2.0.
Changed: everything works on a whole batch at once, without loops or branches, so that one program takes any batch; a
mask is enlarged by two thin matrices, where the original samples a grid of two numbers a pixel and object.
Masks for whole jobs are made elsewhere, outside the network, from the small ones (predict/finish/pasted_masks.py).
"""

from __future__ import annotations

import paddle

from rayseg.models.blocks.box_coding import Weights, clip_boxes, decode_boxes, has_area
from rayseg.models.blocks.ragged import image_of_rows, row_numbers
from rayseg.models.instance.rcnn_heads import Candidates

SCORE_THRESHOLD = 0.05
"""A candidate whose probability is not above it is dropped first."""
IOU_THRESHOLD = 0.5
"""A box that overlaps a better one of its class more than this is dropped."""
MAX_OBJECTS = 100
"""Best boxes of an image that are kept, over all classes."""
MASK_THRESHOLD = 0.5
"""A pixel at or above it belongs to the object."""
PLACEHOLDER = (0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
"""A row that is no object: class 0, score 0, one pixel in the corner."""


def select(
    candidates: Candidates, counts: paddle.Tensor, im_shape: paddle.Tensor, weights: Weights
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Objects of every image, by non-maximum suppression of each class.

    Args:
        candidates: see `Candidates`; R rows, image by image.
        counts: int32 [N], rows of each image.
        im_shape: float32 [N, 2], height and width of each image in the input, without padding.
        weights: of the offsets.

    Returns:
        float32 [M, 6]: class, score, x0, y0, x1, y1 in input pixels, clipped to the image, image by image and class by
        class; int32 [N]: rows of each image. M may be 0.
    """
    scores = candidates.probabilities[:, :-1]
    boxes = decode_boxes(candidates.deltas, candidates.rois, weights)
    boxes = clip_boxes(boxes, paddle.gather(im_shape, image_of_rows(candidates.rois, counts)))
    boxes = boxes.expand([-1, scores.shape[1], 4])
    # The operator is not exposed under a public name. -1: all candidates enter, and no class is background.
    rows, _, found = paddle._C_ops.multiclass_nms3(
        boxes, scores, counts, SCORE_THRESHOLD, -1, MAX_OBJECTS, IOU_THRESHOLD, True, 1.0, -1
    )
    return rows, found


def with_placeholders(rows: paddle.Tensor, counts: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Give each image without objects one row, a `PLACEHOLDER`.

    Args:
        rows: float32 [M, 6], image by image; M may be 0.
        counts: int32 [N].

    Returns:
        float32 [K, 6]; int32 [N], at least 1 each.
    """
    placeholders = paddle.to_tensor([PLACEHOLDER]).expand([counts.shape[0], 6])
    image = paddle.concat([image_of_rows(rows, counts), row_numbers(counts)])
    keep = paddle.concat([row_numbers(rows) >= 0, counts == 0])
    order = paddle.argsort(image, stable=True)
    order = paddle.masked_select(order, paddle.gather(keep, order))
    return paddle.gather(paddle.concat([rows, placeholders]), order), counts.clip(min=1)


def in_original_pixels(
    rows: paddle.Tensor, counts: paddle.Tensor, im_shape: paddle.Tensor, scale_factor: paddle.Tensor
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Objects as PaddleX gives them.

    Args:
        rows: float32 [M, 6], boxes in input pixels.
        counts: int32 [N], rows of each image.
        im_shape: float32 [N, 2], height and width after resizing.
        scale_factor: float32 [N, 2], resized / original.

    Returns:
        float32 [M, 6], boxes in original pixels, clipped; class -1 where clipping leaves nothing. int32 [M, 2]: height
        and width of the original image of each row.
    """
    image = image_of_rows(rows, counts)
    sizes = paddle.gather(paddle.floor(im_shape / scale_factor + 0.5), image)
    boxes = clip_boxes(rows[:, 2:] / paddle.gather(scale_factor, image).flip(1).tile([1, 2]), sizes)
    real = has_area(boxes).astype("float32").unsqueeze(1)
    labels = rows[:, :1] * real + (real - 1)
    return paddle.concat([labels, rows[:, 1:2], boxes], axis=1), sizes.astype("int32")


def paste_masks(probabilities: paddle.Tensor, boxes: paddle.Tensor, sizes: paddle.Tensor) -> paddle.Tensor:
    """Small masks enlarged to their boxes, on canvases of one size for all images.

    A pixel's value is the bilinear mean of the four cells around its centre; beyond the border of the mask cells are 0.

    Args:
        probabilities: float32 [M, s, s]; M >= 1.
        boxes: float32 [M, 4] in original pixels.
        sizes: int32 [M, 2], height and width of the image of each row.

    Returns:
        int32 [M, H, W], H and W those of the largest image: 1 for the object, 0 for the rest of its image, -1 outside
        of it.
    """
    height, width = sizes[:, 0].max(), sizes[:, 1].max()
    ys, xs = (paddle.arange(end).astype("float32") for end in (height, width))
    side = probabilities.shape[-1]
    rows = _shares(ys, boxes[:, 1:2], boxes[:, 3:4], side)
    columns = _shares(xs, boxes[:, 0:1], boxes[:, 2:3], side)
    soft = paddle.bmm(paddle.bmm(rows, probabilities), columns.transpose([0, 2, 1]))
    real = sizes.astype("float32")
    inside = (ys < real[:, :1]).unsqueeze(2) & (xs < real[:, 1:]).unsqueeze(1)
    # 1 and 0 inside; outside, where no mask reaches, 0 becomes -1
    return (soft >= MASK_THRESHOLD).astype("int32") * inside.astype("int32") + inside.astype("int32") - 1


def _shares(pixels: paddle.Tensor, start: paddle.Tensor, stop: paddle.Tensor, side: int) -> paddle.Tensor:
    """How much of each of `side` cells between start and stop a pixel takes: [P], [M, 1], [M, 1] -> [M, P, side]."""
    length = (stop - start).clip(min=1e-6)
    # In the order in which the original rounds: to [-1, 1] first, then to cells.
    unit = (pixels.unsqueeze(0) + 0.5 - start) / length * 2 - 1
    cell = ((unit + 1) * side - 1) / 2
    cells = paddle.arange(side, dtype="float32")
    return (1 - (cell.unsqueeze(2) - cells).abs()).clip(min=0.0)
