"""Files that end too early are failures; with allow_truncated they give what came."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from rayseg.errors import CorruptImage, TruncatedImage, UnsupportedImage
from rayseg.images import decode
from tests.images.builders import FORMATS, encode, picture, png, png_rows

PIXELS = picture(256, 80)
FILES = {
    **{kind: encode(PIXELS, kind) for kind in FORMATS},
    "progressive JPEG": encode(PIXELS, "JPEG", progressive=True),
    "LZW TIFF": encode(PIXELS, "TIFF", compression="tiff_lzw"),
    "palette BMP": encode(PIXELS[..., 0], "BMP"),
}
MENDABLE = ("JPEG", "progressive JPEG", "PNG", "BMP", "palette BMP", "TIFF")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("eighth", range(8))
def test_a_file_cut_at_any_eighth_is_truncated(name, eighth):
    data = FILES[name]
    cut = data[: len(data) * eighth // 8]
    with pytest.raises((TruncatedImage, UnsupportedImage)) as caught:
        decode(cut)
    assert (caught.type is UnsupportedImage) == (eighth == 0)


@pytest.mark.parametrize("name", [name for name in FILES if "BMP" not in name])
def test_a_file_that_lacks_its_last_byte_is_truncated(name):
    with pytest.raises(TruncatedImage, match=r"allow-truncated|Fetch it again"):
        decode(FILES[name][:-1])


@pytest.mark.parametrize("name", MENDABLE)
@pytest.mark.parametrize("eighth", range(3, 8))
def test_with_allow_truncated_the_rows_that_came_are_right(name, eighth):
    data = FILES[name]
    whole, part = decode(data), decode(data[: len(data) * eighth // 8], allow_truncated=True)
    assert part.shape == whole.shape
    if name == "progressive JPEG":  # the whole picture, coarser
        assert np.abs(part.astype(int) - whole).mean() < 40
        return
    rows = 256 * (eighth - 2) // 8 - 16  # the file has a header, and a JPEG's blocks are 16 rows high
    if "BMP" in name:  # bottom row first
        part, whole = part[::-1], whole[::-1]
    np.testing.assert_array_equal(part[:rows], whole[:rows])


@pytest.mark.parametrize("name", FILES)
def test_with_allow_truncated_a_cut_file_decodes_or_is_corrupt_but_never_truncated(name):
    data = FILES[name]
    for end in range(1, len(data), max(1, len(data) // 97)):
        with contextlib.suppress(CorruptImage, UnsupportedImage):
            assert decode(data[:end], allow_truncated=True).shape == PIXELS.shape


@pytest.mark.parametrize("name", ["WebP", "LZW TIFF"])
def test_what_cannot_be_decoded_in_part_says_so(name):
    data = FILES[name]
    with pytest.raises(CorruptImage, match=r"in part|nothing|Too little"):
        decode(data[: len(data) // 2], allow_truncated=True)


@pytest.mark.parametrize("name", FILES)
def test_allow_truncated_changes_nothing_for_a_whole_file(name):
    np.testing.assert_array_equal(decode(FILES[name], allow_truncated=True), decode(FILES[name]))


@pytest.mark.parametrize("kind, bits", [(0, 1), (0, 16), (2, 8), (2, 16), (4, 8), (6, 8), (6, 16)])
def test_every_kind_of_png_can_be_mended(kind, bits):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    rng = np.random.default_rng(3)
    row_bytes = (33 * bits * channels + 7) // 8
    data = png(33, 21, bits, kind, png_rows(rng.integers(0, 256, (21, row_bytes, 1), dtype=np.uint8)))
    whole, part = decode(data), decode(data[: len(data) * 3 // 4], allow_truncated=True)
    assert (part[:8] == whole[:8]).all() and part.shape == whole.shape and (part[-1] == 0).all()


def test_the_end_of_a_thumbnail_is_not_taken_for_the_end_of_the_picture():
    thumbnail = encode(picture(8, 8), "JPEG")
    segment = b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = FILES["JPEG"]
    whole = data[:2] + segment + data[2:]
    np.testing.assert_array_equal(decode(whole), decode(data))
    with pytest.raises(TruncatedImage, match="no end marker"):
        decode(whole[: len(whole) * 3 // 4])
