"""Settings of scenes: how rasters of any size are read, cut into tiles and put together again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rayseg.errors import ConfigError

SEAMS = ("auto", "blend", "centre")
DEFAULT_TILE_PX = 1024
_OVERLAP_SHARE = 5


@dataclass(frozen=True)
class SceneSettings:
    """What makes a job one of scenes.

    Attributes:
        tile_px: side of a tile; None takes the model's input where that has a fixed size, else 1024.
        overlap_px: what neighbouring tiles share, at least; None takes `object_px`, else a fifth of a tile.
        object_px: greatest extent of a usual object. One that is no longer than the overlap is whole in some tile.
        coarse: a second look at the scene, this many times coarser, for objects that are longer than a tile; None for none.
        bands: three bands for red, green and blue, or one, by number or name, such as "4,3,2"; None finds them.
        scale: stored values to 8 bits, the same for the whole job: "0,10000", "p2,p98" or "dtype"; None is "dtype" for 8-bit
            colours and "p2,p98" for all else.
        aoi: file of polygons; only what touches them is looked at.
        mosaic: all rasters of the source are parts of one scene.
        simplify_px: by how much outlines may move to have fewer corners; 0 keeps them exact.
        seams: label maps where tiles overlap: "blend" (mean of probabilities), "centre" (the tile in whose middle a pixel
            lies); "auto" blends where the model gives probabilities.
        regions: classes whose regions become polygons beside the label map: names with commas between, or "all"; None for none.
    """

    tile_px: int | None = None
    overlap_px: int | None = None
    object_px: int | None = None
    coarse: int | None = None
    bands: str | None = None
    scale: str | None = None
    aoi: str | None = None
    mosaic: bool = False
    simplify_px: float = 0.0
    seams: str = "auto"
    regions: str | None = None

    def __post_init__(self) -> None:
        for name in ("tile_px", "object_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.overlap_px is not None and self.overlap_px < 1:
            raise ConfigError(
                f"overlap_px is {self.overlap_px}: tiles that share no pixel cannot be put together. "
                "Give the size of a usual object"
            )
        if self.coarse is not None and self.coarse < 2:
            raise ConfigError(f"coarse must be at least 2 (times coarser), got {self.coarse}")
        if not 0 <= self.simplify_px < math.inf:
            raise ConfigError(f"simplify_px must be 0 or a positive number of pixels, got {self.simplify_px}")
        if self.seams not in SEAMS:
            raise ConfigError(f"seams {self.seams!r} is unknown; use {', '.join(SEAMS)}")
        if self.tile_px is not None:
            self.tiling(self.tile_px)

    def tiling(self, model_px: int | None) -> tuple[int, int]:
        """(tile_px, overlap_px) in force.

        Args:
            model_px: side of the model's input, if it is fixed.

        Raises:
            ConfigError: the overlap is not smaller than a tile.
        """
        tile = self.tile_px or model_px or DEFAULT_TILE_PX
        overlap = self.overlap_px or self.object_px or max(1, tile // _OVERLAP_SHARE)
        if overlap >= tile and tile > 1:
            name = "overlap_px" if self.overlap_px else "object_px"
            raise ConfigError(
                f"{name} {overlap} with tiles of {tile} px: neighbours must share less than a tile. Give a larger --tile-px"
            )
        return tile, min(overlap, max(0, tile - 1))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
