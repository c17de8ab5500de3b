"""The training loss of Mask-RT-DETR: class, box and mask terms of every stage, for matched and for denoising queries.

Papers: Zhang et al., "VarifocalNet", CVPR 2021 (https://arxiv.org/abs/2008.13367), equation 2, for the class term;
Carion et al., "DETR", ECCV 2020, for the boxes; Li et al., "Mask DINO", CVPR 2023 (https://arxiv.org/abs/2206.02777),
section 3.4, for masks compared at points, chosen as in Kirillov et al., "PointRend", CVPR 2020. Code: PaddleDetection,
ppdet/modeling/losses/detr_loss.py and heads/detr_head.py, Apache-2.0.
Kept on purpose: the last stage learns how well its mask fits (the overlap of masks), all earlier ones how well their box
does; the weight of the varifocal term is not cut out of the gradient.
Changed: a batch without objects has a finite loss that still reaches every parameter; masks may come at any size, as
bytes, and are turned into floats a few at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import paddle
import paddle.nn.functional as F

from rayseg.geometry import Size
from rayseg.models.blocks.boxes import giou_loss, pairwise_iou
from rayseg.models.blocks.points import Rand, at_points, undecided_points
from rayseg.models.instance.mask_rtdetr_decoder import Denoising, Predictions, QueryTransformer, TrainingOutputs
from rayseg.models.instance.mask_rtdetr_denoising import denoising_groups
from rayseg.models.instance.mask_rtdetr_matcher import TermWeights, corners, match_queries
from rayseg.models.instance.mask_rtdetr_truth import Pairs, Truth, truth_of

Terms = dict[str, paddle.Tensor]
NAMES = ("loss_class", "loss_bbox", "loss_giou", "loss_mask", "loss_dice")


class TrainableNetwork(Protocol):
    """What the loss needs of a network; `rayseg.models.instance.mask_rtdetr.MaskRTDETR` is one."""

    transformer: QueryTransformer

    def training_outputs(self, image: paddle.Tensor, denoising: Denoising | None = None) -> TrainingOutputs:
        """What all stages predict, with the denoising queries first."""
        ...


def mask_rtdetr_loss(
    network: TrainableNetwork,
    inputs: dict[str, paddle.Tensor],
    targets: dict[str, paddle.Tensor],
    *,
    num_points: int = 12544,
    num_denoising: int = 100,
    weights: TermWeights | None = None,
    rand: Rand = paddle.rand,
) -> Terms:
    """Run the network, match every stage and add up the terms.

    Args:
        network: in train mode.
        inputs: `image` float32 [N, 3, H, W]; other keys are ignored.
        targets: see `InstanceNetwork.loss`. Masks at a quarter of the input's size cost a sixteenth of the memory.
        num_points: at which a mask is compared with an object. The published number, 112 x 112, is for masks of
            160 x 160; on a CPU it takes longer than the network, and small inputs do with fewer.
        num_denoising: denoising queries of an image, about.
        weights: of the terms.
        rand: the random source; with the usual one, `paddle.seed` decides everything that is drawn.

    Returns:
        Scalars `loss_class`, `loss_bbox`, `loss_giou`, `loss_mask`, `loss_dice` of the last stage, the same names with
        `_aux` for the sum over the earlier ones, with `_dn` and `_aux_dn` for denoising queries (0 without), and
        `loss`, the sum of all.

    Raises:
        ModelError: a prediction is not finite.
    """
    image = inputs["image"]
    weights = weights or TermWeights()
    transformer = network.transformer
    truth = truth_of(targets, Size(height=int(image.shape[2]), width=int(image.shape[3])))
    embedding = transformer.denoising_class_embed.weight
    noised = denoising_groups(truth, embedding, num_queries=transformer.num_queries, num_denoising=num_denoising, rand=rand)
    outputs = network.training_outputs(image, noised.inputs if noised else None)

    def pairing(stage: Predictions) -> Pairs:
        return match_queries(stage, truth, weights=weights, num_points=num_points, rand=rand)

    how = _How(weights=weights, num_points=num_points, rand=rand)
    objects = max(truth.total, 1)
    split = noised.per_image if noised else 0
    terms = _all_stages(_matched_stages(outputs, split), truth, pairing, how, objects=objects)
    repeated = dict.fromkeys(terms, embedding.mean() * 0.0)  # so that the embedding has a gradient in any case
    if noised:
        known = noised.pairs
        stages = _denoising_stages(outputs, split)
        repeated = _all_stages(stages, truth, lambda _: known, how, objects=objects * noised.groups)
    terms |= {f"{name}_dn": value for name, value in repeated.items()}
    return {**terms, "loss": paddle.add_n(list(terms.values()))}


@dataclass(frozen=True)
class _How:
    """What `mask_rtdetr_loss` was told."""

    weights: TermWeights
    num_points: int
    rand: Rand


def _matched_stages(outputs: TrainingOutputs, split: int) -> list[Predictions]:
    initial = [outputs.initial] if outputs.initial else []
    return [outputs.encoder, *(_queries(stage, slice(split, None)) for stage in [*initial, *outputs.layers])]


def _denoising_stages(outputs: TrainingOutputs, split: int) -> list[Predictions]:
    initial = [outputs.initial] if outputs.initial else []
    return [_queries(stage, slice(0, split)) for stage in [*initial, *outputs.layers]]


def _queries(stage: Predictions, part: slice) -> Predictions:
    return Predictions(logits=stage.logits[:, part], boxes=stage.boxes[:, part], masks=stage.masks[:, part])


def _all_stages(
    stages: Sequence[Predictions],
    truth: Truth,
    pairing: Callable[[Predictions], Pairs],
    how: _How,
    *,
    objects: int,
) -> Terms:
    """Terms of the last stage, and under names with `_aux` the sum over the earlier ones."""
    last = _stage(stages[-1], truth, pairing(stages[-1]), how, fit=_mask_fit, objects=objects)
    earlier = [_stage(stage, truth, pairing(stage), how, fit=_box_fit, objects=objects) for stage in stages[:-1]]
    return last | {f"{name}_aux": paddle.add_n([terms[name] for terms in earlier]) for name in NAMES}


def _stage(
    stage: Predictions,
    truth: Truth,
    pairs: Pairs,
    how: _How,
    *,
    fit: Callable[[Predictions, Truth, Pairs], paddle.Tensor],
    objects: int,
) -> Terms:
    """The five weighted terms of one stage, per object."""
    if pairs.count == 0:
        nothing = (stage.boxes.mean() + stage.masks.mean()) * 0.0  # so that no parameter is without a gradient
        terms = [_varifocal(stage.logits), nothing, nothing, nothing, nothing]
    else:
        terms = [
            _varifocal(stage.logits, pairs, paddle.gather(truth.classes, pairs.objects), fit(stage, truth, pairs)),
            *_box_terms(stage, truth, pairs),
            *_mask_terms(stage, truth, pairs, num_points=how.num_points, rand=how.rand),
        ]
    weights = how.weights
    factors = (weights.class_, weights.box, weights.giou, weights.mask, weights.dice)
    return {name: factor / objects * term for name, factor, term in zip(NAMES, factors, terms, strict=True)}


def _varifocal(
    logits: paddle.Tensor,
    pairs: Pairs | None = None,
    classes: paddle.Tensor | None = None,
    fits: paddle.Tensor | None = None,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> paddle.Tensor:
    """Cross entropy against how well each query fits at its class; background counts by its own score.

    Args:
        logits: float32 [N, Q, C].
        pairs: M of them; None when all is background.
        classes: int64 [M], of the pairs.
        fits: float32 [M], targets of the pairs, 0 to 1.
        alpha: weight of background.
        gamma: exponent of its score.
    """
    is_class, wanted = paddle.zeros_like(logits), paddle.zeros_like(logits)
    if pairs is not None:
        index = paddle.stack([pairs.queries, classes], axis=-1)
        shape = [logits.shape[0] * logits.shape[1], logits.shape[2]]
        is_class = paddle.scatter_nd(index, paddle.ones_like(fits), shape).reshape(logits.shape)
        wanted = paddle.scatter_nd(index, fits, shape).reshape(logits.shape)
    weight = alpha * F.sigmoid(logits).pow(gamma) * (1 - is_class) + wanted * is_class
    return F.binary_cross_entropy_with_logits(logits, wanted, weight=weight, reduction="sum")


@paddle.no_grad()
def _box_fit(stage: Predictions, truth: Truth, pairs: Pairs) -> paddle.Tensor:
    """IoU of the boxes of each pair, [M]."""
    found, wanted = _rows(stage.boxes, pairs), paddle.gather(truth.boxes, pairs.objects)
    return pairwise_iou(corners(found).unsqueeze(1), corners(wanted).unsqueeze(1)).flatten()


@paddle.no_grad()
def _mask_fit(stage: Predictions, truth: Truth, pairs: Pairs) -> paddle.Tensor:
    """IoU of the masks of each pair at twice the resolution of the prediction, [M]. Nothing against nothing is 1."""
    size = [2 * int(side) for side in stage.masks.shape[-2:]]
    ious = []
    for block in pairs.blocks():
        logits = F.interpolate(_rows(stage.masks, block).unsqueeze(0), size=size, mode="bilinear")[0]
        segms = paddle.gather(truth.masks, block.objects).astype("float32")
        found = (F.sigmoid(logits) > 0.5).astype("float32")
        wanted = (F.interpolate(segms.unsqueeze(0), size=size, mode="bilinear")[0] > 0.5).astype("float32")
        both = (found * wanted).sum([1, 2])
        either = found.sum([1, 2]) + wanted.sum([1, 2]) - both
        ious.append((both + 1e-2) / (either + 1e-2))
    return paddle.concat(ious)


def _box_terms(stage: Predictions, truth: Truth, pairs: Pairs) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Sums over the pairs of the L1 distance of boxes, in shares of the input, and of 1 - GIoU."""
    found, wanted = _rows(stage.boxes, pairs), paddle.gather(truth.boxes, pairs.objects)
    return F.l1_loss(found, wanted, reduction="sum"), giou_loss(corners(found), corners(wanted)).sum()


