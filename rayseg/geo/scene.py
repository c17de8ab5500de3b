"""What is known of a scene before a pixel is read: values that are small, frozen, free of secrets, and travel to tasks.

`raster.py` fills them from one file, `mosaic.py` from several.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rayseg.geo.ground import Ground
from rayseg.geometry import Size, Window


@dataclass(frozen=True)
class Band:
    """One band, numbered from 1 by its place in `Scene.bands`.

    Attributes:
        dtype: numpy's name.
        bits: that are used; below the dtype's for 12-bit cameras and the like.
        colour: GDAL's colour interpretation: red, green, blue, alpha, gray, palette, undefined, ...
        name: description in the file; empty when there is none.
        nodata: value that stands for nothing; None when there is none, or when it is NaN, which is never valid anyway.
    """

    dtype: str
    bits: int
    colour: str
    name: str = ""
    nodata: float | None = None


@dataclass(frozen=True)
class Part:
    """One file and the window of the scene it fills.

    Attributes:
        uri: of the file.
        window: of the scene; as large as the file.
        version: of a local file, its time of change and size; empty elsewhere.
    """

    uri: str
    window: Window
    version: str = ""


@dataclass(frozen=True)
class Scene:
    """A raster of any size, or several that adjoin.

    Attributes:
        uri: of the file; of a mosaic, the name it was given.
        size: in pixels.
        bands: as stored.
        ground: where it lies.
        driver: GDAL's name of the format.
        block: size of what the file decodes at once; of the first file in a mosaic.
        interleaved: a block holds all bands, so that reading one band decodes them all.
        compression: GDAL's name; empty when the pixels are stored as they are.
        explicit_mask: a mask beside or inside the file says which pixels are valid.
        parts: the files, in order of precedence: where two overlap, the first with a valid pixel counts.
    """

    uri: str
    size: Size
    bands: tuple[Band, ...]
    ground: Ground
    driver: str
    block: Size
    interleaved: bool
    compression: str
    explicit_mask: bool
    parts: tuple[Part, ...]

    @property
    def alpha(self) -> int | None:
        """Number of the band that holds opacity, counted from 1."""
        return next((i for i, band in enumerate(self.bands, 1) if band.colour == "alpha"), None)

    @property
    def version(self) -> str:
        """Changes when a local file does; empty where no version is known. For the plan, as an etag is."""
        if len(self.parts) == 1:
            return self.parts[0].version
        words = "\n".join(f"{part.uri} {part.version}" for part in self.parts)
        return hashlib.sha256(words.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def parts_in(self, window: Window) -> list[Part]:
        """The files that a window touches, in order of precedence."""
        if len(self.parts) == 1:
            return list(self.parts)
        edges = self._edges
        hit = (edges[:, 0] < window.x1) & (edges[:, 2] > window.x0) & (edges[:, 1] < window.y1) & (edges[:, 3] > window.y0)
        return [self.parts[i] for i in np.flatnonzero(hit)]

    @cached_property
    def _edges(self) -> np.ndarray:
        return np.array([(p.window.x0, p.window.y0, p.window.x1, p.window.y1) for p in self.parts], dtype=np.int64)
