"""Reading by windows against the whole raster read at once by rasterio."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.errors import CorruptImage, ImageTooLarge, SourceError, UnsupportedImage
from rayseg.geo.bands import Bands, choose_bands
from rayseg.geo.raster import has_valid, open_scene, pad, read_values, read_window
from rayseg.geo.scaling import Scaling
from rayseg.geometry import Size, Window

from .rasters import UTM, noise, windows_in, write

SIZE = Size(45, 61)
PLAIN = Scaling((0.0,) * 3, (255.0,) * 3)
RGB = Bands((1, 2, 3))
KINDS = ("plain", "nodata", "alpha", "sidecar", "internal", "float", "palette", "striped", "many blocks")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, str]:
    """One raster of each kind, with holes that reach from a corner into the middle, and spots."""
    folder, rng = tmp_path_factory.mktemp("kinds"), np.random.default_rng(5)
    rows, columns = np.mgrid[: SIZE.height, : SIZE.width]
    hole = (rows + columns < 50) | (rng.random(SIZE.hw) < 0.05)
    colours = np.maximum(noise((3, *SIZE.hw)), 1)
    holed = np.where(hole, 0, colours).astype(np.uint8)
    opacity = np.where(hole, 0, rng.integers(1, 256, SIZE.hw)).astype(np.uint8)[None]
    floats = np.where(rng.random((3, *SIZE.hw)) < 0.1, np.inf, noise((3, *SIZE.hw), "float32"))
    floats = np.where(hole, np.where(rng.random(SIZE.hw) < 0.5, np.nan, -9999), floats).astype(np.float32)
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    return {
        "plain": write(folder / "plain.tif", colours, photometric="rgb"),
        "nodata": write(folder / "nodata.tif", holed, nodata=0),
        "alpha": write(folder / "alpha.tif", np.concatenate([colours, opacity]), photometric="rgb", alpha="yes", **blocks),
        "sidecar": write(folder / "sidecar.tif", colours, mask=~hole),
        "internal": write(folder / "internal.tif", colours, mask=~hole, internal_mask=True),
        "float": write(folder / "float.tif", floats, nodata=-9999),
        "palette": write(
            folder / "palette.tif", holed[:1] % 7, palette={i: (i * 30, 255 - i, 7, 255 * (i > 0)) for i in range(7)}
        ),
        "striped": write(folder / "striped.tif", holed, nodata=0, blockysize=5, compress="deflate"),
        "many blocks": write(folder / "blocks.tif", holed, nodata=0, interleave="band", compress="lzw", **blocks),
    }


def whole(path: str, bands: Bands) -> tuple[np.ndarray, np.ndarray]:
    """Values and mask of everything at once, by rasterio's own mask but for what it does not know: NaN and palettes."""
    with warnings.catch_warnings(action="ignore"), rasterio.open(path) as file:
        values, valid = file.read(list(bands.numbers)), file.dataset_mask() != 0
        table = file.colormap(1) if bands.palette else None
    if table:
        valid = np.array([[table[v][3] > 0 for v in row] for row in values[0]])
        return np.array([[table[v][:3] for v in row] for row in values[0]], dtype=np.uint8).transpose(2, 0, 1), valid
    if values.dtype.kind == "f":
        valid = (np.isfinite(values) & (values != -9999)).any(axis=0)
    return values, valid


@settings(max_examples=150)
@given(kind=st.sampled_from(KINDS), window=windows_in(SIZE))
def test_a_window_is_what_cutting_it_from_the_whole_raster_gives(kinds, kind, window):
    scene = open_scene(kinds[kind])
    bands = choose_bands(scene)
    values, valid = read_values(scene, window, bands)
    all_values, all_valid = whole(kinds[kind], bands)
    np.testing.assert_array_equal(values, all_values[:, *window.slices])
    np.testing.assert_array_equal(valid, all_valid[window.slices])
    assert has_valid(scene, window, bands) == valid.any()


