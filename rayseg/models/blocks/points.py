"""Masks read at points instead of pixels: bilinear sampling, and points where a mask is undecided.

Paper: Kirillov et al., "PointRend: Image Segmentation as Rendering", CVPR 2020 (https://arxiv.org/abs/1912.08193),
section 3.1 for the choice of points in training.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
import paddle.nn.functional as F

Rand = Callable[[list[int]], paddle.Tensor]
"""Makes uniform float32 numbers in [0, 1) of a given shape; `paddle.rand` is one."""


def at_points(maps: paddle.Tensor, points: paddle.Tensor) -> paddle.Tensor:
    """Read every map of a group at the group's points, bilinearly; beyond the border is 0.

    Args:
        maps: float32 [M, K, h, w].
        points: float32 [M, P, 2], x and y as shares of width and height: (0, 0) is the corner of the first pixel, not
            its centre.

    Returns:
        float32 [M, K, P].
    """
    return F.grid_sample(maps, 2.0 * points.unsqueeze(1) - 1.0, align_corners=False).squeeze(2)


@paddle.no_grad()
def undecided_points(
    logits: paddle.Tensor, count: int, *, rand: Rand, oversample: float = 3.0, share: float = 0.75
) -> paddle.Tensor:
    """Points to train masks at: of many random ones those with logits nearest 0, and some more without choosing.

    Args:
        logits: float32 [M, h, w], M at least 1.
        count: points for each mask, P.
        rand: the random source.
        oversample: how many random points there are to choose from, in units of `count`.
        share: of the points that are chosen.

    Returns:
        float32 [M, P, 2], x and y as in `at_points`.
    """
    masks = int(logits.shape[0])
    chosen = int(count * share)
    candidates = rand([masks, 1, int(count * oversample), 2]).squeeze(1)
    doubt = -at_points(logits.unsqueeze(1), candidates).squeeze(1).abs()
    _, nearest = paddle.topk(doubt, chosen, axis=1, sorted=False)
    points = paddle.take_along_axis(candidates, nearest.unsqueeze(-1), axis=1, broadcast=True)
    return paddle.concat([points, rand([masks, count - chosen, 2])], axis=1) if count > chosen else points
