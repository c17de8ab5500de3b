"""The pictures of a report: chosen images read again from the source, their masks drawn over them, as small JPEGs.

An image that can no longer be read, or whose rows are gone, becomes a picture without pixels that says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayseg import draw
from rayseg.errors import ImageError, OutputError, RaysegError, SourceError
from rayseg.geometry import Size
from rayseg.images import decode
from rayseg.pipeline.read_tables import in_order, read_rows, to_instances
from rayseg.pipeline.report.picks import Pick
from rayseg.pipeline.sources import to_path
from rayseg.pipeline.storage import Store, filesystem, with_retries
from rayseg.results import Instances

# A picture is shown about 240 px wide, and sharp on screens with two pixels to one; opened, it fills half a screen.
_LONGEST_PX = 600
_QUALITIES = (88, 76, 60, 40)
_MOST_BYTES = 150_000
# Larger images are named but not drawn: the report must not need more memory than the job.
_MOST_PIXELS = 100_000_000
_THREADS = 2
_ATTEMPTS = 3
_BACKGROUND = ("background", "_background_")


@dataclass(frozen=True)
class Picture:
    """One image of the gallery.

    Attributes:
        jpeg: the overlay; None when it could not be drawn.
        size: of the JPEG.
        trouble: why there is none.
        class_counts: (class id, objects), most objects first, then most pixels.
    """

    pick: Pick
    jpeg: bytes | None = None
    size: Size | None = None
    trouble: str | None = None
    class_counts: tuple[tuple[int, int], ...] = ()


def draw_pictures(
    store: Store,
    picks: Sequence[Pick],
    *,
    labels: Sequence[str],
    source_options: Mapping[str, Any],
    allow_truncated: bool = False,
    budget_bytes: int,
) -> Iterator[Picture]:
    """One picture for each pick, in order, two at a time.

    Args:
        source_options: fsspec options to read the images with.
        allow_truncated: as in the job.
        budget_bytes: of all JPEGs together.
    """
    share = min(_MOST_BYTES, budget_bytes // max(1, len(picks)))
    skip = background(labels)

    def one(pick: Pick) -> Picture:
        found: Instances | None = None
        try:
            found = _objects(store, pick)
            image = _image(pick, source_options, allow_truncated)
            size = draw.fit(Size(*image.shape[:2]), _LONGEST_PX)
            picture = draw.overlay(image, found, labels, size=size, outline_px=_outline_px(found, size), skip=skip)
        except Exception as error:  # noqa: BLE001 - storage raises its own trees; all of them cost this picture only
            trouble = str(error) if isinstance(error, RaysegError) else f"{type(error).__name__}: {error}"
            return Picture(pick, trouble=trouble[:300], class_counts=_class_counts(found))
        jpeg, size = jpeg_within(picture, share)
        return Picture(pick, jpeg, size, class_counts=_class_counts(found))

    return in_order(one, picks, threads=_THREADS)


def background(labels: Sequence[str]) -> list[int]:
    """Class ids that are left uncoloured because their name says that nothing is there."""
    return [i for i, label in enumerate(labels) if label.lower() in _BACKGROUND]


def _outline_px(found: Instances, size: Size) -> int:
    """A line that is seen in a small picture, unless it would cover small objects."""
    sides = np.sqrt([mask.area for mask in found.masks] or [0]) * (size.width / found.size.width)
    return 2 if np.median(sides) >= 16 else 1


def _objects(store: Store, pick: Pick) -> Instances:
    rows = read_rows(store, f"objects/{pick.chunk}.parquet")
    rows = rows.filter(pc.equal(rows["unit_id"], pa.scalar(pick.unit_id, pa.int64())))
    if rows.num_rows != pick.n_objects:
        raise OutputError(f"objects/ holds {rows.num_rows} objects, the ledger {pick.n_objects}; run `rayseg verify`")
    return to_instances(rows) if rows.num_rows else Instances.none(Size(pick.height, pick.width))


def _image(pick: Pick, options: Mapping[str, Any], allow_truncated: bool) -> np.ndarray:
    if pick.width * pick.height > _MOST_PIXELS:
        raise ImageError(f"{pick.width} × {pick.height} pixels are too many to draw here")
    fs = filesystem(pick.uri, options)
    path = to_path(fs, pick.uri)
    try:
        data = with_retries(lambda: fs.cat_file(path), attempts=_ATTEMPTS, what=pick.uri)
    except FileNotFoundError as error:
        raise SourceError("the image is no longer there") from error
    image = decode(data, page=pick.page, max_pixels=_MOST_PIXELS, allow_truncated=allow_truncated)
    if image.shape[:2] != (pick.height, pick.width):
        height, width = image.shape[:2]
        raise ImageError(f"the image is now {width} × {height} pixels: it was replaced after the job")
    return image


def _class_counts(found: Instances | None) -> tuple[tuple[int, int], ...]:
    if found is None or not len(found):
        return ()
    ids, index, counts = np.unique(found.class_ids, return_inverse=True, return_counts=True)
    areas = np.bincount(index, weights=[mask.area for mask in found.masks])
    order = np.lexsort((-areas, -counts))
    return tuple((int(ids[i]), int(counts[i])) for i in order)


def jpeg_within(picture: np.ndarray, most_bytes: int) -> tuple[bytes, Size]:
    """An RGB picture as the best JPEG of at most `most_bytes`: first quality goes down, then size."""
    while True:
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        for quality in _QUALITIES:
            data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(data) <= most_bytes or max(picture.shape) <= 64:
                return data, Size(*picture.shape[:2])
        smaller = draw.fit(Size(*picture.shape[:2]), int(max(picture.shape) * 0.75))
        picture = cv2.resize(picture, smaller.wh, interpolation=cv2.INTER_AREA)
