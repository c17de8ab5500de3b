"""What may be chosen about scenes: files that are one scene, polygons, values of any type, a second look."""

from __future__ import annotations

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from rasterio import Affine

from rayseg.geometry import Window
from rayseg.pipeline.scenes.check import verify_scenes
from rayseg.pipeline.scenes.tiles import NO_DATA
from rayseg.pipeline.storage import Store
from tests.geo import rasters

from . import places, worlds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]
TILES = {"tile_px": places.TILE_PX, "overlap_px": places.OVERLAP_PX}


def whole(result, out) -> bool:
    """The job is complete and its files prove it."""
    return result.complete and result.findings.failed == 0 and verify_scenes(Store(str(out)), Store(str(out / "tiles"))).ok


def test_four_files_as_a_mosaic_are_the_one_file(undisturbed, tmp_path):
    world, source, out = places.WORLDS["utm.tif"], tmp_path / "quarters", tmp_path / "out"
    affine = worlds.UTM33["transform"]
    for y0, y1 in ((0, 141), (141, 330)):
        for x0, x1 in ((0, 95), (95, 402)):
            here = affine @ Affine.translation(x0, y0)
            worlds.write(source / f"{y0}-{x0}.tif", world[y0:y1, x0:x1], transform=here)
    assert whole(worlds.run(source, out, scenes={**TILES, "mosaic": True}), out)
    (row,) = worlds.ledger(out).values()
    assert (row["uri"], row["height"], row["width"], row["status"]) == (str(source), 330, 402, "ok")
    named = ["unit_id", "uri", "scene_id"]
    one = worlds.objects(undisturbed)
    one = one[one["uri"].str.endswith("utm.tif")].drop(columns=named).sort_values("object_id", ignore_index=True)
    four = worlds.objects(out).drop(columns=named).sort_values("object_id", ignore_index=True)
    pd.testing.assert_frame_equal(four, one)


