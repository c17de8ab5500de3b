"""Denoising queries: true objects with wrong classes and shaken boxes, which the decoder learns to put right.

Papers: Li et al., "DN-DETR: Accelerate DETR Training by Introducing Query DeNoising", CVPR 2022
(https://arxiv.org/abs/2203.01305), section 4; Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection" (RT-DETR),
CVPR 2024 (https://arxiv.org/abs/2304.08069). Code: PaddleDetection, ppdet/modeling/transformers/utils.py, Apache-2.0.
Mask-RT-DETR takes the plain groups of DN-DETR, without the negative copies that RT-DETR adds.
Kept on purpose: images with fewer objects than the fullest one are filled up with queries of class "none" and box 0,
which the others of their group can see and which learn to be background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F

from rayseg.models.blocks.points import Rand
from rayseg.models.instance.mask_rtdetr_boxes import inverse_sigmoid
from rayseg.models.instance.mask_rtdetr_decoder import Denoising
from rayseg.models.instance.mask_rtdetr_truth import Pairs, Truth


@dataclass(frozen=True)
class DenoisingGroups:
    """Groups of denoising queries; a group holds every object of the fullest image once.

    Attributes:
        inputs: what the network takes.
        pairs: which denoising query stands for which object; counted among the denoising queries alone.
        groups: how often each object stands there.
    """

    inputs: Denoising
    pairs: Pairs
    groups: int

    @property
    def per_image(self) -> int:
        """Denoising queries of an image, those that fill up included."""
        return int(self.inputs.boxes.shape[1])


def denoising_groups(
    truth: Truth,
    class_embedding: paddle.Tensor,
    *,
    num_queries: int,
    rand: Rand,
    num_denoising: int = 100,
    label_noise: float = 0.5,
    box_noise: float = 1.0,
) -> DenoisingGroups | None:
    """Make the queries, at least one group however many objects there are.

    Args:
        truth: objects of N images.
        class_embedding: float32 [C, D], trained through the queries.
        num_queries: ordinary queries, which come after these.
        rand: the random source.
        num_denoising: queries of an image; rounded down to whole groups.
        label_noise: half of this share of the classes is drawn anew (and may be right by chance).
        box_noise: 1 moves a centre by up to half a side and a side by up to its length.

    Returns:
        None without objects or when none are wanted.
    """
    if num_denoising < 1 or truth.total == 0:
        return None
    images, fullest = len(truth.counts), truth.fullest
    groups = max(num_denoising // fullest, 1)
    pairs = _pairs(truth, groups)
    padded = images * groups * fullest

    labels = paddle.full([padded], class_embedding.shape[0], dtype="int64")
    labels = paddle.scatter(labels, pairs.queries, paddle.gather(truth.classes, pairs.objects))
    labels = _relabelled(labels, pairs, num_classes=int(class_embedding.shape[0]), share=label_noise / 2, rand=rand)
    boxes = paddle.scatter(paddle.zeros([padded, 4]), pairs.queries, paddle.gather(truth.boxes, pairs.objects))
    boxes = _shaken(boxes.reshape([images, -1, 4]), box_noise, rand)

    with_none = paddle.concat([class_embedding, paddle.zeros([1, class_embedding.shape[1]])])
    return DenoisingGroups(
        inputs=Denoising(
            queries=F.embedding(labels.reshape([images, -1]), with_none),
            boxes=inverse_sigmoid(boxes),
            attention=paddle.to_tensor(attention_mask(groups, fullest, num_queries)),
        ),
        pairs=pairs,
        groups=groups,
    )


def attention_mask(groups: int, size: int, num_queries: int) -> np.ndarray:
    """Who may look at whom: bool [all, all], rows look at columns, denoising queries come first.

    A group sees itself and the ordinary queries; ordinary queries, which must find the objects without being told, see
    only each other.
    """
    group = np.concatenate([np.repeat(np.arange(groups), size), np.full(num_queries, -1)])
    return (group[:, None] == group) | (group == -1)


def _pairs(truth: Truth, groups: int) -> Pairs:
    """Image by image, group by group, object by object."""
    queries, objects = [], []
    for image, (start, count) in enumerate(zip(truth.starts(), truth.counts, strict=True)):
        for group in range(groups):
            queries.append((image * groups + group) * truth.fullest + np.arange(count))
            objects.append(start + np.arange(count))
    return Pairs(paddle.to_tensor(np.concatenate(queries)), paddle.to_tensor(np.concatenate(objects)))


def _relabelled(labels: paddle.Tensor, pairs: Pairs, *, num_classes: int, share: float, rand: Rand) -> paddle.Tensor:
    """Draw some labels of objects anew: [L] -> [L]."""
    drawn = rand([int(labels.shape[0])]) < share
    chosen = pairs.queries[paddle.gather(drawn, pairs.queries)]
    if chosen.shape[0] == 0:
        return labels
    new = (rand([int(chosen.shape[0])]) * num_classes).floor().astype("int64")
    return paddle.scatter(labels, chosen, new)


def _shaken(boxes: paddle.Tensor, noise: float, rand: Rand) -> paddle.Tensor:
    """Move centres and change sides, both in proportion to the sides: [N, L, 4] -> [N, L, 4]."""
    sides = boxes[..., 2:]
    reach = paddle.concat([sides * 0.5, sides], axis=-1) * noise
    return boxes + reach * (rand(boxes.shape) * 2.0 - 1.0)
