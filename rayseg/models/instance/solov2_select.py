"""From the maps of SOLOv2 to the objects of each image: peaks, masks at a quarter of the size, and matrix NMS.

Paper: Wang et al., "SOLOv2", NeurIPS 2020 (https://arxiv.org/abs/2003.10152), section 3.3. Code: PaddleDetection,
ppdet/modeling/heads/solov2_head.py and MaskMatrixNMS in ppdet/modeling/layers.py, Apache-2.0.
Changed: any batch, every image by itself; at most `candidates` masks are computed for an image, where the original
computes one for every class of every cell above the threshold, thousands with weights that have not settled; nothing
found is no row instead of a made-up one.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F

MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class MatrixNms:
    """How objects are selected."""

    score_threshold: float = 0.1
    """A class of a cell with at most this score is no candidate."""
    candidates: int = 1000
    """Masks are computed for so many at most, those of the best class scores."""
    before: int = 500
    """So many at most, those of the best scores, lower each other's."""
    sigma: float = 2.0
    """Of the Gaussian by which overlap lowers a score."""
    final_threshold: float = 0.05
    """An object whose lowered score is less is dropped."""
    keep: int = 100
    """Objects of one image."""


@dataclass(frozen=True)
class Found:
    """Objects of all images, image by image, the best first.

    Attributes:
        classes: int64 [M]; M may be 0.
        scores: float32 [M].
        masks: float32 [M, h, w], probabilities at a quarter of the input's size.
        count: int32 [N], rows of each image.
    """

    classes: paddle.Tensor
    scores: paddle.Tensor
    masks: paddle.Tensor
    count: paddle.Tensor


def select(
    peaks: paddle.Tensor,
    kernels: paddle.Tensor,
    features: paddle.Tensor,
    smallest: paddle.Tensor,
    nms: MatrixNms,
) -> Found:
    """Objects of a batch.

    Args:
        peaks: float32 [N, L, C], scores of the classes in every cell, 0 beside a peak.
        kernels: float32 [N, L, E].
        features: float32 [N, E, h, w].
        smallest: float32 [L]; a mask must have more pixels than its cell says here.
        nms: the settings.
    """
    height, width = features.shape[2], features.shape[3]
    scores, cell, label = _candidates(peaks, nms)
    soft = F.sigmoid(paddle.bmm(_rows(kernels, cell), features.flatten(2)))
    hard = (soft > MASK_THRESHOLD).astype("float32")
    area = hard.sum(2)
    real = (scores > nms.score_threshold) & (area > paddle.gather(smallest, cell.flatten()).reshape(area.shape))
    sure = (soft * hard).sum(2) / area.clip(min=1)
    scores = scores * sure * real.astype("float32")

    scores, best = paddle.topk(scores, k=paddle.shape(scores)[1].clip(max=nms.before), axis=1)
    soft, label = _rows(soft, best), paddle.take_along_axis(label, best, axis=1)
    scores = scores * _decay((soft > MASK_THRESHOLD).astype("float32"), label, nms.sigma)

    scores, best = paddle.topk(scores, k=nms.keep, axis=1)
    soft, label = _rows(soft, best), paddle.take_along_axis(label, best, axis=1)
    kept = scores >= nms.final_threshold
    rows = paddle.nonzero(kept.flatten()).flatten()
    return Found(
        classes=paddle.gather(label.flatten(), rows),
        scores=paddle.gather(scores.flatten(), rows),
        masks=paddle.gather(soft.flatten(0, 1), rows).reshape([-1, height, width]),
        count=kept.astype("int32").sum(1).astype("int32"),
    )


def peaks_of(logits: paddle.Tensor) -> paddle.Tensor:
    """Scores, but 0 where the cell itself, the one above, at the left or above left of it has a higher one of that class.

    float32 [N, C, S, S] -> float32 [N, S * S, C].
    """
    scores = F.sigmoid(logits)
    highest = F.max_pool2d(scores, kernel_size=2, stride=1, padding=1)[:, :, :-1, :-1]
    return (scores * (highest == scores).astype("float32")).flatten(2).transpose([0, 2, 1])


def _candidates(peaks: paddle.Tensor, nms: MatrixNms) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """The best class scores of each image with cell and class, [N, K] each.

    K is what the fullest image of the batch needs, so that few objects cost little; rows beyond what an image has
    itself are not above the threshold.
    """
    num_classes = peaks.shape[2]
    flat = peaks.flatten(1)
    count = (flat > nms.score_threshold).astype("int64").sum(1).max().clip(min=nms.keep, max=nms.candidates)
    scores, index = paddle.topk(flat, k=count, axis=1)
    return scores, index // num_classes, index % num_classes


def _decay(hard: paddle.Tensor, label: paddle.Tensor, sigma: float) -> paddle.Tensor:
    """What each score is multiplied with, [N, K]: equation 4 of the paper with a Gaussian.

    Args:
        hard: float32 [N, K, h * w] of zeros and ones, the best object first.
        label: int64 [N, K].
        sigma: of the Gaussian.
    """
    area = hard.sum(2)
    both = paddle.bmm(hard, hard.transpose([0, 2, 1]))
    either = (area.unsqueeze(2) + area.unsqueeze(1) - both).clip(min=1)
    same = (label.unsqueeze(2) == label.unsqueeze(1)).astype("float32")
    overlap = paddle.triu(both / either * same, diagonal=1)
    worst = overlap.max(1, keepdim=True).transpose([0, 2, 1])
    return paddle.exp(sigma * (worst.square() - overlap.square())).min(1)


def _rows(x: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """Rows of each image by its own index: [N, K, D] and int64 [N, J] -> [N, J, D]."""
    images, rows, numbers = x.shape[0], x.shape[1], x.shape[2]
    # Not by unsqueeze: oneDNN programs of Paddle 3.3 lose the axis it adds to a product.
    first = paddle.arange(images).reshape([-1, 1]) * rows
    return paddle.gather(x.flatten(0, 1), (index + first).flatten()).reshape([images, -1, numbers])
