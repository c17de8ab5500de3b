"""From the head's predictions to objects: non-maximum suppression, and masks from prototypes.

Code this follows: PaddleDetection, ppdet/modeling/heads/ppyoloe_ins_head.py (`post_process`), Apache-2.0.
Changed: no branch when nothing is found (a zero row is appended and cut off again, so that exported programs have no
control flow); the image's size is rounded, where the original truncates 599.99997 to 599.
Masks for whole jobs are made elsewhere, outside the network, from the lean outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F


@dataclass(frozen=True)
class Nms:
    """Multi-class non-maximum suppression; defaults are those of the published model."""

    score_threshold: float = 0.01
    """Anchors and classes below it are dropped first."""
    iou_threshold: float = 0.7
    """A box that overlaps a better one of its class more than this is dropped."""
    before: int = 1000
    """Best boxes of each class that enter."""
    keep: int = 300
    """Best boxes of an image that leave, over all classes."""

    def __call__(self, boxes: paddle.Tensor, scores: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Suppress.

        Args:
            boxes: float32 [N, A, 4], xyxy.
            scores: float32 [N, C, A].

        Returns:
            rows float32 [M, 6] (class, score, x0, y0, x1, y1), image by image; int64 [M], their index into the N * A
            boxes; int32 [N], rows of each image. M may be 0.
        """
        # The operator is not exposed under a public name; None: all images have the same number of boxes.
        rows, index, count = paddle._C_ops.multiclass_nms3(
            boxes, scores, None, self.score_threshold, self.before, self.keep, self.iou_threshold, True, 1.0, -1
        )
        return rows, index.flatten().astype("int64"), count


def masks_of_one_image(
    rows: paddle.Tensor,
    coefficients: paddle.Tensor,
    prototypes: paddle.Tensor,
    im_shape: paddle.Tensor,
    scale_factor: paddle.Tensor,
    *,
    input_hw: tuple[int, int],
    threshold: float = 0.5,
    truncate_size: bool = False,
) -> paddle.Tensor:
    """Full-size masks of the objects of one image.

    Prototypes are combined, squashed, resized to the input, cut to the box, resized to the original image and compared
    with the threshold, in this order.

    Args:
        rows: float32 [M, 6], boxes in input pixels; M >= 1.
        coefficients: float32 [M, P].
        prototypes: float32 [P, h, w].
        im_shape: float32 [2], height and width of the resized image.
        scale_factor: float32 [2], resized / original, height and width.
        input_hw: of the network.
        threshold: probabilities above it belong to the object.
        truncate_size: compute the original size as the reference does, cutting off what should be rounded.

    Returns:
        float32 [M, H, W] of zeros and ones at the original size.
    """
    height, width = prototypes.shape[-2:]
    masks = F.sigmoid(coefficients @ prototypes.flatten(1)).reshape([1, -1, height, width])
    masks = F.interpolate(masks, size=list(input_hw), mode="bilinear", align_corners=False)
    masks = masks * _inside(rows[:, 2:6], *input_hw).astype(masks.dtype)
    resized = paddle.round(paddle.to_tensor(input_hw, dtype="float32") / scale_factor).astype("int32")
    original = (im_shape / scale_factor + (0.0 if truncate_size else 0.5)).floor().astype("int32")
    masks = F.interpolate(masks, size=[resized[0], resized[1]], mode="bilinear", align_corners=False)
    masks = masks[0, :, : original[0], : original[1]]
    return (masks > threshold).astype("float32")


def _inside(boxes: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """True where a pixel's index lies in [x0, x1) and [y0, y1): [M, 4] -> bool [M, height, width]."""
    x0, y0, x1, y1 = (boxes[:, i].reshape([-1, 1, 1]) for i in range(4))
    xs = paddle.arange(width, dtype="float32")
    ys = paddle.arange(height, dtype="float32").unsqueeze(-1)
    return (xs >= x0) & (xs < x1) & (ys >= y0) & (ys < y1)
