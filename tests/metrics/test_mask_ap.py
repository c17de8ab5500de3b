"""Mask AP against a slow computation that follows the definition, then small cases with known answers."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from rayseg.errors import DatasetError
from rayseg.metrics.mask_ap import mask_ap

SIZE = (40, 50)
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def rectangle(y0, x0, height, width, size=SIZE):
    mask = np.zeros(size, dtype=np.uint8)
    mask[y0 : y0 + height, x0 : x0 + width] = 1
    return mask


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask))


def truth_of(objects, *, images=(1,), categories=(1,), first_id=1):
    """Ground truth of (image, category, mask) triples."""
    return {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in images],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": [
            {
                "id": first_id + n,
                "image_id": i,
                "category_id": c,
                "segmentation": rle(m),
                "area": int(m.sum()),
                "iscrowd": 0,
            }
            for n, (i, c, m) in enumerate(objects)
        ],
    }


def found_of(objects):
    """Detections of (image, category, mask, score)."""
    return [{"image_id": i, "category_id": c, "segmentation": rle(m), "score": s} for i, c, m, s in objects]


def slow_ap(objects, found, images, category, threshold, limit):
    """AP of one class at one threshold by the definition: greedy matching, then the best precision at 101 recalls."""
    hits = []
    for image in images:
        wanted = [m for i, c, m in objects if (i, c) == (image, category)]
        taken = [False] * len(wanted)
        ours = sorted((f for f in found if (f[0], f[1]) == (image, category)), key=lambda f: -f[3])
        for _, _, mask, score in ours[:limit]:
            best, best_iou = None, threshold
            for k, other in enumerate(wanted):
                union = np.logical_or(mask, other).sum()
                iou = np.logical_and(mask, other).sum() / union if union else 0.0
                if not taken[k] and iou >= best_iou:
                    best, best_iou = k, iou
            if best is not None:
                taken[best] = True
            hits.append((score, best is not None))
    total = sum((i in images and c == category) for i, c, _ in objects)
    if total == 0:
        return math.nan
    hits.sort(key=lambda hit: -hit[0])
    points, right = [], 0
    for seen, (_, hit) in enumerate(hits, start=1):
        right += hit
        points.append((right / total, right / seen))
    return float(np.mean([max([p for r, p in points if r >= recall], default=0.0) for recall in np.linspace(0, 1, 101)]))


def random_scene(seed):
    """Two images, two classes; detections are jittered objects and noise, with scores that never tie."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    scores = iter(rng.permutation(1000) / 1000)
    for image in (1, 2):
        for _ in range(rng.integers(0, 6)):
            y, x, height, width = rng.integers(0, 25), rng.integers(0, 30), rng.integers(3, 15), rng.integers(3, 15)
            category = int(rng.integers(1, 3))
            objects.append((image, category, rectangle(y, x, height, width)))
            for _ in range(rng.integers(0, 3)):
                dy, dx = rng.integers(0, 3, size=2)
                found.append((image, category, rectangle(y + dy, x + dx, height, width), float(next(scores))))
        for _ in range(rng.integers(0, 3)):
            noise = rectangle(rng.integers(0, 25), rng.integers(0, 30), 5, 5)
            found.append((image, int(rng.integers(1, 3)), noise, float(next(scores))))
    return objects, found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_ap_equals_the_slow_definition(seed, limit):
    objects, found = random_scene(seed)
    got = mask_ap(truth_of(objects, images=(1, 2), categories=(1, 2)), found_of(found), max_dets=(limit,))
    slow = {c: [slow_ap(objects, found, (1, 2), c, t, limit) for t in THRESHOLDS] for c in (1, 2)}
    for category in (1, 2):
        np.testing.assert_allclose(got.per_class[category].ap, np.mean(slow[category]), atol=1e-9)
    present = [v for v in slow.values() if not math.isnan(v[0])]
    if present:
        np.testing.assert_allclose(got.ap, np.mean(present), atol=1e-9)
        np.testing.assert_allclose(got.ap50, np.mean([v[0] for v in present]), atol=1e-9)
        np.testing.assert_allclose(got.ap75, np.mean([v[5] for v in present]), atol=1e-9)


