"""Damaged and malicious files: nothing but an ImageError may come out, and memory must not grow."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import zlib
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.errors import CorruptImage, ImageError, ImageTooLarge
from rayseg.images import count_pages, decode, decoding, read_header
from tests.images.builders import FORMATS, encode, picture, png, png_chunk

GOOD = [
    *(encode(picture(12, 20), kind) for kind in FORMATS),
    encode(picture(12, 20), "JPEG", progressive=True),
    encode(picture(12, 20), "TIFF", compression="tiff_lzw"),
    encode(picture(12, 20)[..., 0], "TIFF", big_tiff=True),
]
HEADS = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"BM",
    b"RIFF\x40\0\0\0WEBPVP8 ",
    b"II*\0\x08\0\0\0",
    b"MM\0+",
]


def use(data: bytes) -> None:
    """Everything a caller may do with a file; any error but an ImageError fails the test."""
    for action in (
        lambda: read_header(data),
        lambda: count_pages(data),
        lambda: decode(data, max_pixels=100_000),
        lambda: decode(data, max_pixels=100_000, allow_truncated=True),
    ):
        with contextlib.suppress(ImageError):
            action()


@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=300))
@settings(deadline=None, max_examples=150)
def test_arbitrary_bytes_raise_nothing_but_image_errors(head, tail):
    use(head + tail)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_good_files_with_bytes_changed_raise_nothing_but_image_errors(data):
    file = bytearray(data.draw(st.sampled_from(GOOD)))
    places = st.integers(0, len(file) - 1) | st.integers(0, min(200, len(file) - 1))
    for place, value in data.draw(st.dictionaries(places, st.integers(0, 255), min_size=1, max_size=8)).items():
        file[place] = value
    use(bytes(file))


@pytest.mark.parametrize("error", [ValueError("odd"), struct.error("short"), OverflowError("big"), RuntimeError("x")])
def test_whatever_a_library_raises_becomes_corrupt_image_with_its_cause(error):
    with (
        mock.patch.object(decoding.opencv, "read_bgr", side_effect=error),
        pytest.raises(CorruptImage, match=type(error).__name__) as caught,
    ):
        decode(GOOD[0])
    assert caught.value.__cause__ is error


def test_lack_of_memory_is_no_fault_of_the_bytes():
    with mock.patch.object(decoding.opencv, "read_bgr", side_effect=MemoryError), pytest.raises(ImageTooLarge):
        decode(GOOD[0])


def test_a_header_that_only_opencv_finds_broken_is_corrupt_too():
    """OpenCV hands the array back untouched then, as if all were well."""
    file = bytearray(encode(picture(16, 16), "PNG"))
    file[29] ^= 0xFF  # the checksum of the header chunk
    with pytest.raises(CorruptImage, match="16 x 16"):
        decode(bytes(file))


def test_pixels_that_differ_from_the_header_are_corrupt():
    """OpenCV is told the size of the header; a decoder that finds another one must not write past the array."""
    file = bytearray(encode(picture(16, 16), "PNG"))
    with (
        mock.patch.object(decoding, "read_header", return_value=read_header(encode(picture(16, 24), "PNG"))),
        pytest.raises(CorruptImage, match="24 x 16"),
    ):
        decode(bytes(file))


BOMBS = {
    "text": lambda: png(8, 8, 8, 0, bytes(72), *[png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(7_900_000)))] * 50),
    "profile": lambda: png(8, 8, 8, 0, bytes(72), png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(60_000_000)))),
    "pixels": lambda: png(8, 8, 8, 0, bytes(60_000_000)),
    "header": lambda: png(60_000, 60_000, 8, 2, bytes(100)),
    "BMP": lambda: b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "RLE": lambda: b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 58, 40, 50, 50, 1, 8, 1, 1 << 30, 0, 0, 1, 0) + bytes(9),
    "EXIF": lambda: b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 258, 3, 0xFFFFFFFF, 8) + bytes(4),
    "PNG cut": lambda: png(20_000, 20_000, 1, 0, bytes(1_000_000))[:-40],
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_take_memory(name, tmp_path):
    """In a process of its own, since peak memory is only ever known of a process."""
    (tmp_path / "bomb").write_bytes(BOMBS[name]())
    code = (
        "import resource, sys; from rayseg.images import *; from rayseg.errors import ImageError\n"
        "from tests.images.builders import *; decode(encode(picture(), 'PNG')); decode(encode(picture(), 'TIFF'))\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, data = peak(), open(sys.argv[1], 'rb').read()\n"
        "for cut in (False, True):\n"
        "    try: read_header(data); decode(data, max_pixels=10_000_000, allow_truncated=cut)\n"
        "    except ImageError: pass\n"
        "print(peak() - before)"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb")], cwd=root, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 30_000  # kilobytes
