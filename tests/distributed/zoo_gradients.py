"""The gradients of a network of the zoo for four noisy images, computed alone or as one of two workers."""

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


def of_all(*, change: float = 0.0) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of one process with the whole batch, its images changed by a constant."""
    return _gradients(ALONE, change=change)


def of_one_worker() -> tuple[float, dict[str, np.ndarray]]:
    """The same of one worker, whose batch is every second image."""
    return _gradients(PaddleWorld())


def _gradients(world, *, change: float = 0.0) -> tuple[float, dict[str, np.ndarray]]:
    paddle.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what Paddle draws initial weights from
    network = find_model("PP-LiteSeg-T").build(2)
    if world.size > 1:
        world.synced(network)
    network.train()
    images, labels = (array[world.rank :: world.size] for array in images_and_labels())
    with averaging(world.all_reduce_mean if world.size > 1 else None):
        loss = network.loss(paddle.to_tensor(images + np.float32(change)), paddle.to_tensor(labels))["loss"]
    loss.backward()
    gradients.average([p for p in network.parameters() if not p.stop_gradient], world)
    found = {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    return float(loss), found
