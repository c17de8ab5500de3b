"""The gradients of networks of the zoo for four noisy images, computed alone or as one of two workers."""

from __future__ import annotations

import numpy as np
import paddle

from rayseg.distributed.world import PaddleWorld
from rayseg.models.normalise import averaging
from rayseg.models.zoo import find_model
from rayseg.training import gradients
from rayseg.training.world import ALONE

IMAGES, SIDE = 4, 64


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """float32 [4, 3, 64, 64], int64 [4, 64, 64]; one image is hardly labelled."""
    rng = np.random.default_rng(0)
    images = rng.normal(-1, 0.2, (IMAGES, 3, SIDE, SIDE)).astype(np.float32)
    labels = np.zeros((IMAGES, SIDE, SIDE), np.int64)
    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(0, SIDE // 2, 2)
        image[:, y : y + SIDE // 2, x : x + SIDE // 2] += 2
        label[y : y + SIDE // 2, x : x + SIDE // 2] = 1
    labels[1, 4:] = 255
    return images, labels


def images_and_objects() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """float32 [4, 3, 64, 64] and targets as in rayseg/models/network.py; every second image has no object."""
    images, labels = images_and_labels()
    targets = {
        "gt_bbox": np.zeros((IMAGES, 2, 4), np.float32),
        "gt_class": np.zeros((IMAGES, 2, 1), np.int64),
        "pad_gt_mask": np.zeros((IMAGES, 2, 1), np.float32),
        "gt_segm": np.zeros((IMAGES, 2, SIDE, SIDE), np.uint8),
    }
    for index in range(0, IMAGES, 2):
        mask = labels[index] == 1
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        targets["gt_bbox"][index, 0] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        targets["pad_gt_mask"][index, 0] = 1
        targets["gt_segm"][index, 0] = mask
    return images, targets


def of_all(name: str, *, change: float = 0.0) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of one process with the whole batch, its images changed by a constant."""
    return _gradients(name, ALONE, change=change)


def of_one_worker(name: str) -> tuple[float, dict[str, np.ndarray]]:
    """The same of one worker, whose batch is every second image."""
    return _gradients(name, PaddleWorld())


def _gradients(name: str, world, *, change: float = 0.0) -> tuple[float, dict[str, np.ndarray]]:
    paddle.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what Paddle draws initial weights from
    row = find_model(name)
    network = row.build(2)
    if world.size > 1:
        world.synced(network)
    network.train()
    images, targets = images_and_objects() if row.task == "instance" else images_and_labels()
    share = slice(world.rank, None, world.size)
    inputs = paddle.to_tensor(images[share] + np.float32(change))
    if row.task == "instance":
        sizes = paddle.full([len(inputs), 2], float(SIDE))
        inputs = {"image": inputs, "im_shape": sizes, "scale_factor": paddle.ones([len(sizes), 2])}
        targets = {key: paddle.to_tensor(value[share]) for key, value in targets.items()}
    else:
        targets = paddle.to_tensor(targets[share])
    with averaging(world.all_reduce_mean if world.size > 1 else None, world.size):
        loss = network.loss(inputs, targets)["loss"]
    world.tied(loss).backward()
    gradients.average([p for p in network.parameters() if not p.stop_gradient], world)
    found = {key: p.grad.numpy() for key, p in network.named_parameters() if p.grad is not None}
    return float(loss), found
