"""What a file is and what its header says: laws of read_header and count_pages, then the files people really have."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from rayseg.errors import CorruptImage, ImageTooLarge, TruncatedImage, UnsupportedImage
from rayseg.images import Header, count_pages, decode, read_header
from tests.images.builders import FORMATS, encode, grey_page, picture, png, tiff, with_orientation


class CountingFile(io.BytesIO):
    """A file that counts the bytes read from it."""

    total = 0

    def read(self, size=-1):
        data = super().read(size)
        self.total += len(data)
        return data


@pytest.mark.parametrize(
    "kind, orientation",
    [("BMP", 1), *((kind, orientation) for kind in FORMATS if kind != "BMP" for orientation in range(1, 9))],
)
def test_header_and_pixels_agree_on_the_size_in_every_orientation(kind, orientation):
    data = encode(picture(), kind) if kind == "BMP" else with_orientation(picture(24, 40), kind, orientation)
    header = read_header(data)
    assert (header.height, header.width, 3) == decode(data).shape
    assert header.format == kind and header.orientation == orientation and header.pages == 1
    assert header.stored_hw == (24, 40)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_and_its_bytes_give_the_same_header_and_little_is_read(kind):
    data = encode(picture(300, 400), kind)
    file = CountingFile(data)
    assert read_header(file) == read_header(data)
    assert file.total < len(data) / 2 + 2000


@pytest.mark.parametrize(
    "mode, kind, colour, bits",
    [
        ("L", "JPEG", "grey", 8),
        ("CMYK", "JPEG", "cmyk", 8),
        ("1", "PNG", "grey", 1),
        ("LA", "PNG", "grey+alpha", 8),
        ("RGBA", "PNG", "rgba", 8),
        ("P", "PNG", "palette", 1),
        ("I;16", "PNG", "grey", 16),
        ("P", "BMP", "palette", 8),
        ("RGBA", "WebP", "rgba", 8),
        ("CMYK", "TIFF", "cmyk", 8),
        ("I;16", "TIFF", "grey", 16),
        ("RGBA", "TIFF", "rgba", 8),
    ],
)
def test_header_tells_colours_and_bits_as_stored(mode, kind, colour, bits):
    header = read_header(encode(Image.new(mode, (300, 20)), kind))
    assert (header.colour, header.bits) == (colour, bits)


def test_header_example():
    assert read_header(encode(picture(24, 40), "PNG")) == Header("PNG", 40, 24, pages=1, colour="rgb", bits=8)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", r"empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git lfs pull"),
        (b"GIF89a" + bytes(20), "GIF"),
        (b"hello, not an image\n", r"text \('hello"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns=''>", "SVG"),
        (b"<!DOCTYPE html><html>403</html>", "HTML page"),
        (b"\0\0\0\x1cftypavif" + bytes(20), "AVIF"),
        (b"\0\0\0\x1cftypheic" + bytes(20), "HEIF"),
        (b"\0\0\0\x1cftypisom" + bytes(20), "video"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(20), "CR2"),
        (b"\xff\x4f\xff\x51" + bytes(20), "JPEG 2000"),
        (b"P6\n4 4\n255\n", "Netpbm"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04", "zip"),
        (b"RIFF\x10\0\0\0AVI LIST", "AVI"),
        (bytes(128) + b"DICM" + bytes(20), "DICOM"),
        (bytes(600), "no known image"),
        (b"\x00", "no known image"),
    ],
)
def test_other_files_are_refused_with_what_they_seem_to_be(data, message):
    for read in (read_header, decode):
        with pytest.raises(UnsupportedImage, match=message):
            read(data)
    assert count_pages(data) == 1


def test_a_text_of_the_letters_bm_is_no_bmp():
    with pytest.raises(UnsupportedImage, match="text"):
        read_header(b"BMW and other makers of cars")


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pages", [1, 2, 7])
def test_pages_are_counted_in_tiff_and_bigtiff(pages, big):
    images = [Image.fromarray(picture(seed=i)) for i in range(pages)]
    data = encode(images[0], "TIFF", save_all=True, append_images=images[1:], big_tiff=big)
    assert count_pages(data) == count_pages(io.BytesIO(data)) == read_header(data).pages == pages


def test_counting_pages_reads_the_directories_only():
    images = [Image.fromarray(picture(200, 300, seed=i)) for i in range(5)]
    file = CountingFile(encode(images[0], "TIFF", save_all=True, append_images=images[1:]))
    assert count_pages(file) == 5
    assert file.total < 4000


def test_overviews_and_masks_are_no_pages():
    page, overview, mask, old_overview = (
        grey_page(4, 4),
        grey_page(2, 2, tag254=1),
        grey_page(4, 4, tag254=4),
        grey_page(2, 2, tag255=2),
    )
    data = tiff(page, overview, mask, old_overview, grey_page(3, 4, tag254=2), strips=bytes(16))
    assert count_pages(data) == 2
    assert read_header(data, page=1).width == 3
    assert decode(data, page=1).shape == (4, 3, 3)


def test_an_overview_in_first_place_is_the_page_there_is():
    assert count_pages(tiff(grey_page(4, 4, tag254=1), strips=bytes(16))) == 1


def test_a_chain_that_runs_in_a_circle_is_corrupt():
    data = tiff(grey_page(4, 4), strips=bytes(16), next_of_last=24)
    with pytest.raises(CorruptImage, match="byte 24 comes twice"):
        count_pages(data)


def test_overlapping_directories_are_corrupt_before_they_cost_time():
    # A cell is the field count of one directory, then the offset of the next for the directory 2 * fields cells before.
    fields, directories = 100, 2000
    cells = [struct.pack("<HI", fields, 8 + 6 * max(0, i - 2 * fields + 1)) for i in range(directories)]
    with pytest.raises(CorruptImage, match="overlap"):
        count_pages(b"II*\0\x08\0\0\0" + b"".join(cells))


def test_a_chain_that_leaves_the_file_is_truncated():
    with pytest.raises(TruncatedImage, match="a TIFF directory at byte 5000"):
        count_pages(tiff(grey_page(4, 4), strips=bytes(16), next_of_last=5000))


def test_a_tiff_without_a_directory_is_corrupt():
    with pytest.raises(CorruptImage, match="not closed by its writer"):
        count_pages(b"II*\0\0\0\0\0")


def test_a_page_that_does_not_exist_is_corrupt():
    with pytest.raises(CorruptImage, match="page 2 of a file with 1 pages"):
        decode(tiff(grey_page(4, 4), strips=bytes(16)), page=2)
    with pytest.raises(CorruptImage, match="page 1 of a PNG"):
        decode(encode(picture(), "PNG"), page=1)


def test_camera_raw_in_tiff_clothes_is_refused():
    for raw in (grey_page(4, 4, tag254=1, tag330=8), grey_page(4, 4, tag50706=0x01040000)):
        with pytest.raises(UnsupportedImage, match="camera raw"):
            read_header(tiff(raw, strips=bytes(16)))


@pytest.mark.parametrize(
    "tags, message",
    [
        ({"tag339": 3}, "floating point"),
        ({"tag339": 2}, "signed integers"),
        ({"tag258": 32}, "32 bits"),
        ({"tag262": 32803}, "photometric interpretation 32803"),
    ],
)
def test_tiff_samples_without_a_rule_are_refused(tags, message):
    with pytest.raises(UnsupportedImage, match=message):
        read_header(tiff(grey_page(4, 4, **tags), strips=bytes(64)))


def test_a_twelve_bit_jpeg_is_refused():
    data = bytearray(encode(picture(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnsupportedImage, match="12 bits"):
        read_header(bytes(data))


def test_a_side_of_zero_is_corrupt():
    with pytest.raises(CorruptImage, match="0 x 4 pixels"):
        read_header(png(0, 4, 8, 0, bytes(4)))


def test_a_png_wider_than_libpng_reads_is_too_large_rather_than_corrupt():
    with pytest.raises(ImageTooLarge, match="1000001 x 1"):
        read_header(png(1_000_001, 1, 1, 0, bytes(125_002)))


def test_a_broken_exif_block_does_not_cost_the_image():
    data = encode(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_header(data).orientation == 1
    assert decode(data).shape == (24, 40, 3)
