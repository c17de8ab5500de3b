"""Targets of the R-CNN networks against slow, obvious code, then against stored assignments of the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.geometry import Size
from rayseg.models.instance.rcnn_mask_targets import coverage, from_bitmaps, from_polygons
from rayseg.models.instance.rcnn_targets import (
    OBJECTS_AT_ONCE,
    AnchorRules,
    Objects,
    RegionRules,
    label_regions,
    match,
    objects_of,
    sample_anchors,
    sample_regions,
    take_first,
    take_random,
)

CLASSES = 3


def some_boxes(random: np.random.RandomState, count: int, side: int = 40) -> np.ndarray:
    """Whole-pixel boxes, some without area, many overlapping."""
    corners = random.randint(0, side, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=1).astype("float32")


def objects(boxes: np.ndarray, classes: np.ndarray | None = None) -> Objects:
    classes = np.zeros(len(boxes), "int64") if classes is None else classes
    return Objects(paddle.to_tensor(boxes), paddle.to_tensor(classes), paddle.arange(len(boxes), dtype="int64"))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if both else 0.0


# ---- matching


@given(st.integers(0, 1000), st.integers(0, 30), st.sampled_from([0, 1, 5, OBJECTS_AT_ONCE, OBJECTS_AT_ONCE + 9]))
@settings(max_examples=25)
def test_each_box_gets_the_object_it_overlaps_most(seed, boxes, truth):
    random = np.random.RandomState(seed)
    boxes, truth = some_boxes(random, boxes), some_boxes(random, truth)
    found = match(paddle.to_tensor(boxes), paddle.to_tensor(truth))
    table = np.array([[overlap(b, t) for t in truth] for b in boxes]).reshape(len(boxes), len(truth))
    for i, row in enumerate(table):
        best = row.max(initial=0)
        assert float(found.overlaps[i]) == pytest.approx(best, abs=1e-6)
        assert best == 0 or row[int(found.objects[i])] == pytest.approx(best, abs=1e-6)
        is_best = any(row[j] > 0 and row[j] == table[:, j].max() for j in range(len(truth)))
        assert bool(found.is_best[i]) == is_best
    assert found.objects.shape == found.overlaps.shape == found.is_best.shape == [len(boxes)]


def test_of_equal_objects_the_first_is_taken():
    truth = np.tile(np.array([[2, 2, 9, 9]], "float32"), (2 * OBJECTS_AT_ONCE, 1))
    assert match(paddle.to_tensor(truth[:1]), paddle.to_tensor(truth)).objects.tolist() == [0]


# ---- anchors


@given(st.integers(0, 1000), st.integers(0, 6), st.integers(1, 40))
@settings(max_examples=25)
def test_sampled_anchors_follow_the_rules(seed, truth, per_image):
    random = np.random.RandomState(seed)
    anchors, truth = some_boxes(random, 60), some_boxes(random, truth)
    rules = AnchorRules(per_image=per_image)
    chosen = sample_anchors(paddle.to_tensor(anchors), paddle.to_tensor(truth), rules=rules, sampler=take_random)
    table = np.array([[overlap(a, t) for t in truth] for a in anchors]).reshape(len(anchors), len(truth))
    is_best = ((table == table.max(0, initial=0)) & (table > 0)).any(1)
    is_positive = (table.max(1, initial=0) >= 0.7) | is_best
    is_negative = (table.max(1, initial=0) < 0.3) & ~is_best
    positive, negative = chosen.positive.numpy(), chosen.negative.numpy()
    assert is_positive[positive].all() and is_negative[negative].all()
    assert len(set(positive)) == len(positive) == min(is_positive.sum(), per_image // 2)
    assert len(set(negative)) == len(negative) == min(is_negative.sum(), per_image - len(positive))
    for anchor, which in zip(positive, chosen.objects.tolist(), strict=True):
        assert table[anchor, which] == table[anchor].max()


def test_an_anchor_that_fits_badly_is_used_where_none_fits_better():
    anchors = paddle.to_tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [20, 20, 26, 30]])
    truth = paddle.to_tensor([[0.0, 0, 2, 2], [20, 20, 30, 30]])
    chosen = sample_anchors(anchors, truth, rules=AnchorRules(), sampler=take_first)
    assert chosen.positive.tolist() == [0, 1] and chosen.objects.tolist() == [0, 1]
    assert chosen.negative.tolist() == [], "an overlap of 0.6 is neither"


def test_an_anchor_that_fits_well_is_used_beside_a_better_one():
    anchors = paddle.to_tensor([[0.0, 0, 10, 10], [0, 0, 10, 7.2], [0, 0, 10, 2.8]])
    chosen = sample_anchors(anchors, anchors[:1], rules=AnchorRules(), sampler=take_first)
    assert chosen.positive.tolist() == [0, 1] and chosen.negative.tolist() == [2]


# ---- regions


@given(st.integers(0, 1000), st.integers(0, 6), st.integers(0, 50), st.integers(1, 40))
@settings(max_examples=25)
def test_sampled_regions_follow_the_rules(seed, truth, proposals, per_image):
    random = np.random.RandomState(seed)
    known = objects(some_boxes(random, truth), random.randint(0, CLASSES, truth))
    proposals = some_boxes(random, proposals)
    rules = RegionRules(per_image=per_image)
    chosen = sample_regions(paddle.to_tensor(proposals), known, num_classes=CLASSES, rules=rules, sampler=take_random)
    boxes, labels, which = (column.numpy() for column in chosen)
    truth = known.boxes.numpy()
    candidates = np.concatenate([proposals, truth])
    best = np.array([max([overlap(c, t) for t in truth], default=0) for c in candidates])
    is_object = labels != CLASSES
    assert is_object.sum() == min((best >= 0.5).sum(), per_image // 4)
    assert (~is_object).sum() == min((best < 0.5).sum(), per_image - is_object.sum())
    for box, label, j in zip(boxes, labels, which, strict=True):
        overlaps = [overlap(box, t) for t in truth]
        if label == CLASSES:
            assert max(overlaps, default=0) < 0.5
        else:
            assert overlaps[j] == pytest.approx(max(overlaps)) and overlaps[j] >= 0.5
            assert label == known.classes[int(j)]


def test_later_stages_keep_every_region_and_ask_for_more_overlap():
    known = objects(np.array([[0, 0, 10, 10]], "float32"), np.array([2]))
    boxes = paddle.to_tensor([[0.0, 0, 10, 5], [0, 0, 10, 7], [20, 20, 30, 30]], stop_gradient=False)
    labels = {
        overlap: label_regions(boxes * 1.0, known, num_classes=CLASSES, rules=RegionRules(overlap=overlap, per_image=1))
        for overlap in (0.5, 0.6, 0.75)
    }
    assert [labels[k].labels.tolist() for k in (0.5, 0.6, 0.75)] == [[2, 2, 3], [3, 2, 3], [3, 3, 3]]
    assert all(regions.boxes.stop_gradient for regions in labels.values())


def test_padding_is_taken_away_wherever_it_stands():
    targets = {
        "gt_bbox": paddle.to_tensor([[[0.0, 0, 0, 0], [1, 2, 3, 4]], [[0, 0, 0, 0], [0, 0, 0, 0]]]),
        "gt_class": paddle.to_tensor([[[0], [7]], [[0], [0]]], dtype="int64"),
        "pad_gt_mask": paddle.to_tensor([[[0.0], [1]], [[0], [0]]]),
    }
    first, second = objects_of(targets)
    assert first.boxes.tolist() == [[1, 2, 3, 4]] and first.classes.tolist() == [7] and first.slots.tolist() == [1]
    assert second.boxes.shape == [0, 4] and second.classes.shape == second.slots.shape == [0]
    empty = {name: value[:, :0] for name, value in targets.items()}
    assert [len(known.boxes) for known in objects_of(empty)] == [0, 0]


def test_a_random_sampler_repeats_with_its_seed_and_takes_none_twice():
    candidates = paddle.arange(100, 200)
    draws = []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        draws.append(take_random(candidates, 30).tolist())
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 30 and set(draws[0]) <= set(candidates.tolist())
    assert sorted(take_random(candidates, 100).tolist()) == candidates.tolist()
    assert take_random(candidates, 0).shape == [0] and take_first(candidates, 2).tolist() == [100, 101]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name, per_image", [("MaskRCNN-ResNet50-FPN", 512), ("MaskRCNN-ResNet50", 64)])
@pytest.mark.parametrize("image", [0, 1])
def test_regions_are_labelled_as_in_the_reference(shared_dir: Path, name, per_image, image):
    with np.load(shared_dir / "zoo" / "loss" / f"{name}.npz") as stored:
        known = objects(stored[f"gt/boxes{image}"], stored[f"gt/class{image}"].ravel().astype("int64"))
        found = sample_regions(
            paddle.to_tensor(stored[f"fixed/rois{image}"]),
            known,
            num_classes=80,
            rules=RegionRules(per_image=per_image),
            sampler=take_first,
        )
        assert found.labels.tolist() == stored[f"fixed/assigned_labels{image}"].tolist()
        chosen = stored[f"assigned/rois{image}"]
        again = label_regions(paddle.to_tensor(chosen), known, num_classes=80, rules=RegionRules())
        assert again.labels.tolist() == stored[f"assigned/labels{image}"].tolist()
        real = again.labels.numpy() != 80
        assert (again.objects.numpy() == stored[f"assigned/gt_ind{image}"])[real].all()


# ---- masks


def slow_coverage(bitmap: np.ndarray, box: np.ndarray, resolution: int) -> np.ndarray:
    """Share of each cell that is covered, pixel by pixel."""
    out = np.zeros((resolution, resolution))
    x = np.linspace(box[0], box[2], resolution + 1)
    y = np.linspace(box[1], box[3], resolution + 1)
    for i in range(resolution):
        for j in range(resolution):
            for row, column in np.argwhere(bitmap):
                height = min(y[i + 1], row + 1) - max(y[i], row)
                width = min(x[j + 1], column + 1) - max(x[j], column)
                out[i, j] += max(height, 0) * max(width, 0)
    return out / ((x[1] - x[0]) * (y[1] - y[0]))


@given(st.integers(0, 1000), st.floats(-4, 12), st.floats(-4, 12), st.floats(0.2, 20), st.floats(0.2, 20))
@settings(max_examples=25)
def test_coverage_is_exact(seed, x, y, width, height):
    bitmap = np.random.RandomState(seed).rand(9, 12) < 0.4
    boxes = np.array([[x, y, x + width, y + height], [0, 0, 12, 9]])
    found = coverage(bitmap, boxes, resolution=5)
    for k in range(2):
        np.testing.assert_allclose(found[k], slow_coverage(bitmap, boxes[k], 5), atol=1e-9)


@pytest.mark.parametrize("kind", ["uint8", "bool", "float32"])
def test_a_bitmap_may_be_of_any_type_and_scale(kind):
    bitmaps = np.zeros((2, 40, 80), kind)
    bitmaps[0, 8:24, 16:64] = 1
    boxes = np.array([[16, 8, 64, 24], [0, 0, 80, 40], [-100, -100, -50, -50], [16, 8, 40, 40]], "float32")
    which = np.array([0, 0, 0, 0])
    size = Size(height=40, width=80)
    full = from_bitmaps(bitmaps, boxes, which, image_size=size, resolution=10)
    assert full.dtype == np.float32 and full[0].all() and not full[2].any()
    np.testing.assert_array_equal(full[1][2:6, 2:8], 1)
    assert full[1].sum() == 24 and full[3].sum() == 5 * 10
    quarter = from_bitmaps(bitmaps[:, ::4, ::4], boxes, which, image_size=size, resolution=10)
    np.testing.assert_array_equal(quarter, full)
    assert from_bitmaps(bitmaps, boxes, which + 1, image_size=size, resolution=10).sum() == 0


def test_a_cell_belongs_to_what_covers_half_of_it_and_each_region_has_its_own_object():
    bitmaps = np.zeros((2, 10, 20), "uint8")
    bitmaps[0, :4, :10], bitmaps[0, :6, 10:] = 1, 1
    bitmaps[1] = 1 - bitmaps[0]
    boxes = np.tile(np.array([[0, 0, 20, 10]], "float32"), (3, 1))
    size = Size(height=10, width=20)
    found = from_bitmaps(bitmaps, boxes, np.array([1, 0, 1]), image_size=size, resolution=2)
    np.testing.assert_array_equal(found[1], [[1, 1], [0, 0]])
    np.testing.assert_array_equal(found[0], [[0, 0], [1, 1]])
    whole = from_bitmaps(bitmaps[:, :, ::10], boxes, np.array([0, 1, 0]), image_size=size, resolution=1)
    np.testing.assert_array_equal(whole.ravel(), [1, 1, 1])
    shares = from_bitmaps(bitmaps, boxes / [2, 1, 2, 1], np.array([0, 1, 0]), image_size=size, resolution=1)
    np.testing.assert_array_equal(shares.ravel(), [0, 1, 0])
    np.testing.assert_array_equal(found[2], found[0])


def test_polygons_and_bitmaps_say_nearly_the_same():
    from rayseg.polygons import rasterize

    size = Size(height=120, width=160)
    angle = np.linspace(0, 6, 9)
    polygon = np.stack([80 + 50 * np.cos(angle), 60 + 40 * np.sin(angle)], axis=1).ravel()
    boxes = np.array([[25, 15, 135, 105], [60, 40, 140, 110]], "float32")
    which = np.zeros(2, "int64")
    exact = from_polygons([[polygon]], boxes, which, resolution=28)
    drawn = from_bitmaps(rasterize([polygon], size)[None], boxes, which, image_size=size, resolution=28)
    assert 0.3 < exact.mean() < 0.9
    assert (exact != drawn).mean() < 0.03


def test_a_pixel_is_found_in_its_own_box_and_an_empty_box_is_empty():
    bitmap = np.zeros((1, 30, 30), "uint8")
    bitmap[0, 29, 29] = 1
    boxes = np.array([[29, 29, 30, 30], [29, 29, 29, 29], [5, 5, 5, 9]], "float32")
    found = from_bitmaps(bitmap, boxes, np.zeros(3, "int64"), image_size=Size(height=30, width=30), resolution=28)
    assert found[0].all() and not found[1:].any()
