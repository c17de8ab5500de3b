"""The parts of the R-CNN family one by one: boxes and offsets, anchors, rows of several images, RoIAlign, proposals."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.vision.ops import roi_align

from rayseg.models.blocks.anchors import AnchorGenerator
from rayseg.models.blocks.box_coding import clip_boxes, decode_boxes, encode_boxes, has_area
from rayseg.models.blocks.ragged import best_rows, image_of_rows
from rayseg.models.blocks.roi_align import RoIAlign
from rayseg.models.instance.rcnn_detect import in_original_pixels, with_placeholders
from rayseg.models.instance.rpn import ProposalLimits, RPNHead

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
seeds = st.integers(0, 2**32 - 1)


def boxes(random: np.random.Generator, count: int, *, side: float = 100, least: float = 1) -> np.ndarray:
    low = random.uniform(0, side, (count, 2))
    return np.hstack([low, low + random.uniform(least, side, (count, 2))]).astype("float32")


# ---- offsets


@given(seeds)
@settings(max_examples=50)
def test_decoding_undoes_encoding(seed):
    random = np.random.default_rng(seed)
    start, goal = (paddle.to_tensor(boxes(random, 7, least=10)) for _ in range(2))
    back = decode_boxes(encode_boxes(start, goal, WEIGHTS), start, WEIGHTS)
    np.testing.assert_allclose(back[:, 0].numpy(), goal.numpy(), rtol=1e-4, atol=1e-3)


def test_offsets_move_by_widths_and_grow_by_powers():
    start = paddle.to_tensor([[10.0, 20.0, 30.0, 60.0]])
    deltas = paddle.to_tensor([[10.0, 0, 0, 0, 0, 0, 0, float(np.log(2) * 5)]])
    found = decode_boxes(deltas, start, WEIGHTS).numpy()
    np.testing.assert_allclose(found, [[[30, 20, 50, 60], [10, 0, 30, 80]]], rtol=1e-6)


def test_growth_is_limited():
    found = decode_boxes(paddle.full([1, 4], 1e6), paddle.to_tensor([[0.0, 0, 16, 16]]), WEIGHTS).numpy()
    assert found[0, 0, 2] - found[0, 0, 0] == pytest.approx(1000)


def test_boxes_are_clipped_to_the_image_of_their_row():
    some = paddle.to_tensor([[-5.0, -5, 50, 50], [-5.0, -5, 50, 50], [60, 60, 70, 70]])
    sizes = paddle.to_tensor([[20.0, 30], [100, 40], [20, 30]])
    found = clip_boxes(some, sizes)
    assert found.tolist() == [[0, 0, 30, 20], [0, 0, 40, 50], [30, 20, 30, 20]]
    assert has_area(found).tolist() == [True, True, False]
    assert (clip_boxes(some.unsqueeze(1), sizes)[:, 0] == found).all()


# ---- anchors


def test_anchors_are_centred_on_the_corner_of_their_cell():
    generator = AnchorGenerator([(32,), (64, 128)], (0.5, 1.0), [4, 8])
    fine, coarse = generator([paddle.zeros([1, 1, 2, 3]), paddle.zeros([1, 1, 1, 2])])
    assert fine.shape == [2 * 3 * 2, 4] and coarse.shape == [1 * 2 * 4, 4]
    centres = (fine[:, :2] + fine[:, 2:]) / 2
    assert centres[::2].tolist() == [[0, 0], [4, 0], [8, 0], [0, 4], [4, 4], [8, 4]]
    sizes = (coarse[:, 2:] - coarse[:, :2]).numpy()
    np.testing.assert_allclose(sizes[:, 1] / sizes[:, 0], [0.5, 1] * 4, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(sizes.prod(1)), [64, 64, 128, 128] * 2, rtol=1e-6)


# ---- rows of several images


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_each_row_knows_its_image(counts):
    rows = paddle.zeros([sum(counts), 3])
    found = image_of_rows(rows, paddle.to_tensor(counts, dtype="int32"))
    assert found.tolist() == np.repeat(np.arange(len(counts)), counts).tolist()


@given(seeds, st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=100)
def test_the_best_rows_are_chosen_for_each_image_alone(seed, images, keep):
    random = np.random.default_rng(seed)
    image = random.integers(0, images, random.integers(1, 25))
    scores = random.normal(size=len(image)).astype("float32")
    counts = np.bincount(image, minlength=images).astype("int32")
    rows, found = best_rows(paddle.to_tensor(scores), paddle.to_tensor(image), paddle.to_tensor(counts), keep=keep)
    wanted = []
    for i in range(images):
        own = np.flatnonzero(image == i)
        wanted += own[np.argsort(-scores[own])][:keep].tolist() if len(own) > keep else own.tolist()
    assert rows.tolist() == wanted
    assert found.tolist() == np.minimum(counts, keep).tolist()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_only_images_without_rows_get_a_placeholder(counts):
    rows = paddle.arange(1, 1 + 6 * sum(counts), dtype="float32").reshape([-1, 6])
    found, found_counts = with_placeholders(rows, paddle.to_tensor(counts, dtype="int32"))
    wanted, start = [], 0
    for count in counts:
        wanted += rows[start : start + count].tolist() or [[0, 0, 0, 0, 1, 1]]
        start += count
    assert found.tolist() == wanted
    assert found_counts.tolist() == [max(count, 1) for count in counts]


def test_boxes_go_back_to_the_size_of_their_own_image():
    rows = paddle.to_tensor([[1, 0.5, 10, 20, 30, 40], [2, 0.5, 10, 20, 30, 40], [2, 0.5, 10, 40, 30, 50]])
    bbox, sizes = in_original_pixels(
        rows,
        paddle.to_tensor([1, 2], dtype="int32"),
        im_shape=paddle.to_tensor([[100.0, 100], [40, 64]]),
        scale_factor=paddle.to_tensor([[2.0, 1], [0.5, 0.25]]),
    )
    assert sizes.tolist() == [[50, 100], [80, 256], [80, 256]]
    assert bbox[:2].tolist() == [[1, 0.5, 10, 10, 30, 20], [2, 0.5, 40, 40, 120, 80]]
    assert float(bbox[2, 0]) == -1  # below the image


# ---- RoIAlign


def pyramid(images: int) -> list[paddle.Tensor]:
    random = np.random.default_rng(0)
    return [paddle.to_tensor(random.normal(size=(images, 2, 256 // s, 256 // s)).astype("float32")) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("side", "level"), [(20, 0), (111, 0), (113, 1), (225, 2), (250, 2), (449, 3)])
def test_a_box_reads_the_level_of_its_size(side, level, aligned):
    maps, box = pyramid(1), paddle.to_tensor([[3.0, 5.0, 3.0 + side, 5.0 + side]])
    one = paddle.to_tensor([1], dtype="int32")
    found = RoIAlign(7, [4, 8, 16, 32], aligned=aligned)(maps, box, one)
    wanted = roi_align(maps[level], box, one, 7, spatial_scale=0.25 / 2**level, aligned=aligned)
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())


def test_alignment_shifts_by_half_a_cell():
    ramp = paddle.arange(64, dtype="float32").reshape([1, 1, 1, 64]).expand([1, 1, 64, 64])
    box, one = paddle.to_tensor([[64.0, 64.0, 128.0, 128.0]]), paddle.to_tensor([1], dtype="int32")
    right, old = (RoIAlign(4, [4], aligned=aligned)([ramp], box, one).numpy()[0, 0, 0] for aligned in (True, False))
    np.testing.assert_allclose(right, [17.5, 21.5, 25.5, 29.5], rtol=1e-5)  # cells 16 to 32, centres at +0.5
    np.testing.assert_allclose(old - right, 0.5, rtol=1e-4)


@given(seeds)
@settings(max_examples=30)
def test_rows_keep_their_order_over_levels_and_images(seed):
    random = np.random.default_rng(seed)
    maps = pyramid(2)
    counts = random.integers(0, 6, 2) + np.array([1, 0])
    some = boxes(random, int(counts.sum()), side=128)
    layer = RoIAlign(2, [4, 8, 16, 32], aligned=True)
    together = layer(maps, paddle.to_tensor(some), paddle.to_tensor(counts.astype("int32"))).numpy()
    for k, box in enumerate(some):
        i = int(k >= counts[0])
        alone = layer([m[i : i + 1] for m in maps], paddle.to_tensor(box[None]), paddle.to_tensor([1], dtype="int32"))
        np.testing.assert_allclose(together[k], alone.numpy()[0], rtol=1e-5, atol=1e-6)


# ---- proposals


def rpn(keep: int = 20) -> RPNHead:
    paddle.seed(0)
    limits = ProposalLimits(before_nms=40, after_nms=30, keep=keep)
    head = RPNHead(4, AnchorGenerator([(16,), (32,)], (0.5, 1.0), [8, 16]), train_limits=limits, test_limits=limits)
    for layer in (head.rpn_feat.rpn_conv, head.rpn_rois_score, head.rpn_rois_delta):
        layer.weight.set_value(paddle.randn(layer.weight.shape) * 0.3)
    return head


def maps(images: int) -> list[paddle.Tensor]:
    random = np.random.default_rng(1)
    return [paddle.to_tensor(random.normal(size=(images, 4, 96 // s, 128 // s)).astype("float32")) for s in (8, 16)]


def test_proposals_do_not_depend_on_other_images_and_stay_in_their_own():
    head, features = rpn(), maps(3)
    im_shape = paddle.to_tensor([[96.0, 128], [50, 128], [96, 40]])
    rois, counts = head(features, im_shape)
    assert counts.tolist() == [20, 20, 20] and rois.shape == [60, 4] and rois.stop_gradient
    for i in range(3):
        alone, _ = head([m[i : i + 1] for m in features], im_shape[i : i + 1])
        own = rois[20 * i : 20 * i + 20].numpy()
        np.testing.assert_allclose(own, alone.numpy(), atol=1e-4)
        height, width = im_shape[i].tolist()
        assert own.min() >= 0 and own[:, 2].max() <= width and own[:, 3].max() <= height


def test_the_best_of_all_levels_are_proposed():
    features, im_shape = maps(1), paddle.to_tensor([[96.0, 128]])
    every, counts = rpn(keep=1000)(features, im_shape)
    best, _ = rpn(keep=5)(features, im_shape)
    assert counts.tolist() == [len(every)] and 30 < len(every) <= 60
    assert {tuple(row) for row in best.tolist()} < {tuple(row) for row in every.tolist()}


def test_an_image_too_small_for_any_proposal_still_has_a_row():
    rois, counts = rpn()(maps(2), paddle.to_tensor([[0.5, 0.5], [96, 128]]))
    assert counts[0] >= 1 and counts[1] == 20 and len(rois) == int(counts.sum())
