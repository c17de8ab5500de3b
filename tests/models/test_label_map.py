"""The label map made class by class against the one made from all scores at full size."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from rayseg.models.semantic.label_map import resized_argmax
from rayseg.models.semantic.layers import resize_like


@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (33, 70)])
def test_it_is_the_argmax_of_the_resized_scores(classes, size):
    scores = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, classes, 5, 9)).astype("float32"))
    like = paddle.zeros([2, 3, *size])
    wanted = resize_like(scores, like).numpy().argmax(axis=1)
    found = resized_argmax(scores, like)
    assert found.dtype == paddle.uint8
    assert (found.numpy() == wanted).all()


def test_the_first_of_equal_classes_wins():
    scores = paddle.to_tensor(np.array([0, 1, 1, 0], dtype="float32").reshape(1, 4, 1, 1))
    assert (resized_argmax(scores, paddle.zeros([1, 3, 2, 2])).numpy() == 1).all()


@pytest.mark.parametrize(("classes", "dtype"), [(256, paddle.uint8), (257, paddle.int32)])
def test_the_type_is_the_smallest_that_holds_all_classes(classes, dtype):
    scores = np.zeros((1, classes, 2, 2), dtype="float32")
    scores[:, -1] = 1
    found = resized_argmax(paddle.to_tensor(scores), paddle.zeros([1, 3, 2, 2]))
    assert found.dtype == dtype
    assert (found.numpy() == classes - 1).all()
