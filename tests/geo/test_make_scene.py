"""bench/make_scene.py: the drawn scene is what its table says, however it was written."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.crs import CRS

from rayseg.errors import ConfigError
from rayseg.geometry import Size

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def make_scene():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module("make_scene")
        for name in ("make_scene", "_scene"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def drawing(make_scene):
    return importlib.import_module("_scene")


@pytest.fixture(scope="module")
def scene(make_scene):
    return make_scene.Scene(Size(700, 900), objects_per_mpx=150, rivers=3, frame_px=40, seed=5)


def written(make_scene, scene, folder, *, window_px, cog=False):
    """Pixels (3, H, W), table and profile of a scene."""
    path, truth = folder / "scene.tif", folder / "scene.parquet"
    make_scene.write(scene, path, truth, crs=CRS.from_epsg(32633), pixel_m=0.5, compress="deflate", cog=cog, window_px=window_px)
    assert sorted(p.name for p in folder.iterdir()) == ["scene.parquet", "scene.tif"]
    with rasterio.open(path) as file:
        return file.read(), pq.read_table(truth).to_pylist(), file.profile | {"overviews": file.overviews(1)}


def counted(pixels):
    """The table, told from the pixels."""
    found = []
    for colour in np.unique(pixels.reshape(3, -1), axis=1).T:
        y, x = np.nonzero((pixels == colour[:, None, None]).all(axis=0))
        if colour.any():
            r, g, b = (colour // 257).tolist()
            window = {"x0": int(x.min()), "y0": int(y.min()), "x1": int(x.max()) + 1, "y1": int(y.max()) + 1}
            found.append({"r": r, "g": g, "b": b, **window, "area_px": len(x)})
    return found


def by_colour(rows):
    return sorted(rows, key=lambda row: (row["r"], row["g"], row["b"]))


def test_the_picture_holds_what_the_table_says_whatever_the_writing_window(make_scene, scene, tmp_path):
    pictures = []
    for window_px in (1024, 512, 131):
        folder = tmp_path / str(window_px)
        folder.mkdir()
        pixels, table, _ = written(make_scene, scene, folder, window_px=window_px)
        assert by_colour(table) == by_colour(counted(pixels))
        pictures.append(pixels)
    assert len(table) > 60 and all(np.array_equal(pictures[0], other) for other in pictures[1:])


def test_values_are_multiples_of_257_no_band_of_an_object_is_0_and_the_frame_is_empty(make_scene, scene, tmp_path):
    pixels, _, profile = written(make_scene, scene, tmp_path, window_px=512)
    drawn = pixels.any(axis=0)
    assert (pixels % 257 == 0).all() and (pixels[:, drawn] > 0).all()
    assert not drawn[:40].any() and not drawn[:, -40:].any() and drawn[40:-40, 40:-40].any()
    assert profile["nodata"] == 0 and profile["dtype"] == "uint16" and profile["crs"].to_epsg() == 32633


def test_rivers_cross_the_whole_scene_and_some_blobs_touch(make_scene, scene, tmp_path):
    pixels, table, _ = written(make_scene, scene, tmp_path, window_px=512)
    assert sum(row["x1"] - row["x0"] == 820 for row in table) == 2
    assert sum(row["y1"] - row["y0"] == 620 for row in table) == 1
    left, right = pixels[:, :, :-1], pixels[:, :, 1:]
    assert (left.any(axis=0) & right.any(axis=0) & (left != right).any(axis=0)).sum() > 50


def test_a_cog_has_the_same_pixels_and_overviews_without_mixed_colours(make_scene, scene, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "cog").mkdir()
    plain, _, _ = written(make_scene, scene, tmp_path / "plain", window_px=512)
    pixels, _, profile = written(make_scene, scene, tmp_path / "cog", window_px=512, cog=True)
    assert np.array_equal(plain, pixels) and profile["overviews"] and profile["blockxsize"] == 512
    with rasterio.open(tmp_path / "cog" / "scene.tif", overview_level=0) as file:
        small = np.unique(file.read().reshape(3, -1), axis=1).T.tolist()
    assert {tuple(c) for c in small} <= {tuple(c) for c in np.unique(pixels.reshape(3, -1), axis=1).T.tolist()}


def test_no_two_objects_have_one_colour(drawing):
    taken = np.zeros(256**3, dtype=bool)
    for start in range(1, drawing.N_COLOURS, 1 << 20):
        numbers = np.arange(start, min(start + (1 << 20), drawing.N_COLOURS))
        r, g, b = drawing.colours(numbers).astype(np.int64).T
        assert min(r.min(), g.min(), b.min()) > 0
        taken[(r << 16) + (g << 8) + b] = True
    assert taken.sum() == drawing.N_COLOURS - 1


def test_another_seed_gives_another_picture_and_the_same_seed_the_same(drawing, scene):
    window = drawing.Window(100, 100, 500, 400)
    again = drawing.Scene(Size(700, 900), objects_per_mpx=150, rivers=3, frame_px=40, seed=5)
    other = drawing.Scene(Size(700, 900), objects_per_mpx=150, rivers=3, frame_px=40, seed=6)
    drawing._blobs.cache_clear()
    first = drawing.draw(scene, window)[0]
    drawing._blobs.cache_clear()
    assert np.array_equal(first, drawing.draw(again, window)[0])
    assert not np.array_equal(first, drawing.draw(other, window)[0])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"frame_px": 350}, "frame of 350 px leaves nothing"),
        ({"objects_per_mpx": 0}, "objects_per_mpx is 0"),
        ({"rivers": -1}, "rivers is -1"),
    ],
)
def test_a_scene_that_cannot_be_is_refused(make_scene, options, words):
    with pytest.raises(ConfigError, match=words):
        make_scene.Scene(Size(700, 900), **options)


@pytest.mark.parametrize("crs, words", [("EPSG:4326", "counts in degrees"), ("EPSG:0", "no coordinate system")])
def test_a_crs_without_metres_is_refused(make_scene, crs, words):
    with pytest.raises(ConfigError, match=words):
        make_scene._crs(crs)
