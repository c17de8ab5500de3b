"""Cascade Mask R-CNN: what its three stages do; all that it shares with Mask R-CNN is tested in test_mask_rcnn.py."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from rayseg.errors import ModelError
from rayseg.models.backbones.resnet import ResNet
from rayseg.models.blocks.roi_align import RoIAlign
from rayseg.models.instance.cascade_mask_rcnn import build_cascade_mask_rcnn_fpn
from rayseg.models.instance.rcnn_cascade_head import CascadeHead

IM_SHAPE = np.float32([[60, 100], [40, 30]])
COUNTS = np.int32([3, 2])


@pytest.fixture(scope="module")
def head() -> CascadeHead:
    paddle.seed(0)
    head = CascadeHead(4, 8, RoIAlign(7, [4, 8, 16, 32], aligned=True), num_classes=3)
    for stage in range(head.stages):
        for kind, spread in (("score", 3.0), ("delta", 20.0)):
            layer = getattr(head, f"bbox_{kind}_stage{stage}")
            layer.weight.set_value(paddle.randn(layer.weight.shape) * spread)
    return head


@pytest.fixture(scope="module")
def features() -> list[paddle.Tensor]:
    random = np.random.default_rng(0)
    return [paddle.to_tensor(random.normal(size=(2, 4, 64 // s, 128 // s)).astype("float32")) for s in (4, 8, 16, 32)]


def rois() -> paddle.Tensor:
    return paddle.to_tensor([[5.0, 5, 50, 50], [0, 0, 100, 60], [40, 20, 60, 50], [0, 0, 20, 20], [5, 10, 30, 40]])


def test_each_stage_starts_from_the_boxes_of_the_one_before(head, features):
    counts, im_shape = paddle.to_tensor(COUNTS), paddle.to_tensor(IM_SHAPE)
    found = head.candidates(features, rois(), counts, im_shape)
    boxes, probabilities = rois(), []
    for stage in range(3):
        logits, deltas, _ = head.stage(stage, features, boxes, counts)
        probabilities.append(nn.functional.softmax(logits).numpy())
        last = boxes
        boxes = head.refine(stage, deltas, boxes, counts, im_shape)
    np.testing.assert_allclose(found.probabilities.numpy(), np.mean(probabilities, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.rois.numpy(), last.numpy())
    np.testing.assert_array_equal(found.deltas.numpy(), deltas.numpy())
    assert np.abs(last.numpy() - rois().numpy()).max() > 1
    assert found.probabilities.shape == [5, 4] and found.deltas.shape == [5, 4]


def test_the_later_the_stage_the_smaller_its_moves(head):
    deltas, counts = paddle.full([1, 4], 1.0), paddle.to_tensor([1], dtype="int32")
    box, im_shape = paddle.to_tensor([[100.0, 100, 160, 220]]), paddle.to_tensor([[1000.0, 1000]])
    found = [head.refine(stage, deltas, box, counts, im_shape).numpy()[0] for stage in range(3)]
    for moved, weight in zip(found, (10, 20, 30), strict=True):
        centre, size = (moved[:2] + moved[2:]) / 2, moved[2:] - moved[:2]
        np.testing.assert_allclose(centre, [130 + 60 / weight, 160 + 120 / weight], rtol=1e-5)
        np.testing.assert_allclose(size, np.float32([60, 120]) * np.exp(2 / weight), rtol=1e-5)


def test_moved_boxes_are_clipped_to_their_own_image_and_carry_no_gradient(head):
    deltas = paddle.full([5, 4], 3.0)
    deltas.stop_gradient = False
    moved = head.refine(0, deltas, rois(), paddle.to_tensor(COUNTS), paddle.to_tensor(IM_SHAPE))
    assert moved.stop_gradient
    limits = np.repeat(IM_SHAPE[:, ::-1], COUNTS, axis=0)
    assert (moved.numpy() >= 0).all() and (moved.numpy()[:, 2:] <= limits).all()
    assert (moved.numpy()[:, 2:] == limits).any(axis=1).sum() >= 3


def test_a_network_needs_a_class():
    with pytest.raises(ModelError, match="num_classes=0"):
        build_cascade_mask_rcnn_fpn(ResNet(50), 0)