@settings(max_examples=60)
@given(kind=st.sampled_from(KINDS), window=windows_in(SIZE), more=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_pixels_without_data_are_black_and_the_others_are_scaled_by_the_formula(kinds, kind, window, more):
    scene, scaling = open_scene(kinds[kind]), Scaling((10.0, 0.0, 5.0), (200.0, 100.0, 77.0))
    bands = choose_bands(scene)
    values, valid = read_values(scene, window, bands)
    size = Size(window.height + more[0], window.width + more[1])
    rgb, here = read_window(scene, window, bands=bands, scaling=scaling, pad_to=size)
    assert rgb.dtype == np.uint8 and rgb.shape == (*size.hw, 3) and here.shape == size.hw
    low, high = np.array(scaling.low)[:, None, None], np.array(scaling.high)[:, None, None]
    with np.errstate(invalid="ignore"):
        exact = np.clip(255 * (values.astype(float) - low) / (high - low), 0, 255)
    wanted = np.where(valid, np.nan_to_num(exact), 0).transpose(1, 2, 0)
    inside = Window(0, 0, window.width, window.height).slices
    assert np.abs(rgb[inside] - wanted).max() <= 0.501
    np.testing.assert_array_equal(here[inside], valid)
    assert not rgb[window.height :].any() and not rgb[:, window.width :].any()
    assert here.sum() == valid.sum()


def test_a_scene_survives_pickling_and_says_what_the_file_holds(kinds):
    scene = open_scene(kinds["alpha"])
    assert pickle.loads(pickle.dumps(scene)) == scene
    assert scene.size == SIZE and scene.block == Size(16, 16) and scene.interleaved and scene.alpha == 4
    assert [band.colour for band in scene.bands] == ["red", "green", "blue", "alpha"]
    assert {band.dtype for band in scene.bands} == {"uint8"} and scene.version != ""
    assert scene.ground.in_pixels


def test_a_scene_opened_elsewhere_is_read_here(kinds):
    scene = pickle.loads(pickle.dumps(open_scene(kinds["plain"])))
    assert read_window(scene, Window(1, 2, 9, 8), bands=RGB, scaling=PLAIN)[1].all()


@pytest.mark.parametrize("name", ["a b.tif", "q?x#y%20.tif", "c:d.tif", "ünï.tif"])
def test_odd_names_are_opened(tmp_path, name):
    scene = open_scene(write(tmp_path / name, noise((3, 4, 5))))
    assert scene.size == Size(4, 5)
    assert open_scene((tmp_path / name).as_uri()).size == Size(4, 5)


@pytest.mark.parametrize("driver, suffix", [("PNG", "png"), ("JPEG", "jpg"), ("GTiff", "tif")])
def test_a_world_file_is_found_without_listing_the_folder(tmp_path, driver, suffix):
    path = write(tmp_path / f"x.{suffix}", noise((3, 16, 16)), driver=driver)
    (tmp_path / f"x.{suffix}").with_suffix({"png": ".pgw", "jpg": ".jgw", "tif": ".tfw"}[suffix]).write_text(
        "2\n0\n0\n-2\n11\n49\n"
    )
    assert open_scene(path).ground.affine == (2, 0, 10, 0, -2, 50)
    assert open_scene(path).ground.in_pixels, "no reference system"


def test_a_vrt_is_read_like_its_file(tmp_path, kinds):
    bands = "".join(
        f"""<VRTRasterBand dataType="Byte" band="{b}"><NoDataValue>0</NoDataValue><SimpleSource>
        <SourceFilename>{kinds["nodata"]}</SourceFilename><SourceBand>{b}</SourceBand></SimpleSource></VRTRasterBand>"""
        for b in (1, 2, 3)
    )
    xml = f"""<VRTDataset rasterXSize="{SIZE.width}" rasterYSize="{SIZE.height}">{bands}"""
    (tmp_path / "x.vrt").write_text(xml + "</VRTDataset>")
    window = Window(20, 20, 50, 40)
    found = read_values(open_scene(str(tmp_path / "x.vrt")), window, RGB)
    for a, b in zip(found, read_values(open_scene(kinds["nodata"]), window, RGB), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_mask_beside_the_file_wins_over_nodata_as_in_gdal(tmp_path):
    values = np.zeros((1, 4, 5), np.uint8)
    scene = open_scene(write(tmp_path / "x.tif", values, nodata=0, mask=np.eye(4, 5, dtype=bool)))
    np.testing.assert_array_equal(read_values(scene, Window(0, 0, 5, 4), Bands((1,)))[1], np.eye(4, 5, dtype=bool))


def test_nodata_and_alpha_both_count(tmp_path):
    values = np.array([[[0, 1, 1, 0]], [[255, 255, 0, 0]]], np.uint8)
    with warnings.catch_warnings(action="ignore"):
        path = write(tmp_path / "x.tif", values, nodata=0, colours=["gray", "alpha"])
    assert read_values(open_scene(path), Window(0, 0, 4, 1), Bands((1,)))[1].tolist() == [[False, True, False, False]]


def test_a_pixel_is_valid_when_one_of_the_chosen_bands_holds_a_value(tmp_path):
    values = np.array([[[0, 0, 7]], [[0, 5, 0]], [[0, 0, 0]]], np.uint8)
    scene = open_scene(write(tmp_path / "x.tif", values, nodata=0))
    assert read_values(scene, Window(0, 0, 3, 1), RGB)[1].tolist() == [[False, True, True]]
    assert read_values(scene, Window(0, 0, 3, 1), Bands((1,)))[1].tolist() == [[False, False, True]]


@pytest.mark.parametrize("nodata, dtype", [(-9999, "float64"), (0.1, "float32"), (65535, "uint16"), (-1, "int16")])
def test_nodata_is_compared_as_the_type_stores_it(tmp_path, nodata, dtype):
    values = np.full((1, 2, 2), nodata).astype(dtype)
    values[0, 0, 0] = 3
    scene = open_scene(write(tmp_path / "x.tif", values, nodata=nodata))
    assert read_values(scene, Window(0, 0, 2, 2), Bands((1,)))[1].sum() == 1


def test_bits_that_are_not_used_are_noticed(tmp_path):
    scene = open_scene(write(tmp_path / "x.tif", np.full((1, 2, 2), 4095, np.uint16), nbits=12))
    assert scene.bands[0].bits == 12


def test_a_window_that_leaves_the_scene_is_refused(kinds):
    scene = open_scene(kinds["plain"])
    for window in (Window(-1, 0, 3, 3), Window(0, 0, SIZE.width + 1, 3), Window(2, 2, 2, 4)):
        with pytest.raises(ValueError, match="empty or leaves the scene"):
            read_values(scene, window, RGB)


def test_padding_refuses_what_is_larger_already():
    with pytest.raises(ValueError, match="a window of 4 x 3 does not fit into 9 x 2"):
        pad(np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), bool), Size(2, 9))


