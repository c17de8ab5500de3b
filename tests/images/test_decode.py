"""The pixels: equal to OpenCV's where PaddleX uses OpenCV, and by the stated rules elsewhere."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from rayseg.errors import ImageTooLarge, UnsupportedImage
from rayseg.images import count_pages, decode
from rayseg.images.png import plain
from tests.images.builders import (
    FORMATS,
    encode,
    grey_page,
    picture,
    png,
    png_chunk,
    png_rows,
    tiff,
    with_orientation,
)

LOSSLESS = ("PNG", "BMP", "WebP", "TIFF")
SAMPLES = np.random.default_rng(7)


def opencv_rgb(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("shape", [(24, 40), (1, 1), (1, 77), (63, 1), (301, 203)])
def test_a_lossless_file_gives_back_the_pixels_it_was_made_of(kind, shape):
    pixels = picture(*shape)
    decoded = decode(encode(pixels, kind))
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous and decoded.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WebP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 97}, {"lossless": False}])
def test_eight_bit_files_equal_opencv_bit_for_bit(kind, mode, options):
    if kind in ("JPEG", "WebP") and mode in ("RGBA", "P", "1"):
        mode = {"RGBA": "RGB" if kind == "JPEG" else "RGBA", "P": "L", "1": "L"}[mode]
    data = encode(Image.fromarray(picture(133, 97)).convert(mode), kind, **options)
    np.testing.assert_array_equal(decode(data), opencv_rgb(data))


def test_an_image_that_begins_with_the_sentinel_is_decoded_all_the_same():
    pixels = np.arange(251, 251 - 48, -1, dtype=np.uint8).reshape(1, 16, 3)[..., ::-1].copy()
    np.testing.assert_array_equal(decode(encode(pixels, "PNG")), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(kind, orientation):
    data = with_orientation(picture(24, 40), kind, orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode(data), upright)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_tiff_orientation_is_applied_for_every_compression(compression, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(picture(24, 40), "TIFF", compression=compression, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data), upright)


def test_webp_orientation_is_applied_also_where_its_exif_carries_the_jpeg_prefix():
    exif = Image.Exif()
    exif[274] = 6
    block = exif.tobytes()
    assert block.startswith(b"Exif\0\0")
    data = encode(picture(24, 40), "WebP", exif=block[6:])
    prefixed = bytearray(data)
    at = prefixed.index(b"EXIF")
    prefixed[at + 4 : at + 8] = struct.pack("<I", len(block))
    prefixed[at + 8 : at + 8] = b"Exif\0\0"
    prefixed[4:8] = struct.pack("<I", len(prefixed) - 8)
    np.testing.assert_array_equal(decode(bytes(prefixed)), np.rot90(picture(24, 40), -1))


@pytest.mark.parametrize("kind, channels", [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_sixteen_bit_png_keeps_the_high_byte_and_drops_alpha(kind, channels):
    samples = SAMPLES.integers(0, 65536, (9, 13, channels), dtype=np.uint16)
    colours = samples[..., :3] if channels >= 3 else np.repeat(samples[..., :1], 3, axis=2)
    np.testing.assert_array_equal(decode(png(13, 9, 16, kind, png_rows(samples))), colours >> 8)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_dropped_and_the_colours_beneath_come_to_light(channels):
    samples = SAMPLES.integers(0, 256, (5, 6, channels), dtype=np.uint8)
    samples[..., -1] = 0
    colours = samples[..., :3] if channels == 4 else np.repeat(samples[..., :1], 3, axis=2)
    np.testing.assert_array_equal(decode(png(6, 5, 8, 6 if channels == 4 else 4, png_rows(samples))), colours)


def test_a_decoder_of_png_sees_no_text_profile_or_animation():
    chunks = [png_chunk(name, b"x" * 9) for name in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT")]
    bare = png(2, 1, 8, 0, b"\0\x11\x22", png_chunk(b"gAMA", bytes([0, 0, 177, 143])))
    assert plain(bare) is bare
    assert plain(png(2, 1, 8, 0, b"\0\x11\x22", *chunks, png_chunk(b"gAMA", bytes([0, 0, 177, 143])))) == bare


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_grey_reach_from_black_to_white(bits):
    raw = b"".join(b"\0" + bytes([0, 255]) for _ in range(2))
    decoded = decode(png(16 // bits, 2, bits, 0, raw))
    half = 8 // bits
    assert (decoded[:, :half] == 0).all() and (decoded[:, half:] == 255).all()


def test_palette_transparency_does_not_change_the_colours():
    palette = png_chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 50])) + png_chunk(b"tRNS", bytes([0, 128]))
    decoded = decode(png(2, 1, 8, 3, b"\0\0\1", palette))
    assert decoded.tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_the_default_image_of_an_animated_png_is_decoded():
    control = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    frame = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 2, 1, 0, 0, 1, 10, 0, 0))
    data = png(2, 1, 8, 0, b"\0\x11\x22", control)
    later = frame + png_chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(b"\0\xee\xff"))
    data = data[: -len(png_chunk(b"IEND", b""))] + later + png_chunk(b"IEND", b"")
    assert decode(data)[0, :, 0].tolist() == [0x11, 0x22]


OLD = tuple(int(part) for part in cv2.__version__.split(".")[:2]) < (4, 11)


@pytest.mark.parametrize(
    "kind", ["PNG", pytest.param("WebP", marks=pytest.mark.skipif(OLD, reason="OpenCV 4.10 reads no animated WebP"))]
)
def test_of_an_animation_the_first_frame_is_decoded(kind):
    first, second = Image.fromarray(picture(seed=1)), Image.fromarray(picture(seed=2))
    data = encode(first, kind, save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(data), picture(seed=1))


def test_of_an_mpo_the_first_picture_is_decoded():
    first, second = Image.fromarray(picture(seed=1)), Image.fromarray(picture(seed=2))
    data = encode(first, "MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(data), opencv_rgb(encode(first, "JPEG")))


def test_cmyk_jpeg_and_tiff_agree_on_the_formula():
    inks = SAMPLES.integers(0, 256, (6, 7, 4), dtype=np.uint8)
    expected = ((255 - inks[..., :3].astype(int)) * (255 - inks[..., 3:].astype(int))) / 255
    from_tiff = decode(encode(Image.fromarray(inks, "CMYK"), "TIFF"))
    assert np.abs(from_tiff - expected).max() < 2  # the integer formula divides by 256

    flat = np.broadcast_to(np.uint8([200, 30, 90, 40]), (16, 16, 4)).copy()  # one colour survives JPEG nearly unharmed
    jpeg = encode(Image.fromarray(flat, "CMYK"), "JPEG", quality=100)
    assert np.abs(decode(jpeg).astype(int) - decode(encode(Image.fromarray(flat, "CMYK"), "TIFF"))).max() <= 3


def test_pages_of_a_tiff_are_decoded_one_by_one_each_in_its_size():
    pages = [picture(10 + i, 20 - i, seed=i) for i in range(4)]
    for big in (False, True):
        images = [Image.fromarray(page) for page in pages]
        data = encode(images[0], "TIFF", save_all=True, append_images=images[1:], big_tiff=big, compression="tiff_lzw")
        assert count_pages(data) == 4
        for number, page in enumerate(pages):
            np.testing.assert_array_equal(decode(data, page=number), page)


def test_sixteen_and_twelve_bit_tiffs_keep_their_high_byte():
    samples = np.array([[0, 255, 256, 4095, 4096, 65535]], np.uint16)
    assert decode(encode(Image.fromarray(samples), "TIFF"))[0, :, 0].tolist() == [0, 0, 1, 15, 16, 255]

    twelve = bytes([0xFF, 0xF1, 0x23])  # two samples: 0xfff and 0x123
    assert decode(tiff(grey_page(2, 1, 12), strips=twelve + bytes(1)))[0, :, 0].tolist() == [0xFF, 0x12]


@pytest.mark.parametrize("bits, strips, grey", [(8, b"\0\x64\xff\0", [255, 155, 0]), (16, b"\0\0\0\x64\xff\xff", [255, 155, 0])])
def test_a_tiff_whose_zero_is_white_is_inverted(bits, strips, grey):
    assert decode(tiff(grey_page(3, 1, bits, tag262=0), strips=strips))[0, :, 0].tolist() == grey


def test_pixels_agree_for_planar_and_interleaved_and_tiled_tiffs():
    page = {256: 16, 257: 16, 258: (8, 8, 8), 259: 1, 262: 2, 277: 3}
    pixels = picture(16, 16)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    planar = {273: (8, 264, 520), 278: 16, 279: (256, 256, 256), 284: 2}
    chunky = {273: 8, 278: 16, 279: 768, 284: 1}
    tiled = {322: 16, 323: 16, 324: 8, 325: 768, 284: 1}
    for layout, strips in ((planar, planes), (chunky, pixels.tobytes()), (tiled, pixels.tobytes())):
        np.testing.assert_array_equal(decode(tiff(page | layout, strips=strips)), pixels)


def test_an_arrangement_of_samples_that_no_reader_knows_is_unsupported():
    with pytest.raises(UnsupportedImage, match="grey of 8 bits in this arrangement"):
        decode(tiff(grey_page(4, 4, tag277=9), strips=bytes(4096)))


def test_a_bmp_whose_last_padding_is_missing_is_whole():
    data = encode(picture(5, 3), "BMP")
    assert (3 * 3) % 4 != 0
    np.testing.assert_array_equal(decode(data[:-3]), picture(5, 3))


@pytest.mark.parametrize("kind", FORMATS)
def test_what_follows_an_image_does_not_matter(kind):
    data = encode(picture(), kind)
    np.testing.assert_array_equal(decode(data + b"\xff\xd9 more"), decode(data))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("as_type", [bytes, bytearray, memoryview])
def test_any_buffer_of_bytes_is_taken(kind, as_type):
    data = encode(picture(), kind)
    np.testing.assert_array_equal(decode(as_type(data)), decode(data))


@pytest.mark.parametrize("kind", FORMATS)
def test_more_pixels_than_allowed_are_refused_and_exactly_as_many_are_not(kind):
    data = encode(picture(24, 40), kind)
    assert decode(data, max_pixels=960).shape == (24, 40, 3)
    with pytest.raises(ImageTooLarge, match="40 x 24 needs 960 pixels, more than --max-pixels 959"):
        decode(data, max_pixels=959)


def test_a_tile_far_larger_than_its_image_is_refused_too():
    page = grey_page(4, 4) | {322: 1 << 20, 323: 1 << 20, 324: 8, 325: 16}
    with pytest.raises(ImageTooLarge, match="1099511627776 pixels"):
        decode(tiff(page, strips=bytes(16)))
