"""Finishing Mask-RT-DETR: masks in their boxes against full canvases, what travels, and that both flavours agree."""

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
from rayseg.predict.families import mask_rtdetr
from rayseg.predict.families.family import one_after_the_other
from rayseg.predict.finish import logit_masks
from rayseg.predict.finish.logit_masks import CoarseGrid, windows_of
from rayseg.predict.finish.masks import linear_taps
from rayseg.predict.prepare import Prepared
from rayseg.predict.raw import Raw
from rayseg.results import Instances

NEAR = 1e-4  # a value this close to 0 may fall on either side
SPEC = replace(fake_spec(labels=("a", "b", "c")), family="mask_rtdetr")
NET = Size(height=64, width=64)
COARSE = Size(height=16, width=16)


def canvas(logits: np.ndarray, size: Size) -> np.ndarray:
    """Values before the comparison, the obvious way: the whole mask enlarged to the whole image."""
    return cv2.resize(logits.astype(np.float64), size.wh, interpolation=cv2.INTER_LINEAR)


def smooth(random: np.random.Generator, size: Size) -> np.ndarray:
    rough = random.normal(0, 4, (5, 5)).astype(np.float32)
    return cv2.resize(rough, size.wh, interpolation=cv2.INTER_LINEAR)


@st.composite
def objects(draw) -> tuple[np.ndarray, Window, Size]:
    """Coarse logits, a window of an image, and the image's size."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = Size(draw(st.integers(2, 90)), draw(st.integers(2, 90)))
    coarse = Size(draw(st.integers(2, 20)), draw(st.integers(2, 20)))
    x0, x1 = sorted(random.integers(0, image.width + 1, 2).tolist())
    y0, y1 = sorted(random.integers(0, image.height + 1, 2).tolist())
    return smooth(random, coarse), Window(x0, y0, x1, y1), image


@given(objects())
@settings(max_examples=300)
def test_a_mask_in_its_box_equals_the_full_canvas_cut_to_the_box(case):
    logits, window, size = case
    grid = CoarseGrid(Size(*logits.shape), size)
    found = rle.decode(grid.enlarge(grid.cut(logits, window), window))
    values, inside = canvas(logits, size), np.zeros(size.hw, dtype=bool)
    inside[window.slices] = True
    clear = np.abs(values) > NEAR
    np.testing.assert_array_equal(found[clear], ((values > 0) & inside)[clear])


@given(objects(), st.integers(1, 200))
@settings(max_examples=100)
def test_many_masks_are_bit_for_bit_those_of_each_pixel_on_its_own(case, strip):
    logits, window, size = case
    grid = CoarseGrid(Size(*logits.shape), size)
    parts = [(grid.cut(values, window), window) for values in (logits, -logits, np.round(logits))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logit_masks, "STRIP_PIXELS", strip)
        found = grid.enlarge_many(parts)
    (top, bottom, down), (left, right, across) = (
        linear_taps(coarse, image, range(image)) for coarse, image in zip(logits.shape, size.hw, strict=True)
    )
    for mask, values in zip(found, (logits, -logits, np.round(logits)), strict=True):
        wanted = np.zeros(size.hw, dtype=bool)
        for y in range(window.y0, window.y1):
            row = values[top[y]] * (1 - down[y]) + values[bottom[y]] * down[y]
            for x in range(window.x0, window.x1):
                wanted[y, x] = row[left[x]] * (1 - across[x]) + row[right[x]] * across[x] > 0
        np.testing.assert_array_equal(rle.decode(mask), wanted)


def test_arrays_one_after_the_other_are_their_values_in_order():
    whole = np.arange(20, dtype=np.float32).reshape(4, 5)
    found = one_after_the_other([whole[1:3, 2:4], whole[:0], whole[3]])
    assert found.tolist() == [7, 8, 12, 13, 15, 16, 17, 18, 19] and found.base is None
    assert one_after_the_other([]).shape == (0,) and one_after_the_other([]).dtype == np.float32


@given(objects())
@settings(max_examples=100)
def test_nothing_outside_the_part_that_was_cut_matters(case):
    logits, window, size = case
    grid = CoarseGrid(Size(*logits.shape), size)
    part = grid.cut(logits, window)
    elsewhere = np.full_like(logits, 1e9)
    elsewhere[part.window.slices] = part.logits
    assert grid.enlarge(grid.cut(elsewhere, window), window) == grid.enlarge(part, window)


def test_a_box_is_rounded_half_to_even_and_clipped():
    boxes = np.float32([[-7.3, 2.5, 12.5, 99], [3, 3, 3.4, 9], [9, 9, 2, 2], [40, 1, 50, 9]])
    windows = windows_of(boxes, Size(height=20, width=30))
    assert windows[0] == Window(0, 2, 12, 20)
    assert all(window.empty for window in windows[1:])


def test_a_large_image_takes_memory_of_the_box_not_of_the_image():
    logits, size = smooth(np.random.default_rng(0), Size(160, 160)), Size(4000, 4000)
    window = Window(1000, 2000, 1300, 2200)
    grid = CoarseGrid(Size(160, 160), size)
    tracemalloc.start()
    grid.enlarge(grid.cut(logits, window), window)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * 2**20  # the canvas would take 16 MiB as bytes and 64 as floats


# ---- both flavours


def prepared(original: Size) -> Prepared:
    return Prepared(np.zeros((*NET.hw, 3), np.uint8), original, NET, NET)


def lean_outputs(counts: list[int], *, seed: int = 0) -> list[np.ndarray]:
    """What the lean program gives: boxes of all sizes, some leaving the image, classes and scores of all kinds."""
    random, total = np.random.default_rng(seed), sum(counts)
    centre, half = random.uniform(0, 64, (total, 2)), random.uniform(0, 32, (total, 2))
    head = np.stack([random.integers(0, 3, total), np.sort(random.uniform(0, 1, total))[::-1]], axis=1)
    bbox = np.concatenate([head, centre - half, centre + half], axis=1).astype(np.float32)
    embeddings = random.normal(size=(total, 4)).astype(np.float32)
    prototypes = np.stack([[smooth(random, COARSE) for _ in range(4)] for _ in counts])
    return [bbox, np.asarray(counts, np.int32), embeddings, prototypes]


def paddlex_outputs(lean: list[np.ndarray], image: Size) -> list[np.ndarray]:
    """What PaddleX's program gives for the one image the lean outputs are of."""
    bbox, count, embeddings, prototypes = lean
    scale = np.float32([1, 1, *[image.width / NET.width, image.height / NET.height] * 2])
    values = [canvas(np.tensordot(e, prototypes[0], 1), image) for e in embeddings]
    return [bbox * scale, count, np.stack([value > 0 for value in values]).astype(np.int32)]


