"""The one call into OpenCV's decoders: a file's bytes into an array that exists already.

`cv2.imdecode` decodes into memory of its own and copies that to a new array; `cv2.imread` can write into a given array.
On a 4000 x 4000 JPEG that saves a third of the time, so where the system has nameless files in memory (Linux) the bytes
go through one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from rayseg.errors import CorruptImage, ImageTooLarge

# The orientation is applied by decoding.py, from the header, for every format alike.
_COLOUR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_FLAGS = {reduce: flag | cv2.IMREAD_IGNORE_ORIENTATION for reduce, flag in _COLOUR.items()}
_UNTOUCHED = bytes(range(251, 235, -1))


def read_bgr(data: bytes, out: np.ndarray, *, path: str | None = None, reduce: int = 1) -> None:
    """Decode a JPEG, PNG, BMP or WebP as it is stored.

    Args:
        data: the whole file.
        out: uint8 (H, W, 3), C-contiguous, of the size the header says, divided by `reduce`; filled with BGR.
        path: a file that holds the same bytes, if there is one.
        reduce: 1, or for a JPEG 2, 4 or 8: libjpeg decodes it at that part of its sides.

    Raises:
        CorruptImage: OpenCV cannot decode it, or to another size only.
        ImageTooLarge: beyond OpenCV's own limits, or beyond this machine's memory.
    """
    flags = _FLAGS[reduce]
    try:
        if path is not None:
            done = _read_into(path, data, out, flags)
        elif hasattr(os, "memfd_create"):
            with memory_file(data) as path:
                done = _read_into(path, data, out, flags)
        else:
            done = _decode_into(data, out, flags)
    except cv2.error as error:
        raise _translated(error, out.shape) from error
    if not done:
        raise CorruptImage(f"OpenCV cannot decode its pixels ({out.shape[1]} x {out.shape[0]}); the file is damaged.")


@contextmanager
def memory_file(data: bytes) -> Iterator[str]:
    """A file without a name that holds `data`, as a path for those who insist on one. Linux only."""
    with open(os.memfd_create("image"), "wb") as file:
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _read_into(path: str, data: bytes, out: np.ndarray, flags: int) -> bool:
    """imread says None when the pixels fail, but hands `out` back untouched when the header does: hence the pattern."""
    start = out.reshape(-1)[: len(_UNTOUCHED)]
    pattern = np.frombuffer(_UNTOUCHED, np.uint8)[: len(start)]
    start[:] = pattern
    if cv2.imread(path, out, flags) is None:
        return False
    return _decode_into(data, out, flags) if np.array_equal(start, pattern) else True


def _decode_into(data: bytes, out: np.ndarray, flags: int) -> bool:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None or image.shape != out.shape:
        return False
    np.copyto(out, image)
    return True


def _translated(error: cv2.error, shape: tuple[int, ...]) -> CorruptImage | ImageTooLarge:
    size = f"{shape[1]} x {shape[0]} pixels"
    if "CV_IO_MAX_IMAGE" in str(error):
        return ImageTooLarge(
            f"{size} is more than OpenCV reads in this process. Raise OPENCV_IO_MAX_IMAGE_PIXELS, _WIDTH and _HEIGHT "
            "in the environment before Python starts, or decode in a DecodeWorker, which does so."
        )
    if error.code == cv2.Error.StsNoMem:
        return ImageTooLarge(f"{size} do not fit into the memory that is left.")
    said = " ".join(error.err.split())[:200]
    return CorruptImage(f"OpenCV cannot decode it as {size}, which its header says ({said}). The file is damaged.")
