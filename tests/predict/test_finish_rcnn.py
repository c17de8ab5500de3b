"""Small masks pasted into boxes, against the obvious way: sample the mask for every pixel of the image and compare."""

from __future__ import annotations

import tracemalloc

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from rayseg import rle
from rayseg.errors import BackendError
from rayseg.geometry import Box, Size
from rayseg.predict.families import rcnn
from rayseg.predict.finish import pasted_masks as module
from rayseg.predict.finish.pasted_masks import pasted_masks
from rayseg.predict.prepare import Prepared
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec

NEAR = 1e-4  # a value this close to 0.5 may fall on either side


def canvas(mask: np.ndarray, box: np.ndarray, size: Size) -> np.ndarray:
    """The value of every pixel of the image, float32 (H, W), from a grid over all of it."""
    x0, y0, x1, y1 = box
    ys = (np.arange(size.height, dtype=np.float32) + np.float32(0.5) - y0) / (y1 - y0) * 2 - 1
    xs = (np.arange(size.width, dtype=np.float32) + np.float32(0.5) - x0) / (x1 - x0) * 2 - 1
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)[None].astype(np.float32)
    return nn.functional.grid_sample(paddle.to_tensor(mask[None, None]), paddle.to_tensor(grid), align_corners=False).numpy()[
        0, 0
    ]


def crop(box: np.ndarray, size: Size) -> np.ndarray:
    """What PaddleX keeps of a canvas, bool (H, W)."""
    kept = np.zeros(size.hw, dtype=bool)
    kept[Box(*box.tolist()).rounded_window().slices] = True
    return kept


