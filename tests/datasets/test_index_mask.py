"""Index masks are read as the numbers stored, whatever the depth; colours and lossy formats are refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from rayseg.datasets.index_mask import read_index_mask, write_index_mask
from rayseg.errors import ImageError, UnsupportedImage

label_maps = hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)))


def saved(labels: np.ndarray, format_name: str = "PNG", mode: str | None = None, **options) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(labels)
    if mode == "P":
        image = Image.frombytes("P", (labels.shape[1], labels.shape[0]), labels.tobytes())
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(out, format=format_name, **options)
    return out.getvalue()


@given(label_maps)
def test_what_is_written_is_read(labels):
    assert (read_index_mask(write_index_mask(labels)) == labels).all()


@given(label_maps)
def test_palettes_are_not_looked_up(labels):
    assert (read_index_mask(saved(labels, mode="P")) == labels).all()


@pytest.mark.parametrize("format_name, options", [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {})])
def test_grey_files_keep_their_numbers(format_name, options):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (read_index_mask(saved(labels, format_name, **options)) == labels).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_depths_are_not_stretched(bits):
    import struct
    import zlib

    labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % (1 << bits)
    rows = np.packbits(np.unpackbits(labels[..., None], axis=2)[..., 8 - bits :].reshape(8, -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    assert (read_index_mask(data) == labels).all()


def test_sixteen_bits_are_kept():
    labels = np.array([[0, 300], [65535, 7]], dtype=np.uint16)
    found = read_index_mask(saved(labels))
    assert found.dtype == np.uint16 and (found == labels).all()


@pytest.mark.parametrize(
    "data, message",
    [
        (saved(np.zeros((8, 8), np.uint8), "JPEG"), "JPEG, which changes the numbers"),
        (saved(np.zeros((8, 8, 3), np.uint8), "WEBP"), "WebP, which changes the numbers"),
        (saved(np.zeros((8, 8, 3), np.uint8)), "rgb of 8 bits, not one channel"),
        (saved(np.zeros((8, 8, 4), np.uint8)), "rgba of 8 bits, not one channel"),
    ],
)
def test_what_cannot_hold_class_ids_is_refused(data, message):
    with pytest.raises(UnsupportedImage, match=message):
        read_index_mask(data)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "BMP"])
def test_a_cut_file_is_refused(share, format_name):
    data = saved(np.random.default_rng(0).integers(0, 9, (40, 40), dtype=np.uint8), format_name)
    with pytest.raises(ImageError):
        read_index_mask(data[: int(share * len(data))])


def test_a_mask_that_is_too_large_is_refused_from_its_header():
    with pytest.raises(ImageError, match="more than 63 pixels"):
        read_index_mask(saved(np.zeros((8, 8), np.uint8)), max_pixels=63)


def test_a_palette_png_holds_bytes_only():
    with pytest.raises(ValueError, match="uint8"):
        write_index_mask(np.zeros((2, 2), np.uint16))


def test_the_real_masks_agree_in_png_and_tiff(shared_dir):
    folder = shared_dir / "data" / "optic_disc_idrid"
    tiffs = sorted((folder / "masks_tif_original").glob("*.tif"))
    assert tiffs
    for path in tiffs:
        png = folder / "masks" / f"{path.stem.removesuffix('_OD')}.png"
        found = read_index_mask(path.read_bytes())
        assert (found == read_index_mask(png.read_bytes())).all() and set(np.unique(found)) == {0, 1}
