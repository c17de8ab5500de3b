"""Stored values to 8 bits, and how the one scaling of a job is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayseg.errors import ConfigError
from rayseg.geo.bands import Bands, choose_bands
from rayseg.geo.raster import open_scene
from rayseg.geo.sampling import VALUES_PER_WINDOW, WINDOW_PX, decide_scaling, sample_values, sample_windows
from rayseg.geo.scaling import Percentiles, Scaling, default_scale, dtype_scaling, parse_scale, percentile_scaling
from rayseg.geometry import Window

from .rasters import noise, write

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@st.composite
def scalings(draw):
    pairs = [sorted(draw(st.tuples(*[st.integers(-70_000, 70_000)] * 2).filter(lambda p: p[0] != p[1]))) for _ in range(3)]
    return Scaling(*(tuple(float(p[i]) for p in pairs) for i in (0, 1)))


def slow(values, low, high):
    """The formula, for one number after the other."""
    return [min(255.0, max(0.0, 255 * (float(v) - low) / (high - low))) for v in values.ravel()]


@given(st.data(), st.sampled_from(DTYPES), scalings(), st.sampled_from((1, 3)))
def test_every_type_is_scaled_by_the_formula(data, dtype, scaling, channels):
    kind = np.dtype(dtype)
    elements = st.floats(-1e5, 1e5, width=8 * kind.itemsize) if kind.kind == "f" else None
    values = data.draw(hnp.arrays(dtype, (channels, 3, 4), elements=elements))
    found = scaling.apply(values)
    assert found.dtype == np.uint8 and found.shape == (3, 4, 3) and found.flags.c_contiguous
    for i in range(3):
        source = i if channels == 3 else 0
        wanted = slow(values[source], scaling.low[source], scaling.high[source])
        assert np.abs(found[..., i].ravel() - wanted).max() <= 0.51


@given(hnp.arrays(np.uint8, (3, 5, 4)))
def test_eight_bits_by_their_own_range_stay_as_they_are(values):
    assert (Scaling((0.0,) * 3, (255.0,) * 3).apply(values) == values.transpose(1, 2, 0)).all()


@given(hnp.arrays(np.int16, 50), scalings())
def test_looking_up_gives_what_calculating_gives(values, scaling):
    narrow, wide = (scaling.apply(values.astype(t).reshape(1, 5, 10)) for t in ("int16", "int32"))
    assert (narrow == wide).all()


@given(scalings())
def test_a_scaling_survives_the_record_of_the_job(scaling):
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


def test_what_is_not_a_number_becomes_black_and_infinities_the_ends():
    values = np.array([[[np.nan, np.inf, -np.inf, 5]]])
    assert Scaling((0.0,) * 3, (10.0,) * 3).apply(values)[0, :, 0].tolist() == [0, 255, 0, 128]


@pytest.mark.parametrize(
    "text, found",
    [
        ("0,10000", Scaling((0.0,) * 3, (10000.0,) * 3, "given: 0 to 10000")),
        (" -1.5 , 2e3", Scaling((-1.5,) * 3, (2000.0,) * 3, "given: -1.5 to 2000")),
        ("p2,p98", Percentiles(2, 98)),
        ("P0.5, p99.5", Percentiles(0.5, 99.5)),
        ("dtype", None),
    ],
)
def test_a_scale_is_understood(text, found):
    assert parse_scale(text) == found


@pytest.mark.parametrize(
    "text, message",
    [
        ("auto", "'auto' is no scaling; write two numbers"),
        ("1", "is no scaling"),
        ("1,2,3", "is no scaling"),
        ("5,5", "the first number must be below the second"),
        ("0,nan", "must be below"),
        ("0,inf", "must be below"),
        ("p98,p2", "percentiles must rise"),
        ("p2,p101", "lie in 0..100"),
        ("p2,98", "is no scaling"),
    ],
)
def test_a_scale_that_says_nothing_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_scale(text)


@pytest.mark.parametrize("low, high", [((1.0, 2.0, 3.0), (1.0, 5.0, 5.0)), ((0.0,) * 3, (float("inf"),) * 3)])
def test_a_scaling_without_extent_is_refused(low, high):
    with pytest.raises(ConfigError, match="low < high"):
        Scaling(low, high)


def opened(folder, name, values, **profile):
    scene = open_scene(write(folder / name, values, **profile))
    return scene, choose_bands(scene)


@pytest.mark.parametrize(
    "dtype, profile, limits",
    [
        ("uint8", {}, (0, 255)),
        ("uint16", {}, (0, 65535)),
        ("uint16", {"nbits": 12}, (0, 4095)),
        ("int16", {}, (-32768, 32767)),
        ("uint32", {}, (0, 2**32 - 1)),
    ],
)
def test_the_range_of_the_type_counts_the_bits_in_use(tmp_path, dtype, profile, limits):
    found = dtype_scaling([opened(tmp_path, "x.tif", np.zeros((3, 4, 4), dtype), **profile)])
    assert (found.low, found.high) == ((float(limits[0]),) * 3, (float(limits[1]),) * 3)


def test_scenes_of_different_types_have_no_common_range(tmp_path):
    scenes = [opened(tmp_path, f"{t}.tif", np.zeros((3, 4, 4), t)) for t in ("uint8", "uint16")]
    with pytest.raises(ConfigError, match="needs one range for all scenes, found 0..255 .*uint8.tif.; 0..65535 "):
        dtype_scaling(scenes)
    with pytest.raises(ConfigError, match="floating-point numbers, whose range says nothing"):
        dtype_scaling([opened(tmp_path, "f.tif", np.zeros((3, 4, 4), "float32"))])


def test_without_a_word_eight_bits_stay_and_all_else_is_estimated(tmp_path):
    eight = opened(tmp_path, "a.tif", np.zeros((3, 4, 4), "uint8"))
    sixteen = opened(tmp_path, "b.tif", noise((3, 50, 60), "uint16"))
    assert default_scale([eight]) == "dtype" and default_scale([eight, sixteen]) == "p2,p98"
    assert decide_scaling(None, [eight]).high == (255.0,) * 3
    assert decide_scaling(None, [sixteen]).origin.startswith("percentiles 2 and 98 of 3000 valid pixels in 1 windows")


@settings(max_examples=20)
@given(low=st.integers(0, 40), high=st.integers(60, 100), seed=st.integers(0, 5))
def test_percentiles_of_a_sample_that_holds_all_are_those_of_all(tmp_path_factory, low, high, seed):
    values = noise((3, 50, 60), "uint16", seed=seed)
    values[:, :9] = 0
    scene = opened(tmp_path_factory.mktemp("p"), "x.tif", values, nodata=0)
    found = decide_scaling(f"p{low},p{high}", [scene], seed=seed)
    wanted = np.percentile(values[:, 9:].reshape(3, -1), [low, high], axis=1)
    np.testing.assert_allclose([found.low, found.high], wanted)


def test_a_large_scene_is_estimated_from_few_windows_nearly_right(tmp_path):
    rng = np.random.default_rng(3)
    values = rng.normal(3000, 500, (1, 2000, 1500)).astype(np.uint16)
    scene = opened(tmp_path, "x.tif", values, tiled=True)
    found = decide_scaling("p2,p98", [scene], windows=20)
    np.testing.assert_allclose([found.low[0], found.high[0]], np.percentile(values, [2, 98]), rtol=0.02)
    assert decide_scaling("p2,p98", [scene], windows=20) == found, "the same sample"
    assert decide_scaling("p2,p98", [scene], windows=20, seed=1) != found


def test_the_sample_covers_scenes_by_their_area_and_does_not_depend_on_their_order(tmp_path):
    scenes = [opened(tmp_path, f"{i}.tif", np.zeros((1, 1000 * i, 500), "uint8"), tiled=True)[0] for i in (1, 2, 5)]
    places = sample_windows(scenes, windows=64)
    counts = np.bincount([i for i, _ in places], minlength=3)
    assert len(places) <= 64 and counts[0] < counts[1] < counts[2]
    turned = {(scenes[::-1][i].uri, w) for i, w in sample_windows(scenes[::-1], windows=64)}
    assert turned == {(scenes[i].uri, w) for i, w in places}
    for i, window in places:
        assert window.clip(scenes[i].size) == window and not window.empty
        assert window.x0 % 256 == 0 and window.y0 % 256 == 0 and max(window.width, window.height) <= WINDOW_PX


def test_only_valid_pixels_are_sampled_and_not_all_of_many(tmp_path):
    values = np.zeros((1, 256, 256), np.int16)
    values[:, :100] = 7
    scene, bands = opened(tmp_path, "x.tif", values, nodata=0)
    found = sample_values(scene, Window(0, 0, 256, 256), bands)
    assert found.shape == (VALUES_PER_WINDOW, 3) and (found == 7).all()
    assert sample_values(scene, Window(0, 120, 256, 256), bands).shape == (0, 3)


def test_a_damaged_window_is_left_out_and_a_sample_of_nothing_is_refused(tmp_path, caplog):
    good = opened(tmp_path, "good.tif", noise((3, 300, 300), "uint16"))
    path = tmp_path / "bad.tif"
    bad = opened(tmp_path, "bad.tif", noise((3, 300, 300), "uint16"), compress="deflate")
    path.write_bytes(path.read_bytes()[:2000])
    found = decide_scaling("p2,p98", [good, bad], windows=16)
    assert "left out of the sample" in caplog.text and found.low[0] > 0
    with pytest.raises(ConfigError, match="no valid pixel in the sample"):
        decide_scaling("p2,p98", [opened(tmp_path, "empty.tif", np.zeros((3, 9, 9), "uint16"), nodata=0)])


def test_a_colour_that_never_varies_becomes_black_rather_than_an_error():
    found = percentile_scaling([np.full((5, 3), 7)], Percentiles(2, 98))
    assert not found.apply(np.full((3, 2, 2), 7, np.uint16)).any()
    percentile_scaling([np.full((5, 3), 1e300)], Percentiles(2, 98))


def test_colours_of_a_palette_are_eight_bits(tmp_path):
    scene = opened(tmp_path, "x.tif", np.array([[[0, 1, 2]]], np.uint8), palette={0: (9, 8, 7, 255), 1: (250, 1, 2, 255)})
    assert scene[1] == Bands((1,), palette=True) and dtype_scaling([scene]).high == (255.0,) * 3
    assert default_scale([scene]) == "dtype"