def test_a_file_that_is_not_there_or_no_raster_is_refused(tmp_path):
    with pytest.raises(SourceError, match="nothing.tif: cannot be read: No such file"):
        open_scene(str(tmp_path / "nothing.tif"))
    (tmp_path / "words.tif").write_text("words")
    with pytest.raises(UnsupportedImage, match="not a raster that GDAL reads"):
        open_scene(str(tmp_path / "words.tif"))
    with pytest.raises(SourceError, match="local paths and s3://, not from gs://"):
        open_scene("gs://bucket/x.tif")


def test_a_cut_file_fails_at_the_window_that_is_missing_and_not_before(tmp_path):
    path = Path(write(tmp_path / "x.tif", noise((3, 512, 512)), tiled=True, blockxsize=256, blockysize=256, compress="deflate"))
    path.write_bytes(path.read_bytes()[:-150_000])
    scene = open_scene(str(path))
    assert read_values(scene, Window(0, 0, 256, 256), RGB)[1].all()
    with pytest.raises(CorruptImage, match="x.tif: a block cannot be read"):
        read_values(scene, Window(256, 256, 512, 512), RGB)
    for _ in range(9):  # an error that lingers strikes one of the next reads, of any file
        with pytest.raises(CorruptImage, match="x.tif: a block cannot be read"):
            read_values(scene, Window(200, 256, 512, 512), RGB)
        assert read_values(scene, Window(0, 0, 256, 256), RGB)[1].all(), "the neighbours are still there"
        assert open_scene(write(tmp_path / "y.tif", noise((3, 8, 8)))).size == Size(8, 8)


