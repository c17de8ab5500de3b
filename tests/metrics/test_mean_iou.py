"""Scores of class maps against loops over pixels."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import DatasetError
from rayseg.metrics.mean_iou import ConfusionMatrix

IGNORE = 255


@st.composite
def label_pairs(draw, num_classes=5):
    """A prediction and its labels; few of the classes occur and some pixels are ignored."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    classes = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=3))
    pick = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return pick.choice(classes, (height, width)), pick.choice([*classes, IGNORE], (height, width))


def count(pair, num_classes=5):
    return ConfusionMatrix.of(*pair, num_classes=num_classes, ignore_index=IGNORE)


@given(label_pairs())
def test_scores_equal_a_loop_over_pixels(pair):
    pixels = [(g, t) for g, t in zip(pair[0].ravel().tolist(), pair[1].ravel().tolist(), strict=True) if t != IGNORE]
    got = count(pair).scores()
    if not pixels:
        assert all(math.isnan(v) for v in (got.miou, got.miou_paddleseg, got.accuracy, got.kappa, got.dice))
        return
    ious, dices = {}, {}
    for k in range(5):
        both = sum(g == k and t == k for g, t in pixels)
        either = sum(g == k or t == k for g, t in pixels)
        if either:
            ious[k], dices[k] = both / either, 2 * both / (both + either)
    right = sum(g == t for g, t in pixels) / len(pixels)
    guessed, labelled = Counter(g for g, _ in pixels), Counter(t for _, t in pixels)
    chance = sum(guessed[k] * labelled[k] for k in range(5)) / len(pixels) ** 2
    assert got.miou == pytest.approx(sum(ious.values()) / len(ious))
    assert got.miou_paddleseg == pytest.approx((sum(ious.values()) + 5 - len(ious)) / 5)
    assert got.dice == pytest.approx(sum(dices.values()) / len(dices))
    assert got.dice_paddleseg == pytest.approx(sum(dices.values()) / 5)
    assert got.accuracy == pytest.approx(right)
    assert got.kappa == pytest.approx((right - chance) / (1 - chance) if chance < 1 else 1.0)
    assert {k: v for k, v in got.iou_per_class.items() if not math.isnan(v)} == pytest.approx(ious)


@given(label_pairs(), label_pairs(), label_pairs())
def test_merging_is_associative_commutative_and_equal_to_counting_at_once(a, b, c):
    joined = tuple(np.concatenate([pair[k].ravel() for pair in (a, b, c)]) for k in (0, 1))
    left = (count(a) + count(b)) + count(c)
    right = count(c) + (count(b) + count(a))
    at_once = count(joined).counts
    assert (left.counts == at_once).all() and (right.counts == at_once).all()
    assert (sum([count(a), count(b), count(c)], start=ConfusionMatrix.empty(5)).counts == at_once).all()


def test_rows_are_labels_and_columns_predictions():
    matrix = ConfusionMatrix.of(np.array([1, 1, 0]), np.array([0, 0, 1]), num_classes=2)
    assert matrix.counts.tolist() == [[0, 2], [1, 0]]
    assert matrix.num_classes == 2


def test_uint8_maps_of_many_classes_do_not_wrap_around():
    top = np.full((3, 3), 199, dtype=np.uint8)
    assert ConfusionMatrix.of(top, top, num_classes=200).counts[199, 199] == 9


def test_a_map_of_one_class_only_has_kappa_one_and_none_at_all_has_nan():
    zeros = np.zeros((2, 2), dtype=int)
    assert ConfusionMatrix.of(zeros, zeros, num_classes=3).scores().kappa == 1.0
    assert math.isnan(ConfusionMatrix.empty(3).scores().miou)


def test_without_an_ignore_index_255_is_a_class_like_any_other():
    full = np.full((2, 2), 255)
    assert ConfusionMatrix.of(full, full, num_classes=256, ignore_index=None).scores().accuracy == 1.0


def test_what_cannot_be_counted_is_refused():
    zeros = np.zeros((2, 2), dtype=int)
    with pytest.raises(DatasetError, match=r"shape \(2, 2\) and label map of shape \(2, 3\) differ"):
        ConfusionMatrix.of(zeros, np.zeros((2, 3), dtype=int), num_classes=2)
    with pytest.raises(DatasetError, match="label map holds class 7, outside the 2 classes 0 to 1"):
        ConfusionMatrix.of(zeros, zeros + 7, num_classes=2)
    with pytest.raises(DatasetError, match="prediction holds class -1"):
        ConfusionMatrix.of(zeros - 1, zeros, num_classes=2)
    with pytest.raises(ValueError, match="of 2 and 3 classes"):
        ConfusionMatrix.empty(2) + ConfusionMatrix.empty(3)
