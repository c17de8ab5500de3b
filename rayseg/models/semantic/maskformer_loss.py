"""The training loss of MaskFormer: each class present in an image is an object, matched to one query.

Paper: B. Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021,
sections 3.2 and 4.1; the focal term is Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.
Code: PaddleSeg, paddleseg/models/losses/maskformer_loss.py, Apache-2.0.
Changed: objects are cut from the label map here instead of in the reader; any number of classes is right (the original
drops "no object" from the loss where it has the number 255); a batch without labels gives zeros that still reach every
output. Kept: an ignored pixel counts as outside every object, and an image without labels beside one with labels
teaches all its queries "no object".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from rayseg.errors import DatasetError
from rayseg.models.blocks.matching import match
from rayseg.models.semantic.maskformer_decoder import QueryMasks

IGNORED = 255
MASK_WEIGHT = 20.0
"""Of the focal term, in the total and in the matching; class and dice term count once."""
NO_OBJECT_WEIGHT = 0.1
"""Of a query that should find nothing, relative to one that should find a class."""
ALPHA = 0.25
"""Share of the pixels inside an object in the focal term."""
GAMMA = 2


def maskformer_loss(layers: Sequence[QueryMasks], labels: paddle.Tensor) -> dict[str, paddle.Tensor]:
    """Match queries to classes after each layer of the decoder and add up the terms.

    Args:
        layers: what the queries say, the last layer first, then the earlier ones in order.
        labels: integer [N, H, W] at the size of the image; classes, or 255 for pixels that do not count.

    Returns:
        Scalars, in this order: `loss_ce`, `loss_mask`, `loss_dice` of the last layer, the same with `_0`, `_1`, ... for the
        earlier ones, all before weighting; then `loss`, their weighted sum over all layers.

    Raises:
        DatasetError: a label is neither a class nor 255.
    """
    objects = _objects(labels, num_classes=layers[0].classes.shape[2] - 1)
    if not any(len(found.classes) for found in objects):
        return _nothing(layers)
    terms: dict[str, paddle.Tensor] = {}
    total = paddle.zeros([])
    for index, said in enumerate(layers):
        pairs = [_match(said, image, found) for image, found in enumerate(objects)]
        ce = _class_term(said, objects, pairs)
        mask, dice = _mask_terms(said, objects, pairs)
        terms |= _named(index, ce, mask, dice)
        total = total + ce + MASK_WEIGHT * mask + dice
    return {**terms, "loss": total}


class _Objects(NamedTuple):
    """The classes of one image."""

    classes: np.ndarray
    """int64 (T), ascending; T may be 0."""
    masks: paddle.Tensor
    """float32 (T, H, W), 1 where the pixel is of the class."""


class _Pairs(NamedTuple):
    """Who belongs together in one image; both int64 of one length."""

    queries: np.ndarray
    objects: np.ndarray


def _objects(labels: paddle.Tensor, *, num_classes: int) -> list[_Objects]:
    found = []
    for label_map in labels.astype("int64"):
        classes = np.unique(label_map.numpy())
        classes = classes[classes != IGNORED]
        wrong = classes[(classes < 0) | (classes >= num_classes)]
        if wrong.size:
            raise DatasetError(
                f"the label map holds {int(wrong[0])}, but the network has the classes 0 to {num_classes - 1} (and {IGNORED} "
                "for pixels that do not count); build the network with as many classes as the data has"
            )
        wanted = paddle.to_tensor(classes, dtype="int64").reshape([-1, 1, 1])
        found.append(_Objects(classes, (label_map.unsqueeze(0) == wanted).astype("float32")))
    return found


@paddle.no_grad()
def _match(said: QueryMasks, image: int, found: _Objects) -> _Pairs:
    """The pairing that costs least, with masks compared at the size of the predictions."""
    if not len(found.classes):
        return _Pairs(*(np.zeros(0, dtype="int64") for _ in range(2)))
    logits = said.masks[image]
    target = F.interpolate(found.masks.unsqueeze(0), size=logits.shape[1:], mode="nearest")[0].flatten(1)
    logits = logits.flatten(1)
    probability = F.softmax(said.classes[image], axis=-1)
    cost_class = -paddle.index_select(probability, paddle.to_tensor(found.classes), axis=1)
    inside = ALPHA * _focal(logits, inside=True)
    outside = (1 - ALPHA) * _focal(logits, inside=False)
    cost_mask = paddle.matmul(inside, target, transpose_y=True) + paddle.matmul(outside, 1 - target, transpose_y=True)
    mask = F.sigmoid(logits)
    both = paddle.matmul(mask, target, transpose_y=True)
    cost_dice = 1 - (2 * both + 1) / (mask.sum(1, keepdim=True) + target.sum(1) + 1)
    return _Pairs(*match(cost_class + MASK_WEIGHT * cost_mask / logits.shape[1] + cost_dice))


def _class_term(said: QueryMasks, objects: list[_Objects], pairs: list[_Pairs]) -> paddle.Tensor:
    """Cross-entropy of all queries of the batch, a weighted mean; queries without an object should say so."""
    images, queries, classes = said.classes.shape
    wanted = np.full((images, queries), classes - 1, dtype="int64")
    for row, found, pair in zip(wanted, objects, pairs, strict=True):
        row[pair.queries] = found.classes[pair.objects]
    weight = paddle.to_tensor([1.0] * (classes - 1) + [NO_OBJECT_WEIGHT])
    return F.cross_entropy(said.classes.flatten(0, 1), paddle.to_tensor(wanted).flatten(), weight=weight)


def _mask_terms(said: QueryMasks, objects: list[_Objects], pairs: list[_Pairs]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Focal and dice term of the matched masks at the size of the image, divided by the number of objects."""
    where = np.concatenate([np.stack([np.full_like(q, n), q], axis=1) for n, (q, _) in enumerate(pairs)])
    logits = paddle.gather_nd(said.masks, paddle.to_tensor(where))
    target = paddle.concat(
        [paddle.index_select(found.masks, paddle.to_tensor(o)) for found, (_, o) in zip(objects, pairs, strict=True) if len(o)]
    )
    logits = F.interpolate(logits.unsqueeze(1), size=target.shape[1:], mode="bilinear", align_corners=False)
    logits, target = logits.flatten(1), target.flatten(1)
    count = sum(len(found.classes) for found in objects)
    focal = ALPHA * target * _focal(logits, inside=True) + (1 - ALPHA) * (1 - target) * _focal(logits, inside=False)
    mask = F.sigmoid(logits)
    dice = 1 - (2 * (mask * target).sum(1) + 1) / (mask.sum(1) + target.sum(1) + 1)
    return focal.mean(1).sum() / count, dice.sum() / count


def _focal(logits: paddle.Tensor, *, inside: bool) -> paddle.Tensor:
    """(1 - p)^2 * -log(p) with p the probability of being inside, or of being outside."""
    logits = logits if inside else -logits
    return F.sigmoid(-logits) ** GAMMA * F.softplus(-logits)


def _nothing(layers: Sequence[QueryMasks]) -> dict[str, paddle.Tensor]:
    """Zeros for every term, with a gradient of zero for every output."""
    zero = paddle.add_n([(said.classes.sum() + said.masks.sum()) * 0.0 for said in layers])
    terms: dict[str, paddle.Tensor] = {}
    for index in range(len(layers)):
        terms |= _named(index, zero, zero, zero)
    return {**terms, "loss": zero}


def _named(index: int, ce: paddle.Tensor, mask: paddle.Tensor, dice: paddle.Tensor) -> dict[str, paddle.Tensor]:
    suffix = f"_{index - 1}" if index else ""
    return {f"loss_ce{suffix}": ce, f"loss_mask{suffix}": mask, f"loss_dice{suffix}": dice}
