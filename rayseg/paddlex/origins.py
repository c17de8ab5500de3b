"""Where the pixels of a result came from, small enough to keep with it: drawing reads them again.

Arrays are the caller's own, not copies: a frame buffer that is filled anew before a result is drawn shows the new frame.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rayseg.errors import ConfigError, CorruptImage, ImageError, SourceError
from rayseg.images import count_pages, decode
from rayseg.images.sniff import HEAD_BYTES, sniff

PDF_SCALE = 2.0
"""Pixels for each of PDF's points (1/72 inch), as PaddleX renders them."""
_TIMEOUT_S = 60
_ATTEMPTS = 3


class Origin(Protocol):
    """Gives the pixels of one picture, any number of times."""

    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3). Raises RaysegError when they cannot be had (again)."""


@dataclass(frozen=True, eq=False)
class ArrayOrigin:
    """Pixels in OpenCV's order."""

    pixels: np.ndarray = field(repr=False)
    """uint8 (H, W, 3) BGR, (H, W, 4) BGRA, whose alpha is dropped, or (H, W) grey."""

    def rgb(self) -> np.ndarray:
        """Raises ImageError for another shape or type."""
        pixels = self.pixels
        fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
        if pixels.dtype != np.uint8 or not fits or pixels.size == 0:
            raise ImageError(
                f"expected a non-empty uint8 array (H, W, 3) in BGR order, (H, W, 4) or (H, W), got {pixels.dtype} {pixels.shape}"
            )
        if pixels.ndim == 2:
            return np.repeat(pixels[..., None], 3, axis=2)
        return np.ascontiguousarray(pixels[..., 2::-1])


@dataclass(frozen=True)
class FileOrigin:
    """A picture in a local file."""

    path: str
    page: int = 0

    def rgb(self) -> np.ndarray:
        """Raises SourceError or ImageError."""
        return read_page(read_file(self.path), self.page)


@dataclass(frozen=True)
class BytesOrigin:
    """A picture in a file that was fetched; its bytes are kept, since the web may give others next time."""

    data: bytes = field(repr=False)
    page: int = 0

    def rgb(self) -> np.ndarray:
        """Raises ImageError."""
        return read_page(self.data, self.page)


def read_file(path: str) -> bytes:
    """A local file as a whole.

    Raises:
        SourceError: it is not there or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise SourceError("there is no such file or folder; check the spelling") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot be read ({error})") from error


def fetch(url: str) -> bytes:
    """What the web has at a URL now; nothing is kept from one call to the next.

    Raises:
        SourceError: it cannot be had.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
                return bytes(response.read())
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
            final = isinstance(error, ValueError)
            if isinstance(error, urllib.error.HTTPError):
                final = error.code < 500
                error.close()  # it holds the connection
            if final or attempt == _ATTEMPTS:
                raise SourceError(f"cannot be downloaded ({error})") from error
            time.sleep(0.2 * 4**attempt)
    raise AssertionError("unreachable")


def pages(data: bytes) -> int | None:
    """How many pages a file has that is made of pages (TIFF, PDF); None for one picture, or what we cannot read.

    Raises:
        ImageError: its chain of pages is broken.
        ConfigError: a PDF, and the package that reads them is not installed.
    """
    if _is_pdf(data):
        return len(_open_pdf(data))
    try:
        kind = sniff(data[:HEAD_BYTES])
    except ImageError:
        return None  # decoding it says why
    return count_pages(data) if kind == "TIFF" else None


def read_page(data: bytes, page: int) -> np.ndarray:
    """uint8 (H, W, 3) RGB; see `rayseg.images.decode` for the rules and errors. A PDF's page is rendered, on white."""
    if not _is_pdf(data):
        return decode(data, page=page)
    document = _open_pdf(data)
    return np.array(_pdf_call(lambda: document[page].render(scale=PDF_SCALE).to_pil().convert("RGB")))


def _is_pdf(data: bytes) -> bool:
    return data[:5] == b"%PDF-"


def _open_pdf(data: bytes) -> Any:  # a PdfDocument, of a package that may be missing
    try:
        from pypdfium2 import PdfDocument
    except ImportError as error:
        raise ConfigError("it is a PDF, which needs pypdfium2: pip install 'rayseg[pdf]'") from error
    return _pdf_call(partial(PdfDocument, data))


def _pdf_call(call: Callable[[], Any]) -> Any:
    from pypdfium2 import PdfiumError

    try:
        return call()
    except (PdfiumError, ValueError, IndexError) as error:
        raise CorruptImage(f"the PDF cannot be read ({error}); it is damaged or has a password") from error