def finish(flavour, outputs, images: list[Size], *, threshold: float = 0.3, min_score: float = 0.0) -> list[Instances]:
    batch = [prepared(size) for size in images]
    kept = flavour.split(SPEC, outputs, batch, min_score)
    return [
        flavour.finish(SPEC, Raw(arrays, image.original, image.resized, image.network, min_score), threshold)
        for arrays, image in zip(kept, batch, strict=True)
    ]


@given(st.integers(0, 2**32 - 1), st.integers(2, 120), st.integers(2, 120))
@settings(max_examples=60)
def test_both_flavours_find_the_same_objects(seed, height, width):
    outputs, size = lean_outputs([12], seed=seed), Size(height, width)
    (lean,) = finish(mask_rtdetr.LEAN, outputs, [size])
    (paddlex,) = finish(mask_rtdetr.PADDLEX, paddlex_outputs(outputs, size), [size])
    assert len(lean) == len(paddlex)
    np.testing.assert_array_equal(lean.class_ids, paddlex.class_ids)
    np.testing.assert_array_equal(lean.scores, paddlex.scores)
    np.testing.assert_allclose(lean.boxes_xyxy, paddlex.boxes_xyxy, atol=1e-4)
    for a, b in zip(lean.masks, paddlex.masks, strict=True):
        assert (rle.decode(a) != rle.decode(b)).sum() <= 1


