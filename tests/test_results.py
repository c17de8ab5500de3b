"""What a model found in one image: the checks on creation, and slicing, moving and joining."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayseg import rle
from rayseg.geometry import Size
from rayseg.results import Instances, SemanticMap

SIZE = Size(12, 16)


@st.composite
def instances(draw, size=SIZE, most=5):
    """A few rectangles, each with the box around it."""
    n = draw(st.integers(0, most))
    boxes, masks = [], []
    for _ in range(n):
        x0, y0 = draw(st.integers(0, size.width - 1)), draw(st.integers(0, size.height - 1))
        x1, y1 = draw(st.integers(x0 + 1, size.width)), draw(st.integers(y0 + 1, size.height))
        canvas = np.zeros(size.hw, dtype=bool)
        canvas[y0:y1, x0:x1] = True
        boxes.append((x0, y0, x1, y1))
        masks.append(rle.encode(canvas))
    scores = draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n))
    classes = draw(st.lists(st.integers(0, 300), min_size=n, max_size=n))
    return Instances(size, np.asarray(boxes, dtype=np.float32), scores, classes, masks)


def same(a, b):
    return (
        a.size == b.size
        and a.masks == b.masks
        and (a.boxes_xyxy == b.boxes_xyxy).all()
        and (a.scores == b.scores).all()
        and (a.class_ids == b.class_ids).all()
    )


def one(**changes):
    """The fields of one good object over the top left four pixels, with some of them changed."""
    canvas = np.zeros(SIZE.hw, dtype=bool)
    canvas[:2, :2] = True
    fields = {"boxes_xyxy": [[0, 0, 2, 2]], "scores": [0.5], "class_ids": [1], "masks": [rle.encode(canvas)]}
    return {"size": SIZE, **fields, **changes}


@given(instances(), st.data())
def test_selecting_takes_the_same_rows_of_every_field(found, data):
    rows = data.draw(st.lists(st.integers(0, len(found) - 1), max_size=6)) if len(found) else []
    part = found.select(rows)
    assert len(part) == len(rows)
    for place, row in enumerate(rows):
        assert same(part.select([place]), found.select([row]))
        assert part.masks[place] == found.masks[row] and part.scores[place] == found.scores[row]


@given(instances(), st.data())
def test_a_bool_vector_selects_what_its_indices_select(found, data):
    keep = data.draw(hnp.arrays(bool, len(found)))
    assert same(found.select(keep), found.select(np.flatnonzero(keep)))


def test_a_bool_vector_of_another_length_is_refused():
    found = Instances.none(Size(4, 4))
    with pytest.raises(ValueError, match=r"shape \(2,\) does not say which of 0"):
        found.select(np.asarray([True, False]))


@given(instances(), st.data())
def test_parts_join_to_the_whole(found, data):
    cut = data.draw(st.integers(0, len(found)))
    assert same(Instances.join([found.select(range(cut)), found.select(range(cut, len(found)))]), found)


@given(instances(), st.integers(0, 7), st.integers(0, 9))
def test_moving_objects_onto_a_larger_canvas_moves_boxes_and_pixels_together(found, dx, dy):
    size = Size(SIZE.height + 9, SIZE.width + 7)
    moved = found.shift(dx, dy, size)
    assert moved.size == size and (moved.scores == found.scores).all()
    assert (moved.boxes_xyxy == found.boxes_xyxy + np.float32([dx, dy, dx, dy])).all()
    for before, after in zip(found.masks, moved.masks, strict=True):
        canvas = np.zeros(size.hw, dtype=bool)
        canvas[dy : dy + SIZE.height, dx : dx + SIZE.width] = rle.decode(before)
        assert (rle.decode(after) == canvas).all()


LABEL_MAPS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.integers(0, 4))


@given(LABEL_MAPS)
def test_a_label_map_is_rebuilt_from_its_regions(labels):
    assert (SemanticMap.from_regions(SemanticMap(labels).regions()).labels == labels).all()


@given(LABEL_MAPS)
def test_regions_are_one_for_each_class_in_order_with_tight_boxes(labels):
    regions = SemanticMap(labels).regions()
    assert regions.class_ids.tolist() == sorted(set(labels.reshape(-1).tolist()))
    for class_id, mask, box in zip(regions.class_ids, regions.masks, regions.boxes_xyxy, strict=True):
        rows, columns = np.nonzero(labels == class_id)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert mask.area == len(rows)


def test_wide_class_ids_survive_the_way_through_regions():
    labels = np.array([[0, 256], [700, 65_535]], dtype=np.uint16)
    assert (SemanticMap.from_regions(SemanticMap(labels).regions()).labels == labels).all()


def test_no_objects_is_a_result_like_any_other():
    none = Instances.none(SIZE)
    assert len(none) == 0 and none.boxes_xyxy.shape == (0, 4)
    assert same(none.select([]), none) and same(Instances.join([none, none]), none)
    assert same(none.shift(1, 1, Size(20, 20)), Instances.none(Size(20, 20)))


def test_a_box_may_touch_every_edge_of_the_image_and_may_be_empty():
    Instances(**one(boxes_xyxy=[[0, 0, SIZE.width, SIZE.height]]))
    Instances(**one(boxes_xyxy=[[5, 5, 5, 5]]))


def test_fields_have_their_documented_types_whatever_they_came_as():
    found = Instances(**one(boxes_xyxy=np.array([[0, 0, 2, 2]], dtype=np.float64), masks=one()["masks"]))
    assert (found.boxes_xyxy.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int32)
    assert isinstance(found.masks, tuple)


def test_results_cross_process_borders():
    found = Instances(**one())
    assert same(pickle.loads(pickle.dumps(found)), found)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"scores": [0.5, 0.6]}, "1 boxes, 2 scores, 1 classes and 1 masks do not describe the same objects"),
        ({"masks": []}, "1 boxes, 1 scores, 1 classes and 0 masks"),
        ({"scores": [1.01]}, r"scores must lie in \[0, 1\]"),
        ({"scores": [-0.01]}, r"scores must lie in \[0, 1\]"),
        ({"scores": [float("nan")]}, "be numbers"),
        ({"class_ids": [-1]}, "negative class id -1"),
        ({"boxes_xyxy": [[0, 0, float("nan"), 2]]}, "boxes must be finite numbers"),
        ({"boxes_xyxy": [[0, 0, float("inf"), 2]]}, "boxes must be finite numbers"),
        ({"boxes_xyxy": [[3, 0, 2, 2]]}, "a box ends before it starts"),
        ({"boxes_xyxy": [[0, 3, 2, 2]]}, "a box ends before it starts"),
        ({"boxes_xyxy": [[-1, 0, 2, 2]]}, "leaves the image of Size.*clip boxes"),
        ({"boxes_xyxy": [[0, 0, 17, 2]]}, "leaves the image"),
        ({"boxes_xyxy": [[0, 0, 2, 13]]}, "leaves the image"),
        ({"size": Size(12, 17)}, "mask of Size.*in an image of Size"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Instances(**one(**changes))


def test_results_of_different_images_do_not_join():
    with pytest.raises(ValueError, match="one image size only"):
        Instances.join([Instances.none(SIZE), Instances.none(Size(1, 1))])
    with pytest.raises(ValueError, match=r"one image size only, got \[\]"):
        Instances.join([])


def test_an_object_moved_off_the_canvas_is_refused():
    with pytest.raises(ValueError, match="leaves the image"):
        Instances(**one()).shift(1, 0, SIZE)


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.zeros((2, 2, 1), np.uint8), r"non-empty \(H, W\) array, got shape \(2, 2, 1\)"),
        (np.zeros((0, 2), np.uint8), r"got shape \(0, 2\)"),
        (np.zeros((2, 2), np.int32), "uint8 or uint16, got int32"),
        (np.zeros((2, 2), np.float32), "uint8 or uint16, got float32"),
    ],
)
def test_what_is_no_label_map_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        SemanticMap(labels)


def test_regions_that_overlap_or_leave_holes_are_no_label_map():
    regions = SemanticMap(np.array([[0, 1], [2, 2]], dtype=np.uint8)).regions()
    for broken in (regions.select([0, 1]), regions.select([0, 1, 2, 2]), Instances.none(regions.size)):
        with pytest.raises(ValueError, match="cover every pixel exactly once"):
            SemanticMap.from_regions(broken)
