"""Asking a file what it is: the format by its content, the header by that format's parser. No pixel is decoded."""

from __future__ import annotations

import io
from typing import BinaryIO

from rayseg.errors import CorruptImage, UnsupportedImage
from rayseg.images import bmp, jpeg, png, tiff, webp
from rayseg.images.header import Header
from rayseg.images.sniff import HEAD_BYTES, sniff

_READERS = {"JPEG": jpeg.read_header, "PNG": png.read_header, "BMP": bmp.read_header, "WebP": webp.read_header}


def read_header(source: bytes | BinaryIO, *, page: int = 0) -> Header:
    """What the header says: format, size, pages, colours. The content decides, not the name.

    Args:
        source: the file's bytes, or a seekable binary file; few and small reads are made, but for a PNG's or TIFF's
            chain of parts, which is walked.
        page: of a TIFF, from 0; its size and colours are those returned.

    Raises:
        UnsupportedImage: not one of JPEG, PNG, BMP, WebP, TIFF, or one of them in a kind we have no rule for.
        TruncatedImage: the file ends within its header.
        CorruptImage: the header is none; or the page does not exist.
        ImageTooLarge: a PNG whose sides no decoder takes.
    """
    file = _open(source)
    kind = sniff(file.read(HEAD_BYTES))
    if kind == "TIFF":
        return tiff.header_of(tiff.find_page(file, page), pages=tiff.count_pages(file))
    if page != 0:
        raise CorruptImage(f"page {page} of a {kind}, which has one. Did the file change after it was listed?")
    return _READERS[kind](file)


def count_pages(source: bytes | BinaryIO) -> int:
    """Pages of a TIFF without its overviews and masks; 1 for any other file, be it an image or not.

    Cheap for remote files: two small reads a page.

    Args:
        source: the file's bytes, or a seekable binary file.

    Raises:
        TruncatedImage: a TIFF whose chain of pages leaves the file.
        CorruptImage: a TIFF whose chain of pages is empty, or a circle.
    """
    file = _open(source)
    try:
        kind = sniff(file.read(HEAD_BYTES))
    except UnsupportedImage:
        return 1
    return tiff.count_pages(file) if kind == "TIFF" else 1


def _open(source: bytes | BinaryIO) -> BinaryIO:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    source.seek(0)
    return source
