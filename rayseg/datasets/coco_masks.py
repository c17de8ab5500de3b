"""One COCO `segmentation`: what is wrong with it, and its pixels.

A segmentation is a list of polygons [x0, y0, x1, y1, ...], or an RLE {size, counts} whose counts are a list of runs or the
compressed string of COCO's maskApi. Everything is checked before pycocotools sees it, whose C code trusts what it gets: a
damaged string makes it read beyond its buffers, and a polygon with corners at 1e9 makes it ask for gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from rayseg.datasets.sample import Patch, tight_patch
from rayseg.errors import DatasetError
from rayseg.geometry import Size
from rayseg.rle import Rle

_FIRST, _MORE, _SIGN, _BITS = 48, 0x20, 0x10, 5  # the characters of a compressed string: six bits each, from "0" on
_LONGEST_COUNT = 7  # characters: 35 bits, more than any count of pixels needs
_CORNERS = 3
_BEYOND = 1e15


def read_mask(annotation: Mapping[str, Any], size: Size) -> Patch | None:
    """The mask of one annotation.

    Args:
        annotation: with `segmentation` in one of COCO's forms.
        size: of the image.

    Returns:
        None when no pixel is covered, as for a polygon thinner than a pixel.

    Raises:
        DatasetError: see `check_segmentation`.
    """
    return tight_patch(coco_mask.decode(_encoded(annotation["segmentation"], size)))


def to_rle(segmentation: Any, size: Size) -> Rle:
    """A segmentation as compressed RLE.

    Raises:
        DatasetError: see `check_segmentation`.
    """
    return Rle(size, _encoded(segmentation, size)["counts"])


def check_segmentation(segmentation: Any, size: Size) -> None:
    """Raise where a segmentation cannot be a mask of an image of this size.

    Raises:
        DatasetError: it has another form, RLE of another size or with runs that do not fill the image, polygons of fewer
            than three corners or with corners that are no numbers or far outside the image.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            raise DatasetError("the list of polygons is empty; delete the annotation or give it a mask")
        for polygon in segmentation:
            _check_polygon(polygon, size)
    elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        _check_runs(segmentation, size)
    else:
        raise DatasetError(f"segmentation is neither polygons nor RLE: {str(segmentation)[:60]}; write one of the two")


def is_number(value: Any) -> bool:
    """True for a number that can be a coordinate; NaN, infinity and integers beyond floating point are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _BEYOND


def corners(segmentation: list[Any]) -> np.ndarray:
    """All corners of checked polygons, float64 (n, 2), x and y."""
    return np.concatenate([np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation])


def unpack_counts(counts: str | bytes) -> np.ndarray:
    """Runs of a compressed string, int64.

    The packing is that of maskApi's rleToString: groups of five bits with a continuation bit, the last of them signed; from
    the fourth count on the difference to the one two before.

    Raises:
        DatasetError: it is not such a string.
    """
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    except UnicodeEncodeError:
        raise DatasetError("compressed RLE has characters that are not ASCII; was the file saved in another encoding?") from None
    if not raw:
        return np.empty(0, dtype=np.int64)
    groups = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - _FIRST
    if groups.min() < 0 or groups.max() >= 2 * _MORE:
        bad = chr(raw[int(np.flatnonzero((groups < 0) | (groups >= 2 * _MORE))[0])])
        raise DatasetError(f"compressed RLE has the character {bad!r}, which means nothing there; encode the mask again")
    ends = np.flatnonzero((groups & _MORE) == 0)
    if ends.size == 0 or ends[-1] != groups.size - 1:
        raise DatasetError("compressed RLE ends in the middle of a number; the string was cut short, encode the mask again")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_COUNT:
        raise DatasetError("compressed RLE holds a number of more than 35 bits; the string is damaged, encode the mask again")
    shifts = _BITS * (np.arange(groups.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((groups & (_MORE - 1)) << shifts, starts)
    values -= np.where(groups[ends] & _SIGN, 1 << (_BITS * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _encoded(segmentation: Any, size: Size) -> dict[str, Any]:
    check_segmentation(segmentation, size)
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size.hw))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size.hw)
    counts = segmentation["counts"]
    return {"size": list(size.hw), "counts": counts.encode() if isinstance(counts, str) else counts}


def _check_polygon(polygon: Any, size: Size) -> None:
    if not isinstance(polygon, list) or len(polygon) < 2 * _CORNERS or len(polygon) % 2:
        raise DatasetError(f"a polygon is a list of at least three x, y pairs, got {str(polygon)[:60]}; draw it again")
    if not all(is_number(v) for v in polygon):
        raise DatasetError(f"a corner of a polygon is not a number: {str(polygon)[:60]}; draw it again or delete it")
    found = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    if (found < np.negative(size.wh)).any() or (found > np.multiply(size.wh, 2)).any():
        x, y = found[np.argmax(np.abs(found / size.wh).max(axis=1))]
        raise DatasetError(
            f"a corner of a polygon lies at ({x:g}, {y:g}), far outside the image of {size.width} x {size.height}; "
            "were the annotations made for a larger image?"
        )


def _check_runs(segmentation: Mapping[str, Any], size: Size) -> None:
    if list(np.ravel(segmentation["size"])) != list(size.hw):
        raise DatasetError(
            f"RLE of size {segmentation['size']} in an image of [height, width] {list(size.hw)}; "
            "encode the mask again from the image as it is"
        )
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in counts):
            raise DatasetError(f"RLE counts are whole numbers, got {str(counts)[:60]}; encode the mask again")
        runs = np.asarray([min(max(v, -1), size.pixels + 1) for v in counts], dtype=np.int64)
    elif isinstance(counts, (str, bytes)):
        runs = unpack_counts(counts)
    else:
        raise DatasetError(f"RLE counts are a list of runs or a string, got {type(counts).__name__}; encode the mask again")
    if (runs < 0).any():
        raise DatasetError("RLE has a run of negative length; the counts are damaged, encode the mask again")
    if runs.sum() != size.pixels:
        raise DatasetError(
            f"RLE runs add up to {runs.sum()} pixels, the image has {size.pixels}; encode the mask again from the image as it is"
        )
