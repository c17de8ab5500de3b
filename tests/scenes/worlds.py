"""Worlds for jobs of scenes: rasters in which every object has a colour of its own, and what a perfect job finds in them.

A world is int (H, W): 0 is nothing, 0xRRGGBB an object. The model ORACLE finds the colours of each tile, so that what a job
finds is due to reading, cutting and stitching alone. Objects are compared as (class, score, window, mask).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import numpy as np
import pandas as pd
from rasterio import Affine

from rayseg import rle
from rayseg.config.scenes import SceneSettings
from rayseg.geometry import Size, Window
from rayseg.pipeline.job import JobResult
from tests.geo import rasters
from tests.pipeline import jobs
from tests.tiling.oracle import linked_by_tiles, tight_mask

ORACLE = "fake:instance?pattern=colours"
UTM33 = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000.0, 0, -0.5, 5_000_000.0)}
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
TIMINGS = [*jobs.TIMINGS, "stitch_s"]

Object = tuple[int, float, tuple[int, int, int, int], bytes]


def painted(ids: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """A colour for each id above 0, no two alike."""
    rng = np.random.default_rng(seed)
    colours = rng.choice(2**24 - 1, int(ids.max()) + 1, replace=False) + 1
    return np.where(ids > 0, colours[ids], 0)


def cells(height: int, width: int, *, n: int = 40, seed: int = 0) -> np.ndarray:
    """Objects that touch on all sides, with a fifth of the places left empty."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    seeds = rng.uniform(0, 1, (n, 2)) * [height, width]
    near = ((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2).argmin(axis=-1)
    return painted(np.where(rng.random(n)[near] < 0.8, near + 1, 0), seed=seed)


def rivers(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Rivers that wind through the whole scene over dots that they cut, and one along all of its edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ids = np.zeros((height, width), dtype=int)
    for k in range(1, 31):
        cy, cx, r = rng.integers(0, height), rng.integers(0, width), rng.integers(2, 14)
        ids[((y - cy) ** 2 + (x - cx) ** 2 < r * r) & (ids == 0)] = k
    ids[np.abs(y - height / 2 - height / 3 * np.sin(x / 23)) < 2] = 31
    ids[np.abs(x - width / 2 - width / 3 * np.sin(y / 17)) < 2] = 32
    ids[(y < 1) | (y >= height - 1) | (x < 1) | (x >= width - 1)] = 33
    return painted(ids, seed=seed)


def rings(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Rings around rings, far wider than tiles, with gaps between some and none between others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)).astype(int) // 3
    return painted(np.where(distance % 4 < 3, distance // 2 + 1, 0), seed=seed)


def rgb(world: np.ndarray, dtype: str = "uint8") -> np.ndarray:
    """(3, H, W), as it is written."""
    return np.stack([world >> 16, (world >> 8) & 255, world & 255]).astype(dtype)


def write(path: Path, world: np.ndarray, **profile: Any) -> Path:
    """Write a world: a GeoTIFF in tiles with a place in UTM 33, unless the profile says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    defaults = {**UTM33, **TILED} if path.suffix == ".tif" else {}
    rasters.write(path, rgb(world), **{**defaults, **profile})
    return path


def run(source: Path | str, out: Path | str, *, scenes: dict[str, Any] | None = None, **settings: Any) -> JobResult:
    """A quiet job of scenes in the Ray session that is up."""
    return jobs.run(source, out, **{"model": ORACLE, "scenes": SceneSettings(**(scenes or {})), **settings})


def truth(world: np.ndarray, windows: Iterable[Window], *, valid: np.ndarray | None = None) -> list[Object]:
    """The objects that tiles can tell of: what of an object they see, and of that, what a chain of tiles that share pixels joins.

    Args:
        windows: of the tiles that looked.
        valid: bool (H, W), where there is data; None for everywhere.
    """
    tiles = [SimpleNamespace(window=w) for w in windows]
    seen = world if valid is None else np.where(valid, world, 0)
    out = []
    for colour in np.unique(seen[seen > 0]).tolist():
        mask = seen == colour
        near = [tile for tile in tiles if mask[tile.window.slices].any()]
        for part in linked_by_tiles(mask, near):
            window, tight = tight_mask(part)
            red, green = colour >> 16, (colour >> 8) & 255
            out.append((red % 3, 0.5 + (green + 1) / 512, (window.x0, window.y0, window.x1, window.y1), rle.encode(tight).counts))
    return sorted(out)


def objects(out: Path | str) -> pd.DataFrame:
    """The objects of all scenes, in no order that counts. Pandas alone: reads what has no geometry, too."""
    return pd.read_parquet(f"{out}/objects")


def found(out: Path | str) -> dict[str, list[Object]]:
    """What a job found in each scene, by the name of its file; comparable with `truth`. Checks what rows say twice."""
    table, result = objects(out), {}
    for uri, rows in table.groupby("uri"):
        assert sorted(rows["object_id"]) == list(range(len(rows)))
        result[Path(uri).name] = sorted(_object(row) for row in rows.to_dict("records"))
    return result


def mask_of(row: dict[str, Any]) -> np.ndarray:
    """bool (H, W): the mask of a row in its own window."""
    return rle.decode(rle.Rle(Size(row["rle_h"], row["rle_w"]), row["rle_counts"].encode("ascii")))


def ledger(out: Path | str) -> dict[str, dict[str, Any]]:
    """The rows of the scenes, or tiles, by the name of the file; for tiles, the last row of each."""
    return {Path(row["uri"]).name: row for row in pd.read_parquet(f"{out}/images").to_dict("records")}


def tile_rows(out: Path | str) -> pd.DataFrame:
    """The plan of tiles with what became of each: uri, window as Window, status, stage, reason."""
    plan = pd.read_parquet(f"{out}/tiles/plan")[["unit_id", "uri", "window"]]
    rows = plan.merge(pd.read_parquet(f"{out}/tiles/images").drop(columns="uri"), on="unit_id", how="left", validate="1:1")
    rows["window"] = [Window(*(int(w[name]) for name in ("x0", "y0", "x1", "y1"))) for w in rows["window"]]
    rows["name"] = [Path(uri).name for uri in rows["uri"]]
    return rows


def windows(out: Path | str, name: str, *, status: Sequence[str] = ("ok",)) -> list[Window]:
    """Windows of the tiles of a scene that ended so."""
    rows = tile_rows(out)
    return rows[(rows["name"] == name) & rows["status"].isin(status)]["window"].tolist()


def covered(size: tuple[int, int], windows: Iterable[Window]) -> np.ndarray:
    """int (H, W): how many windows hold each pixel."""
    counts = np.zeros(size, dtype=int)
    for window in windows:
        counts[window.slices] += 1
    return counts


def geo_files(folder: Path | str) -> pd.DataFrame:
    """All files of a folder as GeoPandas reads them, one after another; their reference systems must agree."""
    files = [geopandas.read_parquet(path) for path in sorted(Path(folder).glob("*.parquet"))]
    return pd.concat([file for file in files if len(file)], ignore_index=True)


def tables(out: Path | str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Scenes and tiles without timings, and objects, in an order that does not depend on files."""
    scenes, tiles = (pd.read_parquet(f"{out}/{folder}images") for folder in ("", "tiles/"))
    return (
        scenes.drop(columns=TIMINGS).sort_values("unit_id", ignore_index=True),
        tiles.drop(columns=jobs.TIMINGS).sort_values("unit_id", ignore_index=True),
        objects(out).sort_values(["unit_id", "object_id"], ignore_index=True),
    )


def assert_same_tables(out: Path | str, other: Path | str) -> None:
    """Row for row the same results."""
    for a, b in zip(tables(out), tables(other), strict=True):
        pd.testing.assert_frame_equal(a, b)


def _object(row: dict[str, Any]) -> Object:
    window = tuple(int(row["window"][name]) for name in ("x0", "y0", "x1", "y1"))
    assert window == tuple(int(row[name]) for name in ("x0", "y0", "x1", "y1"))
    assert (row["rle_h"], row["rle_w"]) == (window[3] - window[1], window[2] - window[0])
    assert row["area_px"] == mask_of(row).sum()
    assert row["label"] == ("red", "green", "blue")[row["class_id"]]
    return row["class_id"], row["score"], window, row["rle_counts"].encode("ascii")
