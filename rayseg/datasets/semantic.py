"""Semantic data sets in PaddleSeg's layout -> `SemanticSample`s.

A list (train.txt, val.txt) names one image and its index mask a line, relative to the folder of the list. PaddleX splits
a line at its only space; here a name may hold spaces: a tab between the two always works, and without one the line is cut
after the suffix of an image. The masks' format is index_mask.py's; check_semantic.py lists all that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rayseg.datasets.files import Reader, join, read_lines, read_local
from rayseg.datasets.index_mask import read_index_mask
from rayseg.datasets.sample import IGNORE, SemanticSample
from rayseg.errors import DatasetError, ImageError
from rayseg.images import decode

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Of images and masks, in lower case."""


@dataclass(frozen=True)
class Pair:
    """One line of a list.

    Attributes:
        image: path or URL.
        mask: path or URL.
        line: number of the line, from 1.
    """

    image: str
    mask: str
    line: int


class SemanticPairs:
    """A list of images and masks. Length, index and iteration are over lines.

    Attributes:
        entries: what the lines name.
        num_classes: class ids are below it; None takes whatever is in the masks.
    """

    def __init__(
        self, list_file: Path | str, root: Path | str, *, num_classes: int | None = None, read: Reader = read_local
    ) -> None:
        """Read a list; images and masks are read one by one later.

        Args:
            list_file: path or URL of the list.
            root: folder or URL that its names are relative to.
            num_classes: how many classes there are; another id in a mask, but for 255, is an error.
            read: reads files.

        Raises:
            DatasetError: the list is missing, empty, or has a line that does not name an image and a mask.
        """
        lines = read_lines(list_file, read)
        if not lines:
            raise DatasetError(f"{list_file}: names no image; each line is an image, a space or tab, and its mask")
        self.entries = tuple(parse_line(text, number, str(list_file), str(root)) for number, text in lines)
        self.num_classes = num_classes
        self._read = read

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[SemanticSample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> SemanticSample:
        """Decode one image and its mask; see `load_pair`."""
        return load_pair(self.entries[index], num_classes=self.num_classes, read=self._read)


def load_pair(pair: Pair, *, num_classes: int | None = None, read: Reader = read_local) -> SemanticSample:
    """Decode one image and its mask.

    Raises:
        DatasetError: one of the two is missing or unreadable, their sizes differ, or the mask holds an id that is no class.
    """
    try:
        image = decode(_bytes(pair.image, pair, read))
    except ImageError as error:
        raise DatasetError(f"{pair.image}: cannot be decoded: {error}") from error
    try:
        labels = read_index_mask(_bytes(pair.mask, pair, read))
    except ImageError as error:
        raise DatasetError(f"{pair.mask}: no usable mask: {error}") from error
    if labels.shape != image.shape[:2]:
        raise DatasetError(
            f"{pair.mask}: has [height, width] {list(labels.shape)}, its image {pair.image} {list(image.shape[:2])}; "
            "was the image resized or rotated after it was annotated?"
        )
    beyond = outside_classes(labels, num_classes)
    if beyond:
        raise DatasetError(
            f"{pair.mask}: holds the ids {beyond[:8]}; there are {num_classes or IGNORE} classes, and {IGNORE} is ignored"
        )
    return SemanticSample(image, labels.astype(np.uint8, copy=False), pair.image.rpartition("/")[2])


def outside_classes(labels: np.ndarray, num_classes: int | None) -> list[int]:
    """Ids in a mask that are neither classes nor 255, ascending."""
    limit = IGNORE if num_classes is None else num_classes
    found = np.flatnonzero(np.bincount(labels.ravel()))
    return [int(value) for value in found if value >= limit and value != IGNORE]


def parse_line(text: str, number: int, list_file: str, root: str) -> Pair:
    """Cut one line into its image and its mask.

    Raises:
        DatasetError: it cannot be cut, or can be in several ways.
    """
    if "\t" in text:
        cuts = [tuple(part.strip() for part in text.split("\t"))]
    else:
        places = [i for i, letter in enumerate(text) if letter == " "]
        cuts = [(text[:i].strip(), text[i:].strip()) for i in places if _is_image(text[:i]) and text[i + 1 : i + 2] != " "]
        cuts = [cut for cut in cuts if _is_image(cut[1])]
    good = [cut for cut in cuts if len(cut) == 2 and all(cut)]
    if len(good) == 1:
        return Pair(join(root, good[0][0]), join(root, good[0][1]), number)
    why = "can be cut in several ways" if good else "does not name an image and a mask"
    raise DatasetError(
        f"{list_file}: line {number} {why}: {text[:120]!r}; write image, tab, mask, both ending in {', '.join(SUFFIXES[:3])} ..."
    )


def format_line(image: str, mask: str) -> str:
    """One line that `parse_line` reads back: a space in between as PaddleX wants it, a tab where a name holds spaces."""
    return f"{image}\t{mask}" if " " in image + mask else f"{image} {mask}"


def _is_image(name: str) -> bool:
    return name.rstrip().lower().endswith(SUFFIXES)


def _bytes(path: str, pair: Pair, read: Reader) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:
        raise DatasetError(f"{path}: named in line {pair.line} of the list, but not there") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
