"""Files joined to one scene against the one file they were cut from."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.errors import ConfigError
from rayseg.geo.bands import Bands
from rayseg.geo.mosaic import join, open_mosaic
from rayseg.geo.raster import has_valid, open_scene, read_values, read_window
from rayseg.geo.scaling import Scaling
from rayseg.geometry import Size, Window

from .rasters import UTM, noise, windows_in, write

SIZE = Size(50, 70)
RGB = Bands((1, 2, 3))
ROTATED = UTM @ UTM.rotation(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mosaic")


def holed(size=SIZE, seed=0):
    values = np.maximum(noise((3, *size.hw), seed=seed), 1)
    return np.where(np.random.default_rng(seed).random(size.hw) < 0.2, 0, values).astype(np.uint8)


def cut(folder, values, windows, *, transform=UTM, name="part", **profile):
    """Write each window of a raster as a file of its own; returns their paths."""
    profile = {"nodata": 0, "crs": "EPSG:32633"} | profile
    return [
        write(folder / f"{name}{i}.tif", values[:, *w.slices], transform=transform @ transform.translation(w.x0, w.y0), **profile)
        for i, w in enumerate(windows)
    ]


@settings(max_examples=40)
@given(
    x=st.integers(1, 69),
    y=st.integers(1, 49),
    overlap=st.integers(0, 3),
    rotated=st.booleans(),
    order=st.permutations(range(4)),
    windows=st.lists(windows_in(SIZE), min_size=3, max_size=3),
)
def test_a_raster_cut_into_four_files_is_read_like_the_one_file(folder, x, y, overlap, rotated, order, windows):
    values, transform = holed(), ROTATED if rotated else UTM
    whole = open_scene(cut(folder, values, [Window.of(SIZE)], transform=transform, name="whole")[0])
    columns = (0, min(x + overlap, 70)), (x, 70)
    rows = (0, min(y + overlap, 50)), (y, 50)
    quarters = [Window(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]
    paths = cut(folder, values, quarters, transform=transform)
    scene = open_mosaic([paths[i] for i in order], name="all")
    assert scene.size == whole.size and scene.uri == "all"
    for window in windows:
        for a, b in zip(read_values(scene, window, RGB), read_values(whole, window, RGB), strict=True):
            np.testing.assert_array_equal(a, b)
        assert has_valid(scene, window, RGB) == has_valid(whole, window, RGB)
    corners = np.array([(0, 0), (70, 0), (0, 50), (70, 50)], dtype=float)
    assert np.abs(whole.ground.to_pixels(scene.ground.to_ground(corners)) - corners).max() < 1e-6
    assert pickle.loads(pickle.dumps(scene)) == scene


def test_where_files_overlap_the_first_name_with_a_valid_pixel_counts(tmp_path):
    a, b = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 9, np.uint8)
    a[0, 0, 1] = 5
    paths = [
        write(tmp_path / n, v, nodata=0, transform=UTM @ UTM.translation(x, 0)) for n, v, x in (("b.tif", b, 1), ("a.tif", a, 0))
    ]
    values, valid = read_values(open_mosaic(paths, name="m"), Window(0, 0, 4, 1), Bands((1,)))
    assert values.tolist() == [[[0, 5, 9, 9]]] and valid.tolist() == [[False, True, True, True]]


def test_what_no_file_covers_is_black_and_not_valid(tmp_path):
    values = np.full((3, 20, 20), 100, np.uint8)
    paths = cut(tmp_path, values, [Window(0, 0, 10, 10), Window(10, 10, 20, 20)], nodata=None)
    scene = open_mosaic(paths, name="m")
    rgb, valid = read_window(scene, Window(0, 0, 20, 20), bands=RGB, scaling=Scaling((0.0,) * 3, (255.0,) * 3))
    assert valid[:10, :10].all() and valid[10:, 10:].all() and valid.sum() == 200
    assert (rgb[valid] == 100).all() and not rgb[~valid].any()
    assert not has_valid(scene, Window(10, 0, 20, 10), RGB) and has_valid(scene, Window(9, 0, 20, 10), RGB)


def test_the_version_of_a_mosaic_changes_with_any_of_its_files(tmp_path):
    paths = cut(tmp_path, holed(), [Window(0, 0, 30, 50), Window(30, 0, 70, 50)])
    before = open_mosaic(paths, name="m").version
    assert open_mosaic(paths[::-1], name="m").version == before
    cut(tmp_path, holed(seed=1), [Window(0, 0, 30, 50)])
    assert open_mosaic(paths, name="m").version != before


def test_one_file_is_a_mosaic_of_itself(tmp_path):
    path = cut(tmp_path, holed(), [Window.of(SIZE)])[0]
    assert replace(open_mosaic([path], name="m"), uri=path) == open_scene(path)


LEFT = Window(0, 0, 30, 50)


@pytest.mark.parametrize(
    "shift, profile, reason",
    [
        ((30.3, 0), {}, "its grid is shifted by \\+0.300, \\+0.000 pixels"),
        ((30, 0), {"crs": "EPSG:32634"}, "its reference system is WGS 84 / UTM zone 34N, not WGS 84 / UTM zone 33N"),
        ((30, 0), {"crs": None}, "its reference system is unknown"),
        ((30, 0), {"dtype": "uint16"}, "its bands are .*uint16, not .*uint8"),
        ((31, 0), {}, "touches none of the others"),
        ((0, 0), {}, "covers exactly what .*a.tif covers"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(tmp_path, shift, profile, reason):
    values = holed(Size(50, 30))
    first = write(tmp_path / "a.tif", values, crs="EPSG:32633", transform=UTM)
    other = write(tmp_path / "b.tif", values, transform=UTM @ UTM.translation(*shift), **({"crs": "EPSG:32633"} | profile))
    with pytest.raises(ConfigError, match=f"1 of the rasters do not go with .*a.tif(.|\n)*b.tif: {reason}"):
        open_mosaic([first, other], name="m")


@pytest.mark.parametrize("change", [UTM.scale(1.01), UTM.rotation(1), UTM.scale(1, -1)])
def test_pixels_of_another_size_or_direction_are_refused(tmp_path, change):
    first = write(tmp_path / "a.tif", holed(), crs="EPSG:32633", transform=UTM)
    other = write(tmp_path / "b.tif", holed(), crs="EPSG:32633", transform=UTM @ change)
    with pytest.raises(ConfigError, match="its pixels differ in size or direction"):
        open_mosaic([first, other], name="m")


def test_a_file_without_transform_has_no_place_in_a_mosaic(tmp_path):
    paths = [write(tmp_path / name, holed()) for name in ("a.tif", "b.tif")]
    with pytest.raises(ConfigError, match="2 of the rasters(.|\n)*has no transform that says where it lies"):
        open_mosaic(paths, name="m")


def test_nothing_to_join_is_refused():
    with pytest.raises(ConfigError, match="no raster to join"):
        join([], name="m")


def test_the_four_real_files_are_the_one_they_were_cut_from(shared_dir):
    folder = shared_dir / "data/geotiff_fixtures/rasterio"
    scene = open_mosaic([str(folder / f"rgb{i}.tif") for i in (4, 2, 1, 3)], name="rgb")
    whole = open_scene(str(folder / "RGB.byte.tif"))
    assert scene.size == whole.size and len(scene.parts) == 4
    window = Window.of(whole.size)
    found, wanted = read_values(scene, window, RGB), read_values(whole, window, RGB)
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])
    with pytest.raises(ConfigError, match="its reference system is UTM Zone 18, Northern Hemisphere, not WGS 84"):
        open_mosaic([str(folder / "rgb1.tif"), str(folder / "RGBA.byte.tif")], name="x")
