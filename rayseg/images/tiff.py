"""TIFF and BigTIFF files: pages, what a page holds, which pages are refused, and whether a page's pixels are all there.

A page is a directory of the main chain that is neither an overview nor a mask of another one. The pixels themselves are
decoded in tiff_pixels.py. Field numbers: TIFF 6.0, and Adobe's DNG specification for camera raw files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from rayseg.errors import CorruptImage, UnsupportedImage
from rayseg.images import tiff_directory
from rayseg.images.exif import upright_or
from rayseg.images.header import Header, oriented
from rayseg.images.tiff_directory import Directory

_SUBFILE_TYPE, _OLD_SUBFILE_TYPE = 254, 255
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, PHOTOMETRIC, _ORIENTATION, _SAMPLES = 256, 257, 258, 259, 262, 274, 277
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 322, 323, 324, 325
_SUB_DIRECTORIES, _SAMPLE_FORMAT, _JPEG_OFFSET, _DNG_VERSION = 330, 339, 513, 50706
_OVERVIEW, _MASK = 1, 4  # bits of _SUBFILE_TYPE
_COLOURS = {0: "grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "ycbcr", 8: "lab"}
_SAMPLE_KINDS = {2: "signed integers", 3: "floating point numbers", 5: "complex integers", 6: "complex numbers"}
_READ_BITS = (1, 2, 4, 8, 12, 16)
_ROUNDING_BYTES = 1 << 20  # rows end on whole bytes, tiles reach beyond the image


def count_pages(file: BinaryIO) -> int:
    """Count the pages by walking the directories.

    Raises:
        TruncatedImage, CorruptImage: see `tiff_directory.chain`.
    """
    return sum(1 for _ in pages(file))


def pages(file: BinaryIO) -> Iterator[Directory]:
    """The directories that are pages. The first directory always is one."""
    for index, directory in enumerate(tiff_directory.chain(file)):
        kind = directory.first(_SUBFILE_TYPE, 0)
        old_kind = directory.first(_OLD_SUBFILE_TYPE, 1)  # 1: full resolution, 2: overview, 3: page
        if index == 0 or not (kind & (_OVERVIEW | _MASK) or old_kind == 2):
            yield directory


def find_page(file: BinaryIO, page: int) -> Directory:
    """The directory of one page, counted from 0.

    Raises:
        CorruptImage: the file has fewer pages.
        TruncatedImage: the file ends before that page's directory.
    """
    number = -1
    for number, directory in enumerate(pages(file)):
        if number == page:
            return directory
    raise CorruptImage(f"TIFF: page {page} of a file with {number + 1} pages. Did it change after it was listed?")


def header_of(directory: Directory, *, pages: int) -> Header:
    """The header of one page, which has been found before; `pages` is passed on.

    Raises:
        UnsupportedImage: no stated rule turns the page's samples into 8-bit colours.
        CorruptImage: a size that is not positive.
    """
    _refuse_camera_raw(directory)
    _refuse_unreadable(directory)
    colour = _COLOURS[directory.first(PHOTOMETRIC, 0)]
    with_alpha = {("grey", 2): "grey+alpha", ("rgb", 4): "rgba"}
    return oriented(
        "TIFF",
        directory.first(_WIDTH, 0),
        directory.first(_HEIGHT, 0),
        colour=with_alpha.get((colour, directory.first(_SAMPLES, 1)), colour),
        bits=directory.first(_BITS, 1),
        orientation=upright_or(directory.first(_ORIENTATION, 1)),
        pages=pages,
    )


def block_pixels(directory: Directory) -> int:
    """Pixels of one tile, which a decoder allocates whatever the image's size is; 0 for images in strips."""
    return directory.first(_TILE_WIDTH, 0) * directory.first(_TILE_HEIGHT, 0)


def why_cut(data: bytes, directory: Directory) -> str | None:
    """Say why the page is incomplete; None when every strip or tile lies inside the file."""
    end = _pixels_end(directory)
    return f"the TIFF has {len(data)} bytes, the page's pixels end at byte {end}" if end > len(data) else None


def mend(data: bytes, directory: Directory) -> bytes:
    """Give a cut page black pixels where the file ends; only uncompressed pages can be mended so.

    Raises:
        CorruptImage: the page is compressed, or claims to lie farther away than its pixels explain.
    """
    missing = _pixels_end(directory) - len(data)
    samples = directory.first(_WIDTH, 0) * directory.first(_HEIGHT, 0) * directory.first(_SAMPLES, 1)
    most = samples * directory.first(_BITS, 1) // 8 + _ROUNDING_BYTES
    if directory.first(_COMPRESSION, 1) != 1 or missing > most:
        raise CorruptImage(f"{why_cut(data, directory)}; only uncompressed pages can be decoded in part. Fetch it again.")
    return data + bytes(missing)


def _pixels_end(directory: Directory) -> int:
    """The byte behind the last strip or tile. Empty ones (sparse files) have no bytes and do not count."""
    starts, sizes = directory.all_values(_TILE_OFFSETS), directory.all_values(_TILE_BYTES)
    if not len(starts):
        starts, sizes = directory.all_values(_STRIP_OFFSETS), directory.all_values(_STRIP_BYTES)
    if not len(starts) and not directory.values(_JPEG_OFFSET):
        raise CorruptImage(f"TIFF: the page at byte {directory.offset} has no strips and no tiles; the file is damaged.")
    count = min(len(starts), len(sizes))
    ends = (starts[:count] + sizes[:count])[sizes[:count] > 0]
    return int(ends.max(initial=0))


def _refuse_camera_raw(directory: Directory) -> None:
    """The first directory of a raw file is a thumbnail; segmenting that would be a silent mistake."""
    thumbnail = directory.first(_SUBFILE_TYPE, 0) & _OVERVIEW and _SUB_DIRECTORIES in directory.entries
    if thumbnail or _DNG_VERSION in directory.entries:
        raise UnsupportedImage("seems to be a camera raw file (DNG, NEF or alike) in TIFF clothes. Develop it to JPEG.")


def _refuse_unreadable(directory: Directory) -> None:
    photometric = directory.first(PHOTOMETRIC, 0)
    if photometric not in _COLOURS:
        raise UnsupportedImage(f"TIFF: photometric interpretation {photometric} has no rule. Convert it to RGB or grey.")
    for kind in directory.values(_SAMPLE_FORMAT):
        if kind in _SAMPLE_KINDS:
            raise UnsupportedImage(
                f"TIFF: its samples are {_SAMPLE_KINDS[kind]}, and no rule says which value is white. "
                "Scale it to 8-bit integers first."
            )
    bits = set(directory.values(_BITS)) or {1}
    if len(bits) > 1 or not bits <= set(_READ_BITS):
        shown = ", ".join(map(str, sorted(bits)))
        raise UnsupportedImage(f"TIFF: samples of {shown} bits; one of {_READ_BITS} for all of them is read.")
