"""One image: what its header says, and its pixels as 8-bit RGB. Resizing and normalising are left to the predictors."""

from __future__ import annotations

from rayseg.images.decoding import MAX_PIXELS, decode
from rayseg.images.header import Header
from rayseg.images.identify import count_pages, read_header
from rayseg.images.reduced import REDUCTIONS, jpeg_header, reduction
from rayseg.images.worker import TIMEOUT_S, DecodeWorker, decode_isolated

__all__ = [
    "MAX_PIXELS",
    "REDUCTIONS",
    "TIMEOUT_S",
    "DecodeWorker",
    "Header",
    "count_pages",
    "decode",
    "decode_isolated",
    "jpeg_header",
    "read_header",
    "reduction",
]
