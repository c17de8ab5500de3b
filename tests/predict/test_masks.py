"""Fast masks against the obvious way: enlarge everything, blank outside the box, enlarge again, compare, crop."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayseg import rle
from rayseg.geometry import Box, Size
from rayseg.predict.finish import masks
from rayseg.predict.finish.masks import boxes_in_original, lean_masks, linear_taps

NEAR = 1e-4  # a value this close to 0.5 may fall on either side


def canvas_values(weights, prototypes, box, net, original, resized=None):
    """Values before the comparison, float32 (H, W), and the pixels PaddleX's crop leaves: bool (H, W)."""
    resized = resized or net
    soft = 1 / (1 + np.exp(-np.tensordot(weights, prototypes, axes=1).astype(np.float64)))
    large = cv2.resize(soft.astype(np.float32), net.wh, interpolation=cv2.INTER_LINEAR)
    ys, xs = np.mgrid[: net.height, : net.width]
    x0, y0, x1, y1 = box
    large[(xs < x0) | (xs >= x1) | (ys < y0) | (ys >= y1)] = 0
    enlarged = (round(net.width * original.width / resized.width), round(net.height * original.height / resized.height))
    values = cv2.resize(large, enlarged, interpolation=cv2.INTER_LINEAR)[: original.height, : original.width]
    left = np.zeros(original.hw, dtype=bool)
    scaled = boxes_in_original(np.asarray([box], dtype=np.float32), resized, original)[0]
    left[Box(*map(float, scaled)).clip(original).rounded_window().slices] = True
    return values, left


sides = st.integers(1, 70)


@st.composite
def cases(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    net = Size(4 * draw(st.integers(1, 12)), 4 * draw(st.integers(1, 12)))
    original = Size(draw(sides), draw(sides))
    prototypes = random.normal(size=(3, net.height // 4, net.width // 4)).astype(np.float32)
    xs, ys = (np.sort(random.uniform(-5, side + 5, 2)) for side in (net.width, net.height))
    box = np.asarray([xs[0], ys[0], xs[1], ys[1]], dtype=np.float32)
    if draw(st.booleans()):
        box = np.rint(box)  # an edge on a pixel: the first is inside, the last is not
    return random.normal(size=3).astype(np.float32) * 4, prototypes, box, net, original


@given(cases())
@settings(max_examples=300, deadline=None)
def test_a_fast_mask_equals_the_full_canvas(case):
    weights, prototypes, box, net, original = case
    (found,) = lean_masks(weights[None], prototypes, box[None], net, original)
    values, left = canvas_values(weights, prototypes, box, net, original)
    clear = np.abs(values - 0.5) > NEAR
    np.testing.assert_array_equal(rle.decode(found)[clear], ((values > 0.5) & left)[clear])


@given(sides, sides, sides, st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_the_shares_of_an_axis_are_those_of_adding_tap_by_tap(cells, resized, original, seed):
    random = np.random.default_rng(seed)
    net = resized + int(random.integers(0, 9))  # with padding
    start, stop = np.sort(random.choice(original + 1, 2, replace=False)).tolist()
    low, high = np.sort(random.uniform(-3, net + 3, 2))
    near, far, share = linear_taps(net, round(net * original / resized), range(original))
    first, second, part = linear_taps(cells, net, range(net))
    wanted = np.zeros((stop - start, cells), dtype=np.float32)
    for i in range(start, stop):
        for pixel, weight in ((near[i], np.float32(1) - share[i]), (far[i], share[i])):
            if low <= pixel < high:
                wanted[i - start, first[pixel]] += weight * (np.float32(1) - part[pixel])
                wanted[i - start, second[pixel]] += weight * part[pixel]
    found, used = masks._Axis(cells, net, resized, original).matrix(start, stop, low, high)
    np.testing.assert_array_equal(found, wanted[:, used])
    assert not wanted[:, : used.start].any() and not wanted[:, used.stop :].any()


@given(cases(), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_strips_of_any_width_give_the_same_mask(case, strip):
    weights, prototypes, box, net, original = case
    whole = lean_masks(weights[None], prototypes, box[None], net, original)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "STRIP_PIXELS", strip)
        in_strips = lean_masks(weights[None], prototypes, box[None], net, original)
    differing = rle.decode(whole[0]) ^ rle.decode(in_strips[0])
    values, _ = canvas_values(weights, prototypes, box, net, original)
    assert (np.abs(values - 0.5)[differing] <= NEAR).all()


def test_padding_of_the_input_is_not_part_of_the_image():
    random = np.random.default_rng(0)
    net, resized, original = Size(64, 96), Size(48, 80), Size(60, 100)
    prototypes = random.normal(size=(3, 16, 24)).astype(np.float32)
    weights = random.normal(size=(1, 3)).astype(np.float32) * 4
    box = np.float32([[10, 5, 90, 60]])  # reaches into the padding
    (found,) = lean_masks(weights, prototypes, box, net, original, resized=resized)
    values, left = canvas_values(weights[0], prototypes, box[0], net, original, resized)
    clear = np.abs(values - 0.5) > NEAR
    np.testing.assert_array_equal(rle.decode(found)[clear], ((values > 0.5) & left)[clear])


@pytest.mark.parametrize(
    "box",
    [(-50, -50, -10, -10), (200, 0, 300, 50), (10, 10, 10, 40), (20.1, 3, 20.2, 60)],
    ids=["outside left", "outside right", "no width", "sliver that rounds to nothing"],
)
def test_a_box_without_pixels_has_an_empty_mask(box):
    prototypes = np.full((1, 16, 16), 9, dtype=np.float32)
    (found,) = lean_masks(np.ones((1, 1), np.float32), prototypes, np.float32([box]), Size(64, 64), Size(64, 64))
    assert found.area == 0 and found.size == Size(64, 64)


def test_no_objects_give_no_masks():
    prototypes = np.zeros((3, 4, 4), dtype=np.float32)
    assert lean_masks(np.empty((0, 3)), prototypes, np.empty((0, 4)), Size(16, 16), Size(9, 9)) == []


@example(1e4)
@example(-1e4)
@given(st.floats(-1e30, 1e30))
def test_huge_logits_saturate_without_a_warning(weight):
    prototypes = np.ones((1, 4, 4), dtype=np.float32)
    (found,) = lean_masks(np.float32([[weight]]), prototypes, np.float32([[0, 0, 16, 16]]), Size(16, 16), Size(16, 16))
    assert found.area in (0, 256)


@pytest.mark.parametrize("edge", [0, 1], ids=["whole image", "all but its border"])
def test_memory_stays_small_for_an_object_that_fills_a_large_image(edge):
    random = np.random.default_rng(0)
    coarse = random.normal(size=(8, 10, 10)).astype(np.float32)
    prototypes = np.stack([cv2.resize(p, (160, 160)) for p in coarse])
    box = np.float32([[edge, edge, 640 - edge, 640 - edge]] * 3)
    tracemalloc.start()
    found = lean_masks(random.normal(size=(3, 8)).astype(np.float32) * 5, prototypes, box, Size(640, 640), Size(4000, 4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(mask.area for mask in found) > 1_000_000
    assert peak < 100e6  # one float canvas would be 64 MB, three masks of them 192 MB