def _mask_terms(
    stage: Predictions, truth: Truth, pairs: Pairs, *, num_points: int, rand: Rand
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Sums over the pairs of the mean cross entropy at points and of 1 - Dice coefficient."""
    masks = _rows(stage.masks, pairs)
    points = undecided_points(masks, num_points, rand=rand)
    logits = at_points(masks.unsqueeze(1), points).squeeze(1)
    wanted = _truth_at_points(truth, pairs, points)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1).sum()
    p = F.sigmoid(logits)
    dice = (2 * (p * wanted).sum(1) + 1) / (p.sum(1) + wanted.sum(1) + 1)
    return entropy, (1 - dice).sum()


@paddle.no_grad()
def _truth_at_points(truth: Truth, pairs: Pairs, points: paddle.Tensor) -> paddle.Tensor:
    """The object of each pair at the pair's points: float32 [M, P]."""
    read, start = [], 0
    for block in pairs.blocks():
        masks = paddle.gather(truth.masks, block.objects).astype("float32")
        read.append(at_points(masks.unsqueeze(1), points[start : start + block.count]).squeeze(1))
        start += block.count
    return paddle.concat(read)


def _rows(x: paddle.Tensor, pairs: Pairs) -> paddle.Tensor:
    """What the queries of pairs predict: [N, Q, ...] -> [M, ...]."""
    return paddle.gather(x.flatten(0, 1), pairs.queries)
