"""What every check needs: one image file read, decoded and compared with what the annotations say of it.

check_coco.py and check_semantic.py hold the rules of their formats; running over many files is left to
pipeline/check_dataset.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rayseg.datasets.files import Reader
from rayseg.datasets.findings import Finding, error
from rayseg.errors import ImageError
from rayseg.geometry import Size
from rayseg.images import read_header

Decode = Callable[[bytes], np.ndarray]
"""`rayseg.images.decode`, or `decode_isolated`, which a damaged file cannot take down."""


def read_image(path: str, where: str, read: Reader, decode: Decode) -> tuple[np.ndarray | None, bytes, list[Finding]]:
    """One image of a data set.

    Args:
        where: which part of the annotations names it.

    Returns:
        uint8 (H, W, 3) RGB, or None with one finding; and the file's bytes.
    """
    data, found = read_file(path, where, "image", read)
    if found:
        return None, b"", found
    try:
        return decode(data), data, []
    except ImageError as problem:
        return None, data, [error("unreadable-image", path, where, f"cannot be decoded: {problem}", "mend or delete it")]


def read_file(path: str, where: str, what: str, read: Reader) -> tuple[bytes, list[Finding]]:
    """The bytes of an image or mask, or one finding."""
    try:
        return read(path), []
    except FileNotFoundError:
        return b"", [error(f"missing-{what}", path, where, f"the {what} is not there", "add the file or delete its entry")]
    except OSError as problem:
        return b"", [error(f"unreadable-{what}", path, where, f"cannot be read: {problem}", "check its permissions")]


def size_findings(path: str, where: str, data: bytes, found: Size, annotated: Size) -> list[Finding]:
    """The finding where an image is not as large as annotated; names the EXIF orientation where that explains it."""
    if found == annotated:
        return []
    problem = f"the image has {found.width} x {found.height} pixels, the annotations say {annotated.width} x {annotated.height}"
    header = read_header(data)
    if header.orientation != 1 and header.stored_hw == annotated.hw:
        problem += f" (its EXIF orientation is {header.orientation}, and the annotations were made before it was applied)"
        remedy = "drop the orientation tag from the image, or annotate it as viewers show it"
    else:
        remedy = "annotate the image as it is now, or restore the one that was annotated"
    return [error("size-mismatch", path, where, problem, remedy)]