def test_the_objects_themselves_score_one_and_nothing_is_written_into_the_arguments(capsys):
    objects = [(1, 1, rectangle(2, 2, 10, 10)), (2, 2, rectangle(5, 5, 4, 30))]
    truth = truth_of(objects, images=(1, 2), categories=(1, 2))
    found = found_of([(*o, 0.9) for o in objects])
    before = copy.deepcopy((truth, found))
    got = mask_ap(truth, found)
    assert (got.ap, got.ap50, got.ap75, got.ap_small) == pytest.approx((1.0, 1.0, 1.0, 1.0))
    assert math.isnan(got.ap_medium) and math.isnan(got.ap_large)
    assert [got.per_class[c].ap for c in (1, 2)] == pytest.approx([1.0, 1.0])
    assert (truth, found) == before
    assert capsys.readouterr().out == ""


def test_an_image_with_more_objects_than_the_default_limit_needs_a_larger_one():
    objects = [(1, 1, rectangle(2 * (n // 25), 2 * (n % 25), 1, 1)) for n in range(250)]
    truth, found = truth_of(objects), found_of([(*o, 0.5) for o in objects])
    assert mask_ap(truth, found, max_dets=(10, 100, 300)).ap == pytest.approx(1.0)
    cut = mask_ap(truth, found, max_dets=(10, 100))
    assert cut.ap == pytest.approx(41 / 101)  # recalls 0.00 to 0.40 are reached, at precision 1
    assert cut.recall_at == pytest.approx({10: 10 / 250, 100: 100 / 250})


def test_an_annotation_with_id_zero_counts_like_any_other():
    objects = [(1, 1, rectangle(2, 2, 10, 10))]
    assert mask_ap(truth_of(objects, first_id=0), found_of([(*objects[0], 0.5)])).ap == pytest.approx(1.0)


def test_a_detection_on_a_crowd_is_neither_right_nor_wrong():
    objects = [(1, 1, rectangle(0, 0, 10, 10)), (1, 1, rectangle(20, 0, 20, 50))]
    truth = truth_of(objects)
    truth["annotations"][1]["iscrowd"] = 1
    inside_crowd = [(1, 1, rectangle(22, 5 * n, 4, 4), 0.9) for n in range(5)]
    assert mask_ap(truth, found_of([*inside_crowd, (*objects[0], 0.5)])).ap == pytest.approx(1.0)


def test_polygons_and_uncompressed_runs_stand_for_the_same_masks():
    mask = rectangle(5, 10, 8, 16)
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [0]]))).tolist()
    truth = truth_of([(1, 1, mask)])
    for segmentation in (
        [[10, 5, 26, 5, 26, 13, 10, 13]],
        {"size": list(SIZE), "counts": np.diff([0, *runs, mask.size]).tolist()},
    ):
        truth["annotations"][0] = {"id": 7, "image_id": 1, "category_id": 1, "segmentation": segmentation}
        assert mask_ap(truth, found_of([(1, 1, mask, 0.5)])).ap == pytest.approx(1.0)


def test_found_nothing_is_zero_and_nothing_to_find_is_nan():
    objects = [(1, 1, rectangle(2, 2, 10, 10))]
    missed = mask_ap(truth_of(objects, categories=(1, 2)), [])
    assert (missed.ap, missed.ap50, missed.per_class[1].ap, missed.recall_at[100]) == (0.0, 0.0, 0.0, 0.0)
    assert math.isnan(missed.per_class[2].ap)
    for truth in (truth_of([]), truth_of([], categories=()), truth_of([], images=())):
        nothing = mask_ap(truth, [])
        assert all(
            math.isnan(v)
            for v in (nothing.ap, nothing.ap50, nothing.ap75, nothing.ap_small, *(c.ap for c in nothing.per_class.values()))
        )
    assert math.isnan(mask_ap(truth_of([]), found_of([(*objects[0], 0.5)])).ap)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "image 9, which the ground truth does not list"),
        ({"category_id": 3}, r"category 3; the ground truth knows \[1\]"),
        ({"score": math.nan}, "score nan; scores must be finite"),
        ({"segmentation": rle(np.zeros((8, 8), np.uint8))}, r"mask of size \(8, 8\) on an image of \(40, 50\)"),
    ],
)
def test_a_detection_that_does_not_fit_the_ground_truth_is_refused(change, message):
    objects = [(1, 1, rectangle(2, 2, 10, 10))]
    row = found_of([(*objects[0], 0.5)])[0] | change
    with pytest.raises(DatasetError, match=message):
        mask_ap(truth_of(objects), [row])


@pytest.mark.parametrize("max_dets", [(), (0, 10)])
def test_a_limit_below_one_is_refused(max_dets):
    with pytest.raises(ValueError, match="max_dets must be one or more numbers >= 1"):
        mask_ap(truth_of([]), [], max_dets=max_dets)