def test_polygons_keep_the_true_objects_that_touch_them_as_far_as_tiles_saw(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    all_worlds = {"cells.tif": worlds.cells(350, 340, n=150, seed=21), "rivers.tif": worlds.rivers(260, 420, seed=22)}
    all_worlds["far.tif"] = worlds.cells(120, 130, seed=23)
    for name, world in all_worlds.items():
        away = {"transform": Affine(0.5, 0, 900_000.0, 0, -0.5, 4_000_000.0)} if name == "far.tif" else {}
        worlds.write(source / name, world, **away)
    shapes = [shapely.Point(500_050, 4_999_950).buffer(33), shapely.box(500_120, 4_999_900, 500_131, 4_999_911)]
    geopandas.GeoSeries(shapes, crs="EPSG:32633").to_file(tmp_path / "aoi.gpkg")
    assert whole(worlds.run(source, out, scenes={**TILES, "aoi": str(tmp_path / "aoi.gpkg")}), out)
    found, rows = worlds.found(out), worlds.ledger(out)
    inverse = ~worlds.UTM33["transform"]
    for name in ("cells.tif", "rivers.tif"):
        world, planned = all_worlds[name], worlds.windows(out, name)
        wanted = _inside(world.shape, shapes, inverse)
        every = _grid_windows(world.shape)
        assert {*planned} == {w for w in every if wanted[w.slices].any()}
        assert 0 < len(planned) < len(every)
        assert rows[name]["unasked_tiles"] == len(every) - len(planned)
        expected = [o for o in worlds.truth(world, planned) if _mask(o, world.shape)[wanted].any()]
        assert found[name] == expected, name
        assert 0 < len(expected) < len(worlds.truth(world, planned))
    assert "far.tif" not in found
    assert (rows["far.tif"]["status"], rows["far.tif"]["tiles"], rows["far.tif"]["n_objects"]) == ("ok", 0, 0)


def test_values_of_any_type_under_one_scaling_are_the_8_bit_original_and_no_data_holds_no_object(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    world = worlds.cells(310, 330, n=110, seed=31)
    valid = np.zeros(world.shape, dtype=bool)
    valid[130:290, 125:] = True  # the tiles of the first row and column see nothing else
    valid[200:205, 150:300] = False
    wide = worlds.rgb(world, "uint16") * 257
    profile = {**worlds.UTM33, **worlds.TILED}
    rasters.write(_made(source / "all.tif"), wide, **profile)
    rasters.write(source / "nodata.tif", np.where(valid, wide, 12345), nodata=12345, **profile)
    rasters.write(source / "nan.tif", np.where(valid, wide, np.nan).astype(np.float32), **profile)
    rasters.write(source / "mask.tif", wide, mask=np.where(valid, 255, 0).astype(np.uint8), internal_mask=True, **profile)
    opaque = np.where(valid, 65535, 0).astype(np.uint16)[None]
    colours = ["red", "green", "blue", "alpha"]
    rasters.write(source / "alpha.tif", np.concatenate([wide, opaque]), colours=colours, **profile)
    rasters.write(source / "nothing.tif", np.full_like(wide, 12345), nodata=12345, **profile)
    assert whole(worlds.run(source, out, scenes={**TILES, "scale": "0,65535"}), out)
    found, rows, tiles = worlds.found(out), worlds.ledger(out), worlds.tile_rows(out)
    assert found["all.tif"] == worlds.truth(world, worlds.windows(out, "all.tif"))
    expected = worlds.truth(world, worlds.windows(out, "all.tif"), valid=valid)
    assert expected != found["all.tif"]
    for name in ("nodata.tif", "nan.tif", "mask.tif", "alpha.tif"):
        assert found[name] == expected, name
        mine = tiles[tiles["name"] == name]
        blind = [not valid[w.slices].any() for w in mine["window"]]
        assert (mine["reason"] == NO_DATA).tolist() == blind
        assert (mine["status"] == "ok").all()
        assert rows[name]["empty_tiles"] == sum(blind) > 0
        assert rows[name]["status"] == "ok"
    assert "nothing.tif" not in found
    assert (rows["nothing.tif"]["status"], rows["nothing.tif"]["empty_tiles"]) == ("ok", rows["nothing.tif"]["tiles"])


def test_a_second_look_finds_large_objects_once_and_leaves_the_others_alone(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    # All in blocks of 3 x 3 pixels, so that the coarser look sees each colour as it is.
    fine = worlds.cells(190, 210, n=260, seed=41)
    y, x = np.mgrid[:190, :210]
    fine[y // 4 == 25] = 0x334455  # one river through all tiles
    dashes = (np.abs(x - 90) < 3) & (y % 36 < 4)
    fine[np.abs(x - 90) < 5] = 0
    fine[dashes] = 0x660077  # no fine tile sees two of its pieces
    world = np.kron(fine, np.ones((3, 3), dtype=int))
    worlds.write(source / "large.tif", world)
    worlds.write(source / "small.tif", world[:90, :60])
    assert whole(worlds.run(source, out, scenes={"tile_px": 96, "overlap_px": 30, "coarse": 3}), out)
    planned = worlds.windows(out, "large.tif")
    looks = {side: [w for w in planned if w.width == side] for side in (96, 288)}
    assert sum(map(len, looks.values())) == len(planned)
    assert all(worlds.covered(world.shape, windows).min() > 0 for windows in looks.values())
    (dashed,) = worlds.truth(np.where(world == 0x660077, world, 0), looks[288])
    pieces = worlds.truth(np.where(world == 0x660077, world, 0), looks[96])
    assert len(pieces) == 6
    assert worlds.found(out)["large.tif"] == sorted({*worlds.truth(world, looks[96])} - {*pieces} | {dashed})
    assert worlds.found(out)["small.tif"] == worlds.truth(world[:90, :60], [Window(0, 0, 60, 90)])
    assert worlds.ledger(out)["small.tif"]["tiles"] == 1


def _made(path):
    path.parent.mkdir(parents=True)
    return path


def _inside(size, shapes, ground_to_pixel) -> np.ndarray:
    """Pixels whose centre lies in a polygon."""
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    pixels = [shapely.transform(s, lambda xy: np.stack(ground_to_pixel @ tuple(xy.T), axis=1)) for s in shapes]
    return shapely.contains_xy(shapely.union_all(pixels), x, y)


def _grid_windows(size) -> list[Window]:
    """Tiles of the scene by the rule that is documented."""
    step, tile = places.TILE_PX - places.OVERLAP_PX, places.TILE_PX
    starts = [[*range(0, side - tile, step), side - tile] for side in size]
    return [Window(x, y, x + tile, y + tile) for y in starts[0] for x in starts[1]]


def _mask(found: worlds.Object, size) -> np.ndarray:
    """One object on the canvas of its scene."""
    x0, y0, x1, y1 = found[2]
    out = np.zeros(size, dtype=bool)
    out[y0:y1, x0:x1] = worlds.mask_of({"rle_h": y1 - y0, "rle_w": x1 - x0, "rle_counts": found[3].decode()})
    return out
