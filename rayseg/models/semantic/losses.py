"""Losses of semantic networks: logits and a label map in, scalars out."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F

from rayseg.models.normalise import over_workers


def head_losses(heads: Sequence[paddle.Tensor], labels: paddle.Tensor, *, weights: Sequence[float]) -> dict[str, paddle.Tensor]:
    """The cross-entropy of each head times its weight, `loss_0` first, and `loss`, their sum.

    Args:
        heads: logits float32 [N, C, H, W], at the size of the labels.
        labels: see `cross_entropy`.
        weights: one a head.
    """
    weighted = [weight * cross_entropy(logits, labels) for logits, weight in zip(heads, weights, strict=True)]
    return {**{f"loss_{k}": loss for k, loss in enumerate(weighted)}, "loss": paddle.add_n(weighted)}


def cross_entropy(logits: paddle.Tensor, labels: paddle.Tensor, *, ignore_index: int = 255) -> paddle.Tensor:
    """Mean of -log softmax over the labelled pixels of the whole batch; 0 where no pixel is labelled.

    Args:
        logits: float32 [N, C, H, W].
        labels: integer [N, H, W], classes 0 to C - 1 or `ignore_index`.

    Returns:
        float32 scalar. The count of pixels is guarded by 1e-8 as in PaddleSeg, whose numbers it equals.
    """
    labels = labels.astype("int64")
    per_pixel = F.cross_entropy(logits, labels.unsqueeze(1), axis=1, ignore_index=ignore_index, reduction="none")
    labelled = (labels != ignore_index).astype(per_pixel.dtype)
    return (per_pixel.squeeze(1) * labelled).mean() / (over_workers(labelled.mean()) + 1e-8)
