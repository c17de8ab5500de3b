"""Which objects are kept, under one index, and label maps at their own size."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg import rle
from rayseg.errors import BackendError, ModelError
from rayseg.geometry import Size
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.families import finish, split_outputs
from rayseg.predict.finish.instance import kept_rows
from rayseg.predict.prepare import Prepared, prepare

SIZE = Size(height=20, width=30)
SPEC = fake_spec(labels=("a", "b", "c"))
LEAN = replace(SPEC, flavour="lean", any_batch=True)


def image(size: Size = SIZE) -> Prepared:
    return prepare(SPEC, np.zeros((*size.hw, 3), np.uint8))


def rows(*objects) -> np.ndarray:
    return np.asarray(objects, dtype=np.float32).reshape(-1, 6)


def paddlex_raw(bbox: np.ndarray, masks: np.ndarray, min_score: float = 0.0):
    outputs = [bbox, np.asarray([len(bbox)], np.int32), masks.astype(np.float32)]
    (raw,) = split_outputs(SPEC, outputs, [image()], min_score=min_score)
    return raw


def full_masks(count: int, width: int = SIZE.width) -> np.ndarray:
    return np.ones((count, SIZE.height, width), dtype=np.float32)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_boxes_masks_and_labels_stay_together_whatever_is_dropped(seed):
    """Each object's mask is one pixel at its own centre, so a mask of a neighbour would be seen."""
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 12))
    centres = random.permutation(SIZE.width)[:count]
    bbox, masks = rows(*[[0] * 6] * count), np.zeros((count, *SIZE.hw), np.float32)
    for i, x in enumerate(centres):
        bbox[i] = (i % 3, random.uniform(0, 1), x, 3, x + 1, 6)
        masks[i, 4, x] = 1
    degenerate = random.random(count) < 0.3
    bbox[degenerate, 4] = bbox[degenerate, 2]
    fake_rows = random.random(count) < 0.1
    bbox[fake_rows, 0] = -1
    found = finish(SPEC, paddlex_raw(bbox, masks), threshold=0.4)
    wanted = [i for i in range(count) if bbox[i, 1] > 0.4 and not degenerate[i] and not fake_rows[i]]
    assert len(found) == len(wanted)
    for k, i in enumerate(wanted):
        assert found.class_ids[k] == i % 3 and found.scores[k] == bbox[i, 1]
        assert np.argwhere(rle.decode(found.masks[k])).tolist() == [[4, centres[i]]]


def test_a_degenerate_box_does_not_shift_the_masks_after_it():
    bbox = rows([0, 0.9, 0, 0, 5, 5], [1, 0.9, 10, 5, 10, 9], [2, 0.9, 10, 5, 12, 9])
    masks = full_masks(3)
    masks[1] = 0  # the degenerate one
    found = finish(SPEC, paddlex_raw(bbox, masks))
    assert found.class_ids.tolist() == [0, 2]
    assert [mask.area for mask in found.masks] == [25, 8]


def test_a_score_must_exceed_the_threshold():
    bbox = rows([0, 0.5, 0, 0, 5, 5], [0, np.nextafter(np.float32(0.5), np.float32(1)), 0, 0, 5, 5])
    assert len(finish(SPEC, paddlex_raw(bbox, full_masks(2)), threshold=0.5)) == 1


def test_rows_without_a_class_or_without_an_area_are_not_objects():
    boxes = np.asarray([[0, 0, 5, 5]] * 3 + [[4, 0, 4, 5], [0, 7, 5, 7]], dtype=np.float32)
    keep = kept_rows(np.float32([0, -1, 2, 0, 0]), np.float32([0.9, 0.9, 0.1, 0.9, 0.9]), boxes, 0.5)
    assert keep.tolist() == [0]


def test_without_a_threshold_the_models_own_counts():
    bbox = rows([0, 0.45, 0, 0, 5, 5], [0, 0.55, 0, 0, 5, 5])
    raw = paddlex_raw(bbox, full_masks(2))
    assert len(finish(SPEC, raw)) == 1
    assert len(finish(replace(SPEC, draw_threshold=0.4), raw)) == 2


def test_boxes_are_clipped_to_the_image_and_masks_cut_to_them():
    bbox = rows([0, 0.9, -7.3, 2.5, 12.5, 99])
    found = finish(SPEC, paddlex_raw(bbox, full_masks(1)))
    np.testing.assert_array_equal(found.boxes_xyxy, np.float32([[0, 2.5, 12.5, 20]]))
    assert found.masks[0].area == 12 * (20 - 2)  # 12.5 -> 12 and 2.5 -> 2: half to even


def test_a_mask_that_misses_its_last_column_is_taken_as_it_is():
    bbox = rows([0, 0.9, 0, 0, 30, 20], [0, 0.9, 28.6, 0, 30, 20])
    found = finish(SPEC, paddlex_raw(bbox, full_masks(2, width=29)))
    assert [mask.area for mask in found.masks] == [29 * 20, 0]
    assert found.masks[0].size == SIZE


