"""Pixels to the ground and back."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import rasterio
from hypothesis import assume, given
from hypothesis import strategies as st

from rayseg.errors import UnsupportedImage
from rayseg.geo.ground import Ground
from rayseg.geo.raster import open_scene

from .rasters import UTM, noise, write

SIDE = 20_000.0
PIXELS = st.lists(st.tuples(st.floats(0, SIDE), st.floats(0, SIDE)), min_size=1, max_size=20)


@st.composite
def affines(draw):
    """Pixels of 5 cm to 1 km, turned and sheared, anywhere on the Earth in metres."""
    size, angle, shear = 10 ** draw(st.floats(-1.3, 3)), draw(st.floats(0, 360)), draw(st.floats(-40, 40))
    move = rasterio.Affine.translation(draw(st.floats(-2e7, 2e7)), draw(st.floats(-2e7, 2e7)))
    flip = draw(st.sampled_from((1, -1)))
    return tuple(move @ move.rotation(angle) @ move.shear(shear) @ move.scale(size, flip * size))[:6]


def bent_gcps(bend, n=6, tilt=0.3):
    """A grid of points on a ground that curves, as radar swaths do; `bend` in pixels at the corner."""
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(0, SIDE, n), np.linspace(0, SIDE, n)))
    ground = np.stack(
        [5e5 + 10 * x + tilt * y + 10 * bend * (y / SIDE) ** 2, 4e6 - 10 * y + bend * 10 * (x / SIDE) ** 2 * (y / SIDE)]
    )
    return tuple(zip(x.tolist(), y.tolist(), *ground.tolist(), strict=True))


@given(affines(), PIXELS)
def test_there_and_back_by_an_affine_transform_is_the_identity(affine, points):
    ground = Ground("x", affine)
    assert np.abs(ground.to_pixels(ground.to_ground(points)) - points).max() < 1e-6


@given(affines(), PIXELS)
def test_the_way_there_is_that_of_rasterio(affine, points):
    wanted = np.array([rasterio.Affine(*affine) @ point for point in points])
    np.testing.assert_allclose(Ground("x", affine).to_ground(points), wanted, rtol=1e-12, atol=1e-7)


@given(st.floats(-2000, 2000), PIXELS)
def test_there_and_back_by_control_points_is_the_identity(bend, points):
    ground = Ground("x", gcps=bent_gcps(bend))
    assert np.abs(ground.to_pixels(ground.to_ground(points)) - points).max() < 1e-6


@given(st.floats(-2000, 2000))
def test_control_points_that_follow_a_polynomial_are_met(bend):
    gcps = bent_gcps(bend)
    ground = Ground("x", gcps=gcps)
    assert ground.gcp_error_px < 0.51
    table = np.array(gcps)
    assert np.abs(ground.to_ground(table[:, :2]) - table[:, 2:]).max() < 11 * 0.51


@given(affines(), st.integers(-500, 500), st.integers(-500, 500), PIXELS)
def test_a_shifted_ground_is_that_of_the_part_of_the_scene(affine, dx, dy, points):
    assume(abs(affine[0]) < 1e3)
    for ground in (Ground("x", affine), Ground("x", gcps=bent_gcps(50))):
        part = ground.shift(dx, dy)
        moved = np.add(points, (dx, dy))
        assert np.abs(ground.to_pixels(part.to_ground(points)) - moved).max() < 1e-5


def test_every_transform_of_the_fixtures_is_the_identity_there_and_back(shared_dir):
    paths = [*(shared_dir / "data/geotiff_fixtures").glob("*/*.tif"), *(shared_dir / "data/big_images").glob("*.[tj][ip][fg]")]
    assert len(paths) >= 27
    for path in paths:
        scene = open_scene(str(path))
        corners = np.array([(0, 0), (scene.size.width, 0), (0, scene.size.height), scene.size.wh], dtype=float)
        points = np.concatenate([corners, np.random.default_rng(0).random((500, 2)) * scene.size.wh])
        assert np.abs(scene.ground.to_pixels(scene.ground.to_ground(points)) - points).max() < 1e-6, path.name


def test_shapes_of_arrays_are_kept():
    ground = Ground("x", tuple(UTM)[:6])
    assert ground.to_ground(np.zeros((2, 3, 2))).shape == (2, 3, 2) and ground.to_pixels(np.zeros(2)).shape == (2,)
    bent = Ground("x", gcps=bent_gcps(100))
    assert bent.to_pixels(bent.to_ground(np.ones((4, 3, 2)))).shape == (4, 3, 2) and bent.to_ground(np.zeros((0, 2))).shape == (
        0,
        2,
    )


def test_a_ground_survives_pickling_also_after_use():
    ground = Ground("x", gcps=bent_gcps(30))
    before = ground.to_ground(np.ones(2))
    twin = pickle.loads(pickle.dumps(ground))
    assert twin == ground and (twin.to_ground(np.ones(2)) == before).all()


def test_control_points_of_a_file_are_used(tmp_path):
    points = [rasterio.control.GroundControlPoint(row=y, col=x, x=gx, y=gy) for x, y, gx, gy in bent_gcps(0, n=3)]
    scene = open_scene(write(tmp_path / "x.tif", noise((1, 9, 9)), gcps=(points, rasterio.CRS.from_epsg(32633))))
    assert len(scene.ground.gcps) == 9 and not scene.ground.in_pixels
    np.testing.assert_allclose(scene.ground.to_ground(np.array([100.0, 200.0])), [5e5 + 1000 + 60, 4e6 - 2000])


def test_points_that_no_polynomial_meets_are_met_as_well_as_can_be_and_the_error_is_told():
    rng = np.random.default_rng(0)
    gcps = tuple((x, y, gx + 10 * rng.normal() * 20, gy) for x, y, gx, gy in bent_gcps(0))
    ground = Ground("x", gcps=gcps)
    assert 10 < ground.gcp_error_px < 100
    points = rng.random((100, 2)) * SIDE
    assert np.abs(ground.to_pixels(ground.to_ground(points)) - points).max() < 1e-6


def test_a_point_that_the_polynomial_does_not_reach_is_not_a_number():
    ground = Ground("x", gcps=tuple((x, y, x, y + 1e-4 * x * x) for x in range(0, 2000, 400) for y in range(0, 2000, 400)))
    folded = Ground("x", gcps=tuple((x, y, x - 2e-4 * x * x, y) for x in range(0, 2000, 400) for y in range(0, 2000, 400)))
    assert np.isfinite(ground.to_pixels(np.array([1e3, 1e3]))).all()
    assert np.isnan(folded.to_pixels(np.array([1e6, 1e3]))).all()


@pytest.mark.parametrize(
    "wkt, affine, answer",
    [
        (None, tuple(UTM)[:6], True),
        ("x", (1, 0, 0, 0, 1, 0), True),
        ("x", tuple(UTM)[:6], False),
        (None, (1, 0, 0, 0, 1, 0), True),
    ],
)
def test_results_stay_in_pixels_without_reference_system_or_transform(wkt, affine, answer):
    assert Ground(wkt, affine).in_pixels is answer


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Ground("x", (1, 2, 0, 2, 4, 0)), "puts all pixels on one line"),
        (lambda: Ground("x", (float("nan"), 0, 0, 0, 1, 0)), "puts all pixels on one line"),
        (lambda: Ground("x", gcps=((0, 0, 1, 1), (5, 5, 2, 2))), "2 ground control points do not fix a transform"),
        (
            lambda: Ground("x", gcps=tuple((i, i, i, i) for i in range(5))).to_ground(np.zeros(2)),
            "5 ground control points lie on one line",
        ),
    ],
)
def test_what_gives_no_transform_is_refused(make, message):
    with pytest.raises(UnsupportedImage, match=message):
        make()
