"""JPEGs decoded at a part of their size: OpenCV's pixels, turned like the whole picture; all else comes whole."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayseg.errors import ImageTooLarge, TruncatedImage
from rayseg.images import REDUCTIONS, DecodeWorker, decode, decode_isolated, jpeg_header, reduction
from rayseg.images.reduced import reduced_hw
from tests.images.builders import FORMATS, encode, picture, with_orientation

SMALLER = [factor for factor in REDUCTIONS if factor > 1]
FLAGS = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


def opencv_rgb(data: bytes, factor: int, *more: int) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), sum(more, FLAGS[factor]))[..., ::-1]


@pytest.mark.parametrize("factor", SMALLER)
@pytest.mark.parametrize("shape", [(64, 48), (133, 97), (1, 1), (9, 1), (17, 8)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_equals_opencv_s_in_every_orientation_and_size(factor, shape, orientation):
    data = with_orientation(picture(*shape), "JPEG", orientation)
    found = decode(data, reduce=factor)
    np.testing.assert_array_equal(found, opencv_rgb(data, factor))
    np.testing.assert_array_equal(found, TURNED[orientation](opencv_rgb(data, factor, cv2.IMREAD_IGNORE_ORIENTATION)))
    assert found.shape[:2] == reduced_hw(decode(data).shape[:2], factor)
    assert found.dtype == np.uint8 and found.flags.c_contiguous and found.flags.writeable


@pytest.mark.parametrize("factor", SMALLER)
@pytest.mark.parametrize("mode, options", [("L", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0}), ("CMYK", {})])
def test_every_kind_of_jpeg_can_be_reduced(factor, mode, options):
    data = encode(Image.fromarray(picture(133, 97)).convert(mode), "JPEG", **options)
    np.testing.assert_array_equal(decode(data, reduce=factor), opencv_rgb(data, factor))


@pytest.mark.parametrize("factor", SMALLER)
def test_a_reduced_picture_is_the_picture_seen_from_farther_away(factor):
    smooth = cv2.GaussianBlur(picture(160, 240), (0, 0), 8)
    data = encode(smooth, "JPEG", quality=95)
    wanted = cv2.resize(decode(data), (240 // factor, 160 // factor), interpolation=cv2.INTER_AREA)
    assert np.abs(decode(data, reduce=factor).astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "JPEG"])
def test_other_formats_come_whole(kind):
    data = encode(picture(64, 48), kind)
    np.testing.assert_array_equal(decode(data, reduce=8), decode(data))


def test_a_cut_jpeg_is_refused_or_comes_whole_as_without_reduction():
    data = encode(picture(200, 300), "JPEG")[:-2000]
    with pytest.raises(TruncatedImage):
        decode(data, reduce=4)
    np.testing.assert_array_equal(decode(data, reduce=4, allow_truncated=True), decode(data, allow_truncated=True))


def test_the_limit_of_pixels_is_that_of_the_whole_picture():
    data = encode(picture(24, 40), "JPEG")
    assert decode(data, max_pixels=960, reduce=8).shape == (3, 5, 3)
    with pytest.raises(ImageTooLarge, match="40 x 24 needs 960 pixels, more than --max-pixels 959"):
        decode(data, max_pixels=959, reduce=8)


def test_a_worker_reduces_as_this_process_does_and_is_as_good_as_before_afterwards():
    data = with_orientation(picture(133, 97), "JPEG", 6)
    with DecodeWorker() as worker:
        for factor in (1, 8, 2, 4, 1):
            np.testing.assert_array_equal(worker.decode(data, reduce=factor), decode(data, reduce=factor))
    np.testing.assert_array_equal(decode_isolated(data, reduce=4), decode(data, reduce=4))


@pytest.mark.parametrize("factor", [0, 3, 16, -2])
def test_a_part_that_no_jpeg_can_be_decoded_at_is_refused(factor):
    with pytest.raises(ValueError, match=f"reduce is {factor}; a JPEG can be decoded at 1 / 8, 4, 2, 1"):
        decode(encode(picture(), "JPEG"), reduce=factor)


@pytest.mark.parametrize(
    "original, least, factor",
    [
        ((3000, 4000), (640, 640), 4),
        ((5120, 5120), (640, 640), 8),  # exactly as long as wanted
        ((5112, 5112), (640, 640), 4),  # one pixel short
        ((5113, 5113), (640, 640), 8),  # sides are rounded up
        ((5119, 1280), (640, 640), 2),  # the shorter side decides
        ((1280, 9999), (640, 640), 2),
        ((1278, 9999), (640, 640), 1),
        ((5120, 639), (640, 640), 1),
        ((100, 100), (640, 640), 1),  # made larger by the model
        ((3000, 4000), (800, 1067), 2),
        ((3000, 4000), (1, 1), 8),
        ((1, 1), (1, 1), 8),
    ],
)
def test_the_least_size_that_is_large_enough_is_taken(original, least, factor):
    assert reduction(original, least) == factor


@given(*[st.tuples(st.integers(1, 9000), st.integers(1, 9000))] * 2)
def test_what_is_decoded_is_large_enough_or_whole_and_half_of_it_would_not_do(original, least):
    def enough(factor):
        return all(math.ceil(side / factor) >= want for side, want in zip(original, least, strict=True))

    factor = reduction(original, least)
    assert factor == 1 or enough(factor)
    assert factor == 8 or not enough(2 * factor)


def test_only_a_jpeg_whose_header_can_be_read_has_one_here():
    header = jpeg_header(with_orientation(picture(24, 40), "JPEG", 6))
    assert (header.height, header.width) == (40, 24)
    jpeg = encode(picture(), "JPEG")
    for data in (encode(picture(), "PNG"), b"", b"GIF89a", jpeg[:20], jpeg[:2]):
        assert jpeg_header(data) is None
