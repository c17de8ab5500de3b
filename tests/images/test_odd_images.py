"""Every file of the collection of odd images decodes to the size expected here, or fails for the reason given here."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rayseg.errors import CorruptImage, ImageError, ImageTooLarge, TruncatedImage, UnsupportedImage
from rayseg.images import decode, read_header

TEXT = (UnsupportedImage, "seems to be text")
GIF = (UnsupportedImage, "seems to be GIF")
CUT_JPEG = (TruncatedImage, "no end marker")
CUT_PNG = (TruncatedImage, "IDAT chunk ends at byte")

# (height, width) of the decoded array, or the error and a part of its message
EXPECTED: dict[str, tuple[int, int] | tuple[type[ImageError], str]] = {
    "LICENSE.image-rs_image.LICENSE-MIT": TEXT,
    "LICENSE.lovell_sharp.LICENSE": TEXT,
    "LICENSE.python-pillow_Pillow.LICENSE": TEXT,
    "SOURCE.txt": TEXT,
    "manifest.csv": TEXT,
    "gen_jpg_named.tif": (128, 128),
    "gen_lfs_pointer.jpg": (UnsupportedImage, "git lfs pull"),
    "gen_noext": (128, 128),
    "gen_text.jpg": TEXT,
    "gen_zero_byte.jpg": (UnsupportedImage, "empty"),
    "irs_basi2c08.png": (32, 32),
    "irs_basn2c16.png": (32, 32),
    "irs_cmyk_u8_trunc_case.tif": (1, 1),
    "irs_oss-fuzz-36829.jpeg": CUT_JPEG,
    "irs_panic.webp": (30, 100),
    "pil_16_bit_binary.pgm": (UnsupportedImage, "Netpbm"),
    "pil_16bit.MM.cropped.tif": (64, 64),
    "pil_16bit.cropped.tif": (64, 64),
    "pil_1_trns.png": (64, 64),
    "pil_broken_data_stream.png": (CorruptImage, "no chunk at byte"),
    "pil_chi.gif": GIF,
    "pil_crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif": (TruncatedImage, "pixels end at byte"),
    "pil_crash-2020-10-test.tif": (TruncatedImage, "tag 256"),
    "pil_decompression_bomb.ico": (UnsupportedImage, "ICO"),
    "pil_decompression_bomb_extents.gif": GIF,
    "pil_exif.png": (512, 512),
    "pil_exif_gps_typeerror.jpg": (531, 800),
    "pil_flower.webp": (360, 480),
    "pil_frozenpond.mpo": (480, 640),
    "pil_g4_orientation_5.tif": (88, 590),
    "pil_hopper.Lab.tif": (128, 128),
    "pil_hopper.fits": (UnsupportedImage, "FITS"),
    "pil_hopper.heif": (UnsupportedImage, "HEIF"),
    "pil_hopper.jpg": (128, 128),
    "pil_hopper.pnm": (UnsupportedImage, "Netpbm"),
    "pil_hopper.qoi": (UnsupportedImage, "QOI"),
    "pil_hopper_gray.jpg": (128, 128),
    "pil_hopper_orientation_6.jpg": (128, 128),
    "pil_hopper_orientation_6.webp": (128, 128),
    "pil_i_trns.png": (64, 64),
    "pil_icc_profile_big.jpg": (250, 425),
    "pil_jpeg_ff00_header.jpg": (225, 300),
    "pil_junk_jpeg_header.jpg": (768, 1024),
    "pil_l_trns.png": (64, 64),
    "pil_libtiff_segfault.tif": (UnsupportedImage, "arrangement is not read"),
    "pil_mode_16bit.png": (64, 128),
    "pil_multipage.tiff": (10, 10),
    "pil_old-style-jpeg-compression.tif": (870, 4160),
    "pil_padded_idat.png": (10, 256),
    "pil_pal8rle.bmp": (64, 127),
    "pil_pal8topdown.bmp": (64, 127),
    "pil_pil123p.png": (150, 162),
    "pil_pil_sample_cmyk.jpg": (100, 100),
    "pil_png_decompression_dos.png": (1, 1),
    "pil_reallybig.bmp": (ImageTooLarge, "3000000 x 2000000"),
    "pil_rgb16-565.bmp": (64, 127),
    "pil_rgb32bf-rgba.bmp": (64, 127),
    "pil_rot1mir0.avif": (UnsupportedImage, "AVIF"),
    "pil_tiff_16bit_RGB.tiff": (40, 100),
    "pil_tiff_tiled_planar_16bit_RGB.tiff": (40, 100),
    "pil_transparent.gif": GIF,
    "pil_truncated_app14.jpg": (100, 100),
    "pil_truncated_image.png": CUT_PNG,
    "pil_truncated_jpeg.jpg": CUT_JPEG,
    "pil_zero_height.j2k": (UnsupportedImage, "JPEG 2000"),
    "sharp_2x2_fdcce6.png": (2, 2),
    "sharp_65536-uint32-limit.png": (ImageTooLarge, "65536 x 65536"),
    "sharp_Channel_digital_image_CMYK_color.jpg": (333, 500),
    "sharp_Channel_digital_image_CMYK_color_no_profile.jpg": (333, 500),
    "sharp_Crash_test.gif": GIF,
    "sharp_circle.svg": (UnsupportedImage, "SVG"),
    "sharp_corrupt-header.jpg": (TruncatedImage, "EXIF segment"),
    "sharp_gain-map.jpg": (2160, 3840),
    "sharp_grey-8bit-alpha.png": (300, 400),
    "sharp_image-in-alpha.png": (169, 928),
    "sharp_rotating-squares.gif": GIF,
    "sharp_tbgn2c16.png": (32, 32),
    "sharp_truncated.jpg": CUT_JPEG,
    "sharp_truncated.png": CUT_PNG,
}
READABLE = sorted(name for name, expected in EXPECTED.items() if isinstance(expected[0], int))
FAILING = sorted(set(EXPECTED) - set(READABLE))
CUT_BUT_DECODABLE = {
    "irs_oss-fuzz-36829.jpeg": (62728, 3),
    "pil_truncated_image.png": (480, 640),
    "pil_truncated_jpeg.jpg": (100, 100),
    "sharp_truncated.jpg": (2225, 2725),
    "sharp_truncated.png": (240, 294),
}
# Different from OpenCV on purpose: it misses the orientation in the WebP, and shows another picture of the APNG.
NOT_AS_OPENCV = {"pil_hopper_orientation_6.webp", "pil_mode_16bit.png"}


@pytest.fixture(scope="module")
def odd(shared_dir):
    folder = shared_dir / "data" / "odd_images"
    if not folder.is_dir():
        pytest.skip(f"no odd images at {folder}")
    return folder


def test_every_file_of_the_collection_has_an_expectation(odd):
    assert {path.name for path in odd.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", READABLE)
def test_a_readable_file_has_the_size_expected_and_the_header_tells_it(odd, name):
    data = (odd / name).read_bytes()
    pixels, header = decode(data), read_header(data)
    assert pixels.shape == (*EXPECTED[name], 3)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert (header.height, header.width) == pixels.shape[:2]


@pytest.mark.parametrize("name", FAILING)
def test_any_other_file_fails_for_the_reason_expected(odd, name):
    kind, message = EXPECTED[name]
    with pytest.raises(kind, match=message) as caught:
        decode((odd / name).read_bytes())
    assert caught.type is kind


@pytest.mark.parametrize("name", sorted(name for name in FAILING if EXPECTED[name][0] is TruncatedImage))
def test_with_allow_truncated_a_cut_file_gives_what_is_there_or_is_corrupt(odd, name):
    data = (odd / name).read_bytes()
    if name in CUT_BUT_DECODABLE:
        assert decode(data, allow_truncated=True).shape == (*CUT_BUT_DECODABLE[name], 3)
    else:
        with pytest.raises(CorruptImage):
            decode(data, allow_truncated=True)


@pytest.mark.parametrize("name", [name for name in READABLE if name not in NOT_AS_OPENCV and ".tif" not in name])
def test_pixels_equal_opencv_bit_for_bit(odd, name):
    data = (odd / name).read_bytes()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode(data), expected)


def test_lab_comes_out_in_the_colours_of_the_same_picture_in_jpeg(odd):
    lab, jpeg = (decode((odd / name).read_bytes()).astype(int) for name in ("pil_hopper.Lab.tif", "pil_hopper.jpg"))
    assert np.abs(lab - jpeg).mean() < 5


def test_the_animated_png_shows_its_default_image_which_is_red(odd):
    """OpenCV 5 returns black for it, a frame of the animation."""
    assert (decode((odd / "pil_mode_16bit.png").read_bytes()) == (255, 0, 0)).all()


def test_jpegs_of_all_kinds_come_reduced_as_opencv_reduces_them(odd):
    seen = 0
    for name, expected in EXPECTED.items():
        data = (odd / name).read_bytes()
        if not isinstance(expected[0], int) or read_header(data).format != "JPEG":
            continue
        for factor, flag in ((2, cv2.IMREAD_REDUCED_COLOR_2), (8, cv2.IMREAD_REDUCED_COLOR_8)):
            wanted = cv2.imdecode(np.frombuffer(data, np.uint8), flag)[..., ::-1]
            np.testing.assert_array_equal(decode(data, reduce=factor), wanted, err_msg=name)
            seen += 1
    assert seen > 20
