"""The training loss of SOLOv2: focal loss on the classes of all cells, Dice loss on the masks of those with an object.

Papers: Wang et al., "SOLOv2", NeurIPS 2020 (https://arxiv.org/abs/2003.10152), equation 3; Lin et al., "Focal Loss", ICCV
2017 (https://arxiv.org/abs/1708.02002). Code: PaddleDetection, ppdet/modeling/losses/solov2_loss.py, Apache-2.0.
Changed: only masks of cells with an object are computed; a batch without objects has a finite loss, with a path to
every parameter, where the original divides by zero.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F

from rayseg.geometry import Size
from rayseg.models.instance.solov2_targets import Positives, assign_cells, masks_at_quarter

MASK_WEIGHT = 3.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
DICE_EPS = 1e-3

Targets = dict[str, paddle.Tensor]


def solov2_loss(
    logits: paddle.Tensor,
    kernels: paddle.Tensor,
    features: paddle.Tensor,
    targets: Targets,
    *,
    image: Size,
    grids: tuple[int, ...],
) -> dict[str, paddle.Tensor]:
    """Scalars `loss_ins` (masks), `loss_cate` (classes) and `loss`, their sum.

    Args:
        logits: float32 [N, L, C], classes of all cells.
        kernels: float32 [N, L, E].
        features: float32 [N, E, h, w].
        targets: see `InstanceNetwork.loss`.
        image: size of the input.
        grids: cells along a side, which the L cells come from.
    """
    num_classes = logits.shape[2]
    host = {name: targets[name].numpy() for name in ("gt_bbox", "gt_class", "pad_gt_mask", "gt_segm")}
    labels, occupied = [], 0
    dice, counted = (kernels.mean() + features.mean()) * 0.0, 0.0
    for i in range(logits.shape[0]):
        present = host["pad_gt_mask"][i, :, 0] > 0
        masks = host["gt_segm"][i][present].astype(np.uint8)
        positives = assign_cells(
            host["gt_bbox"][i][present],
            host["gt_class"][i, :, 0][present],
            masks,
            image=image,
            grids=grids,
            num_classes=num_classes,
        )
        labels.append(positives.labels)
        occupied += len(np.unique(positives.cells))
        lost, weight = _dice(positives, masks, kernels[i], features[i])
        dice, counted = dice + lost, counted + weight
    loss_ins = MASK_WEIGHT * dice / max(counted, 1.0)
    one_hot = F.one_hot(paddle.to_tensor(np.stack(labels)), num_classes + 1)[..., :-1]
    loss_cate = F.sigmoid_focal_loss(
        logits, one_hot, normalizer=paddle.to_tensor([occupied + 1.0]), alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA
    )
    return {"loss_ins": loss_ins, "loss_cate": loss_cate, "loss": loss_ins + loss_cate}


def _dice(
    positives: Positives, masks: np.ndarray, kernels: paddle.Tensor, features: paddle.Tensor
) -> tuple[paddle.Tensor, float]:
    """Sum of 1 - Dice over the cells of one image with an object, and over how many.

    Args:
        masks: uint8 [G, H, W], all of the image.
        kernels: float32 [L, E].
        features: float32 [E, h, w].
    """
    height, width = features.shape[1:]
    small = masks_at_quarter(masks, Size(height, width)).reshape(len(masks), height * width)
    # An object too thin to be seen at a quarter of the size has no mask to learn; its class is learnt all the same.
    seen = (small.max(axis=1, initial=0) > 0)[positives.objects]
    if not seen.any():
        return paddle.zeros([]), 0.0
    cells, objects = paddle.to_tensor(positives.cells[seen]), paddle.to_tensor(positives.objects[seen])
    found = F.sigmoid(paddle.gather(kernels, cells) @ features.flatten(1))
    wanted = paddle.gather(paddle.to_tensor(small), objects).astype("float32")
    both = (found * wanted).sum(1)
    sizes = found.square().sum(1) + wanted.sum(1) + 2 * DICE_EPS
    return (1 - 2 * both / sizes).sum(), float(seen.sum())