def test_nothing_found_is_no_object():
    raw = paddlex_raw(rows([0] * 6), np.zeros((1, *SIZE.hw)))
    assert len(finish(SPEC, raw, threshold=0.0)) == 0
    assert raw.arrays["bits"].size == 0


def test_a_class_without_a_label_is_the_models_fault():
    with pytest.raises(ModelError, match=r"found class 3, its inference.yml has 3 labels"):
        finish(SPEC, paddlex_raw(rows([3, 0.9, 0, 0, 5, 5]), full_masks(1)))


def test_scores_cut_early_cannot_be_asked_for_later():
    bbox = rows([0, 0.9, 0, 0, 5, 5], [0, 0.3, 0, 0, 5, 5])
    raw = paddlex_raw(bbox, full_masks(2), min_score=0.5)
    assert len(raw.arrays["bbox"]) == 1 and len(finish(SPEC, raw, threshold=0.5)) == 1
    with pytest.raises(ValueError, match=r"threshold 0.2 is below 0.5"):
        finish(SPEC, raw, threshold=0.2)


def lean_outputs(counts, *, classes=0):
    random = np.random.default_rng(0)
    total = sum(counts)
    bbox = rows(*[[classes, 0.9, 2, 2, 25, 18]] * total)
    coefficients = random.normal(size=(total, 4)).astype(np.float32) * 9
    prototypes = random.normal(size=(len(counts), 4, 5, 8)).astype(np.float32)
    return [bbox, np.asarray(counts, np.int32), coefficients, prototypes]


def test_a_batch_is_cut_into_its_images():
    outputs = lean_outputs([2, 0, 3])
    raws = split_outputs(LEAN, outputs, [image()] * 3)
    assert [len(raw.arrays["bbox"]) for raw in raws] == [2, 0, 3]
    np.testing.assert_array_equal(raws[2].arrays["coefficients"], outputs[2][2:])
    np.testing.assert_array_equal(raws[2].arrays["prototypes"], outputs[3][2])
    assert "prototypes" not in raws[1].arrays  # an image without objects travels light
    assert all(a.flags.c_contiguous and a.base is None for raw in raws for a in raw.arrays.values())
    assert [len(finish(LEAN, raw)) for raw in raws] == [2, 0, 3]


@pytest.mark.parametrize("counts", [[5], [1, 2], [6, -1]])
def test_counts_that_do_not_fit_the_batch_are_refused(counts):
    outputs = lean_outputs([2, 3])
    outputs[1] = np.asarray(counts, np.int32)
    with pytest.raises(BackendError, match="gave 5 boxes counted as"):
        split_outputs(LEAN, outputs, [image()] * 2)


@pytest.mark.parametrize("which", [0, 2, 3])
def test_outputs_that_are_not_numbers_are_refused(which):
    outputs = lean_outputs([2])
    outputs[which].flat[3] = np.nan
    with pytest.raises(BackendError, match="not finite numbers"):
        split_outputs(LEAN, outputs, [image()])


SEMANTIC = fake_spec("semantic", labels=("a", "b", "c"))


def test_a_label_map_returns_to_the_images_size():
    labels = np.random.default_rng(0).integers(0, 3, (1, 8, 8)).astype(np.int32)
    prepared = Prepared(np.zeros((8, 8, 3), np.uint8), SIZE, Size(8, 8), Size(8, 8))
    (raw,) = split_outputs(SEMANTIC, [labels], [prepared])
    assert raw.arrays["labels"].dtype == np.uint8
    wanted = cv2.resize(labels[0].astype(np.uint8), SIZE.wh, interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(finish(SEMANTIC, raw).labels, wanted)


def test_many_classes_need_two_bytes():
    spec = replace(SEMANTIC, labels=tuple(map(str, range(300))))
    prepared = image(Size(4, 4))
    (raw,) = split_outputs(spec, [np.full((1, 4, 4), 299, np.int32)], [prepared])
    assert finish(spec, raw).labels.dtype == np.uint16
    assert finish(spec, raw).labels.max() == 299


@pytest.mark.parametrize("value", [-1, 3, 70000])
def test_a_pixel_without_a_label_is_refused(value):
    labels = np.zeros((1, 4, 4), np.int32)
    labels[0, 1, 1] = value
    with pytest.raises((BackendError, ModelError), match="class"):
        finish(SEMANTIC, *split_outputs(SEMANTIC, [labels], [image(Size(4, 4))]))


def test_bytes_without_a_label_are_refused_too():
    labels = np.full((1, 4, 4), 7, np.uint8)
    with pytest.raises(ModelError, match="found class 7, it has 3 labels"):
        finish(SEMANTIC, *split_outputs(SEMANTIC, [labels], [image(Size(4, 4))]))


def test_a_label_map_of_another_size_is_refused():
    with pytest.raises(BackendError, match=r"label map of \(1, 4, 5\)"):
        split_outputs(SEMANTIC, [np.zeros((1, 4, 5), np.int32)], [image(Size(4, 4))])