@st.composite
def cases(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = Size(draw(st.integers(1, 70)), draw(st.integers(1, 70)))
    side = draw(st.sampled_from([2, 14, 28]))
    mask = random.uniform(size=(side, side)).astype(np.float32)
    if draw(st.booleans()):
        mask = np.round(mask)  # as sure as a network gets
    xs, ys = (np.sort(random.uniform(0, side_px, 2)) for side_px in (size.width, size.height))
    box = np.float32([xs[0], ys[0], xs[1] + 1e-3, ys[1] + 1e-3])
    if draw(st.booleans()):
        box = np.float32([0, 0, size.width, size.height])
    return mask, np.minimum(box, np.float32([size.width, size.height] * 2)), size


@given(cases())
@settings(max_examples=200, deadline=None)
def test_a_pasted_mask_equals_the_full_canvas(case):
    mask, box, size = case
    (found,) = pasted_masks(mask[None], box[None], size)
    values = canvas(mask, box, size)
    clear = np.abs(values - 0.5) > NEAR
    np.testing.assert_array_equal(rle.decode(found)[clear], ((values >= 0.5) & crop(box, size))[clear])


@given(cases())
@settings(max_examples=100, deadline=None)
def test_cutting_to_the_box_loses_nothing_but_ties(case):
    mask, box, size = case
    values = canvas(mask, box, size)
    assert values[~crop(box, size)].max(initial=0) <= 0.5 + NEAR


@given(cases(), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_strips_of_any_width_give_the_same_mask(case, strip):
    mask, box, size = case
    whole = rle.decode(pasted_masks(mask[None], box[None], size)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STRIP_PIXELS", strip)
        in_strips = rle.decode(pasted_masks(mask[None], box[None], size)[0])
    assert (np.abs(canvas(mask, box, size)[whole ^ in_strips] - 0.5) <= NEAR).all()


def test_half_a_mask_covers_half_its_box():
    mask = np.zeros((28, 28), np.float32)
    mask[:, :14] = 1
    (found,) = pasted_masks(mask[None], np.float32([[10, 20, 38, 48]]), Size(60, 50))
    wanted = np.zeros((60, 50), bool)
    wanted[20:48, 10:24] = True
    np.testing.assert_array_equal(rle.decode(found), wanted)


@pytest.mark.parametrize("box", [(10, 10, 10, 40), (20.1, 3, 20.2, 60), (64, 64, 64, 64)], ids=["no width", "sliver", "corner"])
def test_a_box_without_pixels_has_an_empty_mask(box):
    (found,) = pasted_masks(np.ones((1, 28, 28), np.float32), np.float32([box]), Size(64, 64))
    assert found.area == 0 and found.size == Size(64, 64)


def test_a_mask_that_is_exactly_at_the_threshold_is_inside():
    (found,) = pasted_masks(np.full((1, 14, 14), 0.5, np.float32), np.float32([[0, 0, 14, 14]]), Size(14, 14))
    inner = rle.decode(found)[1:-1, 1:-1]
    assert inner.all()


def test_no_objects_give_no_masks():
    assert pasted_masks(np.empty((0, 28, 28), np.float32), np.empty((0, 4), np.float32), Size(9, 9)) == []


@pytest.mark.parametrize("edge", [0, 1], ids=["whole image", "all but its border"])
def test_memory_stays_small_for_objects_that_fill_a_large_image(edge):
    masks = np.random.default_rng(0).uniform(size=(3, 28, 28)).astype(np.float32)
    box = np.float32([[edge, edge, 4000 - edge, 4000 - edge]] * 3)
    tracemalloc.start()
    found = pasted_masks(masks, box, Size(4000, 4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(mask.area for mask in found) > 1_000_000
    assert peak < 100e6  # one float canvas would be 64 MB, three masks of them 192 MB


# ---- both flavours of one program


def spec(flavour: str) -> ModelSpec:
    return ModelSpec(
        path="",
        name="net",
        task="instance",
        family="rcnn",
        flavour=flavour,
        labels=("a", "b", "c"),
        draw_threshold=0.5,
        steps=(),
        inputs=(),
        fixed_input=None,
        any_batch=True,
        fingerprint="",
    )


def image(original: Size, resized: Size, network: Size) -> Prepared:
    return Prepared(np.zeros((*resized.hw, 3), np.uint8), original, resized, network)


def raw(arrays: dict[str, np.ndarray], prepared: Prepared) -> Raw:
    return Raw(arrays, prepared.original, prepared.resized, prepared.network, 0.0)


def lean_outputs(batch: list[Prepared], *, objects: list[int]) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    rows = []
    for prepared, count in zip(batch, objects, strict=True):
        height, width = prepared.resized.hw
        xs = np.sort(random.uniform(0, width, (count, 2)), axis=1)
        ys = np.sort(random.uniform(0, height, (count, 2)), axis=1)
        scores, classes = random.uniform(0.06, 1, count), random.integers(0, 3, count)
        rows.append(np.stack([classes, scores, xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], axis=1))
    coarse = paddle.to_tensor(random.uniform(size=(1, sum(objects), 4, 4)).astype(np.float32))
    masks = nn.functional.interpolate(coarse, size=[28, 28], mode="bilinear").numpy()[0]
    return [np.concatenate(rows).astype(np.float32), np.asarray(objects, np.int32), masks]


def paddlex_outputs(lean: list[np.ndarray], batch: list[Prepared]) -> list[np.ndarray]:
    """What the other flavour's program gives for the same objects; images without any have a row that is none."""
    tallest, widest = max(p.original.height for p in batch), max(p.original.width for p in batch)
    rows, counts, masks, start = [], [], [], 0
    for prepared, count in zip(batch, lean[1].tolist(), strict=True):
        height, width = prepared.original.hw
        scale = np.tile(prepared.scale_factor[::-1], 2)
        for row, mask in zip(lean[0][start : start + count], lean[2][start : start + count], strict=True):
            box = np.clip(row[2:] / scale, 0, np.float32([width, height] * 2))
            full = np.full((tallest, widest), -1, np.int32)
            full[:height, :width] = canvas(mask, box, prepared.original) >= 0.5
            rows.append([*row[:2], *box])
            masks.append(full)
        if count == 0:
            rows.append([0, 0, 0, 0, 1, 1])
            masks.append(np.zeros((tallest, widest), np.int32))
        counts.append(max(count, 1))
        start += count
    return [np.asarray(rows, np.float32), np.asarray(counts, np.int32), np.stack(masks)]


def test_both_flavours_finish_to_the_same_objects():
    network = Size(64, 96)
    batch = [
        image(Size(100, 160), Size(60, 96), network),
        image(Size(30, 31), Size(64, 66), network),
        image(Size(64, 90), Size(64, 90), network),
    ]
    lean = lean_outputs(batch, objects=[20, 0, 15])
    full = paddlex_outputs(lean, batch)
    kept_lean = rcnn.LEAN.split(spec("lean"), lean, batch, 0.1)
    kept_full = rcnn.PADDLEX.split(spec("paddlex"), full, batch, 0.1)
    found = 0
    for prepared, a, b in zip(batch, kept_lean, kept_full, strict=True):
        ours = rcnn.LEAN.finish(spec("lean"), raw(a, prepared), 0.3)
        theirs = rcnn.PADDLEX.finish(spec("paddlex"), raw(b, prepared), 0.3)
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, rtol=1e-6, atol=1e-4)
        assert ours.scores.tolist() == theirs.scores.tolist() and ours.class_ids.tolist() == theirs.class_ids.tolist()
        for one, other in zip(ours.masks, theirs.masks, strict=True):
            assert (rle.decode(one) ^ rle.decode(other)).sum() <= 1
        found += len(ours)
    assert 15 < found < 35


def test_rows_that_stand_for_nothing_are_no_objects():
    prepared = image(Size(20, 20), Size(40, 40), Size(64, 64))
    emptied = [-1, 0.9, 20, 3, 20, 9]
    outputs = [np.float32([[0, 0, 0, 0, 0.5, 0.5], emptied]), np.int32([2]), np.ones((2, 20, 20), np.int32)]
    (kept,) = rcnn.PADDLEX.split(spec("paddlex"), outputs, [prepared], 0.0)
    assert len(kept["bbox"]) == 0
    assert len(rcnn.PADDLEX.finish(spec("paddlex"), raw(kept, prepared), 0.0)) == 0


def test_a_box_that_only_exists_in_input_pixels_is_dropped_with_its_mask():
    prepared = image(Size(20, 20), Size(40, 40), Size(64, 64))
    rows = np.float32([[1, 0.9, 40, 0, 40, 20], [2, 0.8, 0, 0, 40, 40]])
    masks = np.stack([np.ones((28, 28)), np.tri(28)]).astype(np.float32)
    (kept,) = rcnn.LEAN.split(spec("lean"), [rows, np.int32([2]), masks], [prepared], 0.0)
    found = rcnn.LEAN.finish(spec("lean"), raw(kept, prepared), 0.5)
    assert found.class_ids.tolist() == [2]
    assert 150 < found.masks[0].area < 260


def test_an_image_without_objects_and_outputs_that_make_no_sense():
    prepared = image(Size(20, 20), Size(40, 40), Size(64, 64))
    nothing = [np.empty((0, 6), np.float32), np.int32([0]), np.empty((0, 28, 28), np.float32)]
    (kept,) = rcnn.LEAN.split(spec("lean"), nothing, [prepared], 0.0)
    assert len(rcnn.LEAN.finish(spec("lean"), raw(kept, prepared), 0.5)) == 0
    broken = [np.float32([[0, 0.9, 0, 0, 9, 9]]), np.int32([1]), np.full((1, 28, 28), np.nan, np.float32)]
    with pytest.raises(BackendError, match="not finite"):
        rcnn.LEAN.split(spec("lean"), broken, [prepared], 0.0)
    with pytest.raises(BackendError, match=r"1 boxes counted as \[3\]"):
        rcnn.LEAN.split(spec("lean"), [broken[0], np.int32([3]), np.ones((1, 28, 28), np.float32)], [prepared], 0.0)
