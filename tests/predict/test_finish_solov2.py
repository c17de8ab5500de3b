"""Finishing SOLOv2: fast masks against full canvases, boxes from masks, and what both flavours keep."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg import rle
from rayseg.errors import BackendError, ModelError
from rayseg.geometry import Size, Window
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.families import solov2
from rayseg.predict.finish.solov2_masks import cut_soft_mask, extent, finish_soft_mask, to_size
from rayseg.predict.prepare import Prepared
from rayseg.predict.raw import Raw
from rayseg.results import Instances

NEAR = 1e-4  # a value this close to 0.5 may fall on either side
SPEC = replace(fake_spec(labels=("a", "b", "c")), family="solov2")
SIZE = Size(height=20, width=30)


def canvas(soft: np.ndarray, resized: Size, original: Size) -> np.ndarray:
    """Values before the comparison, the obvious way: enlarge everything, cut, resize."""
    large = cv2.resize(soft, (soft.shape[1] * 4, soft.shape[0] * 4), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(large[: resized.height, : resized.width], original.wh, interpolation=cv2.INTER_LINEAR)


@st.composite
def soft_masks(draw) -> tuple[np.ndarray, Size, Size]:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    resized, original = (Size(draw(st.integers(1, 90)), draw(st.integers(1, 90))) for _ in range(2))
    padded = [-(-side // 32) * 8 for side in resized.hw]
    soft = cv2.resize(random.uniform(0, 1, (4, 4)).astype(np.float32), padded[::-1], interpolation=cv2.INTER_LINEAR)
    if draw(st.booleans()):  # one small object
        alone = np.zeros_like(soft)
        y, x = int(random.integers(padded[0])), int(random.integers(padded[1]))
        alone[y : y + 3, x : x + 3] = random.uniform(0.4, 1)
        soft = alone
    return soft, resized, original


@given(soft_masks())
@settings(max_examples=300)
def test_a_fast_mask_equals_the_full_canvas_and_its_box_is_the_smallest(case):
    soft, resized, original = case
    box, found = finish_soft_mask(cut_soft_mask(soft), Size(*soft.shape), resized, original)
    values, pixels = canvas(soft, resized, original), rle.decode(found)
    clear = np.abs(values - 0.5) > NEAR
    np.testing.assert_array_equal(pixels[clear], (values > 0.5)[clear])
    assert found.size == original and extent(pixels) == box


def test_only_the_surroundings_of_an_object_travel():
    soft = np.zeros((200, 336), np.float32)
    soft[50:60, 100:104] = 1
    part = cut_soft_mask(soft)
    assert part.window == Window(98, 48, 106, 62) and part.soft.shape == (14, 8)
    assert cut_soft_mask(np.full((200, 336), 0.5, np.float32)).window.empty
    whole = cut_soft_mask(np.ones((5, 7), np.float32))
    assert whole.window == Window(0, 0, 7, 5)


def test_a_large_mask_needs_memory_for_its_pixels_and_a_strip():
    soft = np.ones((200, 336), np.float32)
    original = Size(3000, 5000)
    tracemalloc.start()
    box, mask = finish_soft_mask(cut_soft_mask(soft), Size(200, 336), Size(800, 1333), original)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask.area == original.pixels and box == Window.of(original)
    assert peak < 5 * original.pixels  # bytes; as floats the mask alone would be 4


@pytest.mark.parametrize("given_hw", [(20, 31), (20, 29), (19, 30), (20, 90), (1, 1)])
def test_a_mask_of_another_size_is_stretched_to_the_image(given_hw):
    mask = np.zeros(given_hw, bool)
    mask[: (given_hw[0] + 1) // 2, (given_hw[1] + 1) // 2 :] = True
    found = to_size(mask, SIZE)
    rows, columns = np.arange(SIZE.height) + 0.5, np.arange(SIZE.width) + 0.5
    y, x = rows * given_hw[0] / SIZE.height, columns * given_hw[1] / SIZE.width
    np.testing.assert_array_equal(found, mask[np.floor(y).astype(int)[:, None], np.floor(x).astype(int)])
    same = np.zeros(SIZE.hw, bool)
    assert to_size(same, SIZE) is same


# ---- both flavours


def image(size: Size = SIZE, *, resized: Size | None = None, network: Size | None = None) -> Prepared:
    resized = resized or size
    return Prepared(np.zeros((*size.hw, 3), np.uint8), size, resized, network or resized)


def paddlex(classes, scores, masks, *, threshold: float = 0.0, min_score: float = 0.0, size: Size = SIZE) -> Instances:
    """Objects of what an exported program of PaddleX gave, whose count has no axis."""
    outputs = [np.asarray(len(classes), np.int64), np.asarray(classes, np.int64)]
    outputs += [np.asarray(scores, np.float32), np.asarray(masks, np.uint8)]
    (arrays,) = solov2.PADDLEX.split(SPEC, outputs, [image(size)], min_score)
    return solov2.PADDLEX.finish(SPEC, Raw(arrays, size, size, size, min_score), threshold)


def lean(rows, counts, soft, *, threshold: float = 0.0, min_score: float = 0.0) -> list[Instances]:
    """Objects of images of 20 x 30 in an input of 32 x 32."""
    network = Size(32, 32)
    outputs = [np.asarray(rows, np.float32).reshape(-1, 2), np.asarray(counts, np.int32), np.asarray(soft, np.float32)]
    found = solov2.LEAN.split(SPEC, outputs, [image(network=network)] * len(counts), min_score)
    return [solov2.LEAN.finish(SPEC, Raw(a, SIZE, SIZE, network, min_score), threshold) for a in found]


def rectangle(x0, y0, x1, y1, hw=SIZE.hw) -> np.ndarray:
    mask = np.zeros(hw, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def test_an_objects_box_is_the_smallest_around_its_mask():
    mask = rectangle(3, 4, 9, 6) | rectangle(20, 10, 21, 11)
    found = paddlex([1], [0.7], [mask])
    assert found.boxes_xyxy.tolist() == [[3, 4, 21, 11]] and found.class_ids.tolist() == [1]
    np.testing.assert_array_equal(rle.decode(found.masks[0]), mask.astype(bool))


def test_a_score_equal_to_the_threshold_is_kept_and_a_lower_one_is_not():
    below = np.nextafter(np.float32(0.3), np.float32(0))
    masks = [rectangle(0, 0, 5, 5)] * 3
    soft = np.ones((3, 8, 8))
    for kwargs in ({"threshold": 0.3}, {"threshold": 0.3, "min_score": 0.3}):
        assert paddlex([0, 1, 2], [0.4, 0.3, below], masks, **kwargs).class_ids.tolist() == [0, 1]
        (found,) = lean([[0, 0.4], [1, 0.3], [2, below]], [3], soft, **kwargs)
        assert found.class_ids.tolist() == [0, 1]


def test_made_up_objects_of_score_zero_are_none_even_at_threshold_zero():
    assert len(paddlex([0], [0.0], [np.ones(SIZE.hw)], threshold=0.0)) == 0
    assert paddlex([2, 0], [0.5, 0.0], [np.ones(SIZE.hw)] * 2, threshold=0.0).class_ids.tolist() == [2]


def test_a_score_that_exceeds_one_by_a_last_bit_is_one():
    above = np.nextafter(np.float32(1), np.float32(2))
    assert paddlex([0], [above], [np.ones(SIZE.hw)]).scores.tolist() == [1]
    assert lean([[0, above]], [1], np.ones((1, 8, 8)))[0].scores.tolist() == [1]


def test_masks_a_column_off_are_mended():
    """In a 600 px wide image the factor of the height makes 599 or 601 columns."""
    for width in (SIZE.width - 1, SIZE.width + 1):
        right_half = rectangle(width // 2, 5, width, 15, hw=(SIZE.height, width))
        found = paddlex([0], [0.9], [right_half])
        assert found.masks[0].size == SIZE
        assert found.boxes_xyxy[0, 2] == SIZE.width and abs(found.boxes_xyxy[0, 0] - SIZE.width / 2) <= 1


def test_objects_without_a_pixel_are_dropped_and_the_others_keep_their_own_masks():
    masks = [rectangle(1, 1, 4, 4), np.zeros(SIZE.hw), rectangle(9, 9, 12, 12)]
    found = paddlex([0, 1, 2], [0.9, 0.8, 0.7], masks)
    assert found.class_ids.tolist() == [0, 2]
    assert found.boxes_xyxy.tolist() == [[1, 1, 4, 4], [9, 9, 12, 12]]
    soft = np.zeros((3, 8, 8))
    soft[0, :2, :2] = soft[2, 3:, 5:] = 1
    soft[1, 6:, :] = 1  # below the image's 20 rows: padding only
    (found,) = lean([[0, 0.9], [1, 0.8], [2, 0.7]], [3], soft)
    assert found.class_ids.tolist() == [0, 2]
    assert found.boxes_xyxy[0].tolist() == [0, 0, 8, 8]
    assert found.boxes_xyxy[1].tolist() == [20, 12, 30, 20]


def test_every_image_of_a_batch_gets_its_own_objects():
    soft = np.zeros((3, 8, 8))
    soft[0, :2, :2] = soft[1, :3, :3] = soft[2, :4, :4] = 1
    first, nothing, last = lean([[0, 0.9], [1, 0.8], [2, 0.7]], [1, 0, 2], soft)
    assert len(nothing) == 0 and nothing.size == SIZE
    assert first.masks[0].area == 63, "8 x 8 but for the inner corner, which is rounded off"
    assert first.class_ids.tolist() == [0] and last.class_ids.tolist() == [1, 2]
    assert last.boxes_xyxy.tolist() == [[0, 0, 12, 12], [0, 0, 16, 16]]
    assert [len(found) for found in lean([], [0, 0], np.zeros((0, 8, 8)))] == [0, 0]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(BackendError, match="not finite"):
        paddlex([0], [np.nan], [np.ones(SIZE.hw)])
    with pytest.raises(BackendError, match=r"1 classes, 1 scores and 2 masks, counted as 1"):
        paddlex([0], [0.5], [np.ones(SIZE.hw)] * 2)
    with pytest.raises(BackendError, match=r"2 objects and 2 masks counted as \[1\] for 1 images"):
        lean([[0, 0.9], [1, 0.8]], [1], np.ones((2, 8, 8)))
    for found in (lambda: paddlex([3], [0.5], [np.ones(SIZE.hw)]), lambda: lean([[3, 0.5]], [1], np.ones((1, 8, 8)))):
        with pytest.raises(ModelError, match="class 3"):
            found()
