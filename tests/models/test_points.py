"""Masks read at points: where the points lie, and which are chosen."""

from __future__ import annotations

import numpy as np
import paddle

from rayseg.models.blocks.points import at_points, undecided_points


def centres(height: int, width: int) -> np.ndarray:
    """Pixel centres as shares of width and height, row by row: [height * width, 2]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1).reshape(-1, 2).astype("float32")


def test_a_pixel_has_its_value_at_its_centre():
    maps = np.random.RandomState(0).normal(size=(2, 3, 4, 7)).astype("float32")
    points = paddle.to_tensor(np.stack([centres(4, 7)] * 2))
    np.testing.assert_allclose(at_points(paddle.to_tensor(maps), points).numpy(), maps.reshape(2, 3, -1), atol=1e-5)


def test_between_pixels_is_their_mean_and_beyond_the_border_is_nothing():
    maps = paddle.to_tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    points = paddle.to_tensor([[[0.5, 0.25], [0.5, 0.5], [0.0, 0.25], [-1.0, 0.5], [0.0, 0.0]]])
    np.testing.assert_allclose(at_points(maps, points).numpy(), [[[2, 4, 0.5, 0, 0.25]]], atol=1e-6)


def test_each_map_is_read_at_its_own_points():
    maps = paddle.to_tensor(np.arange(8, dtype="float32").reshape(2, 1, 1, 4))
    points = paddle.to_tensor([[[0.125, 0.5]], [[0.625, 0.5]]])
    assert at_points(maps, points).flatten().tolist() == [0, 6]


def test_chosen_points_are_the_least_decided_of_the_candidates():
    paddle.seed(0)
    logits = np.random.RandomState(1).normal(size=(3, 6, 5)).astype("float32")
    drawn = []

    def rand(shape):
        drawn.append(paddle.rand(shape))
        return drawn[-1]

    found = undecided_points(paddle.to_tensor(logits), 20, rand=rand)
    candidates, others = drawn[0].squeeze(1), drawn[1]
    assert found.shape == [3, 20, 2] and candidates.shape == [3, 60, 2] and others.shape == [3, 5, 2]
    doubt = at_points(paddle.to_tensor(logits[:, None]), candidates).squeeze(1).abs().numpy()
    for mask in range(3):
        least = candidates.numpy()[mask][np.argsort(doubt[mask], kind="stable")[:15]]
        assert {tuple(p) for p in found.numpy()[mask, :15]} == {tuple(p) for p in least}
    assert (found[:, 15:] == others).all()


def test_no_gradient_flows_through_the_choice():
    logits = paddle.ones([1, 4, 4])
    logits.stop_gradient = False
    assert undecided_points(logits, 8, rand=paddle.rand).stop_gradient