def test_a_file_that_was_replaced_is_noticed(tmp_path):
    path = tmp_path / "x.tif"
    scene = open_scene(write(path, noise((3, 8, 8))))
    read_values(scene, Window(0, 0, 8, 8), RGB)
    path.unlink()
    write(path, noise((3, 9, 8)))
    with pytest.raises(CorruptImage, match="was replaced after the job was planned; now it holds 8 x 9 pixels"):
        read_values(scene, Window(0, 0, 8, 8), RGB)


def test_a_block_too_large_for_memory_is_refused_before_it_is_read(tmp_path):
    path = write(tmp_path / "x.tif", noise((3, 64, 64)), blockysize=64, compress="deflate")
    assert open_scene(path).block == Size(64, 64)
    with pytest.raises(ImageTooLarge, match="blocks of 64 x 64.*Rewrite it in tiles"):
        open_scene(path, max_block_bytes=64 * 64 * 3 - 1)
    assert open_scene(path, max_block_bytes=64 * 64 * 3).size == Size(64, 64)


def test_uncompressed_in_one_block_is_read_row_by_row(tmp_path):
    path = write(tmp_path / "x.tif", noise((3, 640, 640)), blockysize=640)
    assert open_scene(path, max_block_bytes=1 << 20).block.height < 640


def test_rational_polynomials_are_refused_with_the_remedy(shared_dir):
    with pytest.raises(UnsupportedImage, match="gdalwarp -rpc"):
        open_scene(str(shared_dir / "data/geotiff_fixtures/rasterio/RGB.byte.rpc.vrt"))


def test_the_fixtures_agree_with_rasterio_about_what_is_valid(shared_dir):
    compared = 0
    for path in sorted((shared_dir / "data/geotiff_fixtures").glob("*/*.tif")):
        scene = open_scene(str(path))
        if path.name in ("all-nodata.tif", "corrupt.tif", "float_nan.tif"):  # four bands; a broken block; NaN is ours
            continue
        bands = choose_bands(scene)
        values, valid = read_values(scene, Window.of(scene.size), bands)
        with warnings.catch_warnings(action="ignore"), rasterio.open(path) as file:
            np.testing.assert_array_equal(valid, file.dataset_mask() != 0, err_msg=path.name)
            np.testing.assert_array_equal(values, file.read(list(bands.numbers)), err_msg=path.name)
        compared += 1
    assert compared >= 20


def test_damage_in_one_block_of_a_real_file_leaves_the_others(shared_dir):
    scene = open_scene(str(shared_dir / "data/geotiff_fixtures/rasterio/corrupt.tif"))
    assert read_values(scene, Window(0, 0, 512, 512), RGB)[0].any()
    with pytest.raises(CorruptImage, match="corrupt.tif: a block cannot be read"):
        read_values(scene, Window(500, 500, 600, 600), RGB)


def test_a_raster_of_nodata_alone_has_no_valid_window(shared_dir):
    scene = open_scene(str(shared_dir / "data/geotiff_fixtures/rasterio/all-nodata.tif"))
    assert choose_bands(scene) == Bands((3, 2, 1)), "blue, green, red by name"
    assert not has_valid(scene, Window.of(scene.size), choose_bands(scene))


def test_a_scene_placed_on_the_ground_keeps_its_reference_system(tmp_path):
    scene = open_scene(write(tmp_path / "x.tif", noise((3, 8, 8)), crs="EPSG:32633", transform=UTM))
    assert "33N" in str(scene.ground.crs_wkt) and not scene.ground.in_pixels
    assert scene.ground.to_ground(np.array([0.5, 0.5])).tolist() == [399_960.25, 5_000_039.75]