def test_a_batch_is_cut_into_its_images_each_with_its_size():
    sizes = [Size(40, 90), Size(64, 64), Size(130, 20)]
    outputs = lean_outputs([5, 0, 7])
    found = finish(mask_rtdetr.LEAN, outputs, sizes, threshold=0.0)
    assert [part.size for part in found] == sizes and [len(part) for part in found] == [5, 0, 7]
    alone = [outputs[0][5:], outputs[1][2:], outputs[2][5:], outputs[3][2:]]
    (last,) = finish(mask_rtdetr.LEAN, alone, sizes[2:], threshold=0.0)
    assert last.masks == found[2].masks and sum(mask.area for mask in last.masks) > 0


def test_what_travels_is_small_and_depends_on_the_threshold():
    outputs = lean_outputs([100])
    kept = {score: mask_rtdetr.LEAN.split(SPEC, outputs, [prepared(Size(4000, 3000))], score)[0] for score in (0.0, 0.8, 1.0)}
    lengths = [len(arrays["bbox"]) for arrays in kept.values()]
    assert lengths[0] == 100 > lengths[1] > lengths[2] == 0
    for arrays in kept.values():
        assert sorted(arrays) == ["bbox", "coarse", "logits", "windows"]
        x0, y0, x1, y1 = arrays["windows"].T
        assert arrays["logits"].dtype == np.float32 and len(arrays["logits"]) == ((x1 - x0) * (y1 - y0)).sum()
        assert arrays["logits"].nbytes <= len(arrays["bbox"]) * COARSE.height * COARSE.width * 4
    assert kept[1.0]["logits"].size == 0


def test_an_object_found_under_two_classes_stays_two_objects():
    outputs = lean_outputs([2])
    outputs[0][:] = [[0, 0.9, 8, 8, 40, 40], [2, 0.6, 8, 8, 40, 40]]
    outputs[2][1] = outputs[2][0]
    (found,) = finish(mask_rtdetr.LEAN, outputs, [Size(64, 64)])
    assert found.class_ids.tolist() == [0, 2] and found.masks[0] == found.masks[1]


def test_an_object_of_less_than_a_pixel_has_an_empty_mask():
    outputs = lean_outputs([1])
    outputs[0][:] = [0, 0.9, 10, 10, 10.3, 10.3]
    (found,) = finish(mask_rtdetr.LEAN, outputs, [Size(64, 64)])
    assert len(found) == 1 and found.masks[0].area == 0


@pytest.mark.parametrize("which", [0, 2, 3])
def test_outputs_that_are_not_numbers_are_refused(which):
    outputs = lean_outputs([2])
    outputs[which].flat[3] = np.nan
    with pytest.raises(BackendError, match="not finite numbers"):
        finish(mask_rtdetr.LEAN, outputs, [Size(64, 64)])


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(BackendError, match="gave 5 boxes counted as"):
        finish(mask_rtdetr.LEAN, lean_outputs([2, 3]), [Size(64, 64)])


def test_a_class_without_a_label_is_the_models_fault():
    outputs = lean_outputs([1])
    outputs[0][:] = [3, 0.9, 8, 8, 40, 40]
    with pytest.raises(ModelError, match="found class 3, its inference.yml has 3 labels"):
        finish(mask_rtdetr.LEAN, outputs, [Size(64, 64)])


def test_original_programs_run_one_image_at_a_time():
    """They give every mask of a batch the size of its first image."""
    assert not mask_rtdetr.PADDLEX.any_batch and mask_rtdetr.LEAN.any_batch
