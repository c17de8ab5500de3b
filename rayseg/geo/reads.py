"""What reading by windows costs in a file that is not cut into tiles, and an order of reading that pays once.

A striped file decodes whole rows for every window, and a JPEG or PNG whole rows from the top. `reading_cost` says how much;
`plan_reads` puts tiles of one row together, so that each strip is decoded once for all of them; `read_tiles` reads such a
group. For files in tiles each tile is a read of its own, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayseg.geo.bands import Bands
from rayseg.geo.raster import pad, read_window
from rayseg.geo.scaling import Scaling
from rayseg.geo.scene import Scene
from rayseg.geometry import Size, Window

GROUP_BYTES = 256 << 20
"""Memory one group of tiles may take, unless it holds a single tile."""

_FROM_THE_TOP = ("JPEG", "PNG", "GIF")  # one stream without places to start in


@dataclass(frozen=True)
class ReadingCost:
    """What decoding takes, on average over a scene cut into tiles; bytes as they are in memory, not compressed.

    Attributes:
        layout: "tiles", "strips" (blocks as wide as the scene) or "stream" (every read starts at the top).
        block: size of a block.
        needed_bytes: of one tile's own pixels, in the chosen bands.
        tile_bytes: decoded for one tile that is read on its own.
        grouped_bytes: decoded for one tile when read as `plan_reads` groups them; a stream read from top to bottom by one
            process.
        group_memory_bytes: held at once by the largest group.
    """

    layout: str
    block: Size
    needed_bytes: int
    tile_bytes: int
    grouped_bytes: int
    group_memory_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.layout} of {self.block.width} x {self.block.height}: a tile of {self.needed_bytes / 1e6:.1f} MB takes "
            f"{self.tile_bytes / 1e6:.1f} MB of decoding on its own, {self.grouped_bytes / 1e6:.1f} MB as grouped, "
            f"with {self.group_memory_bytes / 1e6:.0f} MB of memory"
        )


@dataclass(frozen=True)
class Read:
    """One read of a scene and the tiles it serves.

    Attributes:
        window: what is read.
        tiles: positions in the list of tiles that was planned.
    """

    window: Window
    tiles: tuple[int, ...]


def layout(scene: Scene) -> str:
    """How the file is cut: "tiles", "strips" or "stream"."""
    if scene.driver in _FROM_THE_TOP:
        return "stream"
    wide = scene.block.width == min(p.window.width for p in scene.parts) or scene.block.width == scene.size.width
    return "strips" if wide and scene.block.width > 2 * scene.block.height else "tiles"


def plan_reads(scene: Scene, tiles: Sequence[Window], bands: Bands, *, max_bytes: int = GROUP_BYTES) -> list[Read]:
    """Which tiles to read together, from top to bottom.

    Args:
        tiles: windows of the scene, in any order; they may overlap.
        bands: from `bands.choose_bands`.
        max_bytes: of memory for a group; a row of tiles that takes more is cut into several, which decode its strips again.

    Returns:
        Reads that hold every tile once. In a file of tiles, each read is one tile.
    """
    order = sorted(range(len(tiles)), key=lambda i: (tiles[i].y0, tiles[i].y1, tiles[i].x0, tiles[i].x1))
    if layout(scene) == "tiles":
        return [Read(tiles[i], (i,)) for i in order]
    out: list[Read] = []
    for i in order:
        tile = tiles[i]
        if out and (out[-1].window.y0, out[-1].window.y1) == (tile.y0, tile.y1):
            joined = Window(out[-1].window.x0, tile.y0, max(out[-1].window.x1, tile.x1), tile.y1)
            if _memory(scene, bands, joined) <= max_bytes:
                out[-1] = Read(joined, (*out[-1].tiles, i))
                continue
        out.append(Read(tile, (i,)))
    return out


def read_tiles(
    scene: Scene,
    read: Read,
    tiles: Sequence[Window],
    *,
    bands: Bands,
    scaling: Scaling,
    pad_to: Size | None = None,
    storage: Mapping[str, Any] | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The tiles of one read, each as `raster.read_window` gives it.

    Yields:
        (position in `tiles`, uint8 (H, W, 3), bool (H, W)); arrays of their own.

    Raises:
        CorruptImage, SourceError: as for `read_window`. One damaged block fails the group; read its tiles one by one then.
    """
    rgb, valid = read_window(scene, read.window, bands=bands, scaling=scaling, storage=storage)
    for i in read.tiles:
        place = tiles[i].shift(-read.window.x0, -read.window.y0).slices
        own = rgb[place].copy(), valid[place].copy()
        yield (i, *(own if pad_to is None else pad(*own, pad_to)))


def reading_cost(scene: Scene, tiles: Sequence[Window], bands: Bands, *, max_bytes: int = GROUP_BYTES) -> ReadingCost:
    """What reading a scene by some tiles takes; told from the description, without reading.

    Raises:
        ValueError: no tiles.
    """
    if not tiles:
        raise ValueError("the cost of reading no tile at all is not defined")
    reads = plan_reads(scene, tiles, bands, max_bytes=max_bytes)
    alone = sum(_decoded(scene, bands, tile) for tile in tiles)
    grouped = sum(_decoded(scene, bands, read.window, going_on=True) for read in reads)
    needed = sum(t.width * t.height for t in tiles) * _pixel_bytes(scene, bands, decoded=False)
    return ReadingCost(
        layout(scene),
        scene.block,
        needed // len(tiles),
        alone // len(tiles),
        grouped // len(tiles),
        max(_memory(scene, bands, read.window) for read in reads),
    )


def _decoded(scene: Scene, bands: Bands, window: Window, *, going_on: bool = False) -> int:
    """Bytes of the blocks that a window touches; of a stream, those above it too, unless this process goes on reading."""
    width, height = scene.block.width, scene.block.height
    top = 0 if layout(scene) == "stream" and not going_on else window.y0 // height
    blocks = (-(-window.y1 // height) - top) * (-(-window.x1 // width) - window.x0 // width)
    return blocks * width * height * _pixel_bytes(scene, bands, decoded=True)


def _pixel_bytes(scene: Scene, bands: Bands, *, decoded: bool) -> int:
    chosen = scene.bands if decoded and scene.interleaved else [scene.bands[n - 1] for n in bands.numbers]
    return sum(np.dtype(band.dtype).itemsize for band in chosen)


def _memory(scene: Scene, bands: Bands, window: Window) -> int:
    """Bytes held while a window is read: the stored values, the colours, and the mask twice."""
    return window.width * window.height * (_pixel_bytes(scene, bands, decoded=False) + 3 + 2)
