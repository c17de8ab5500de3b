"""Outlines against rasterising and counting, which are slow and obvious; areas against geodesics walked in short steps."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from rayseg import rle
from rayseg.geo import shapes
from rayseg.geo.areas import ELLIPSOIDAL, NO_AREA, PLANAR, area_kind, areas_m2
from rayseg.geo.shapes import outlines, simplify, to_ground, valid
from rayseg.geometry import Size

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
ROTATED = Affine.translation(500_000, 4_000_000) @ Affine.rotation(33) @ Affine.scale(0.5, -0.25)


@st.composite
def placed_masks(draw, most=6):
    """Some masks, each with the upper left corner of its window."""
    masks = draw(st.lists(MASKS, min_size=1, max_size=most))
    return masks, [(draw(st.integers(0, 70_000)), draw(st.integers(0, 70_000))) for _ in masks]


def picture(text):
    """Lines of # and . as a mask."""
    return np.array([[c == "#" for c in line] for line in text.split()])


def shapes_of(masks, corners=None):
    corners = corners or [(0, 0)] * len(masks)
    counts = pa.array([rle.encode(m).counts.decode() for m in masks], pa.string())
    windows = [(x, y, x + m.shape[1], y + m.shape[0]) for m, (x, y) in zip(masks, corners, strict=True)]
    return outlines(counts, np.array(windows, dtype=np.int64).reshape(-1, 4))


def filled(shape, corner, size):
    """The pixels whose centres a shape covers."""
    if shape.is_empty:
        return np.zeros(size, dtype=bool)
    return rasterio.features.rasterize([shape], out_shape=size, transform=Affine.translation(*corner)).astype(bool)


def pieces_and_holes(mask):
    """Counted: pixels that meet at a corner only are apart, in an object and in a hole."""
    labels, n = ndimage.label(mask)
    return n, sum(ndimage.label(np.pad(labels != i, 1, constant_values=True))[1] - 1 for i in range(1, n + 1))


def counted(shape):
    parts = shapely.get_parts(shape)
    return len(parts), int(shapely.get_num_interior_rings(parts).sum())


def by_affine(transform):
    a, b, c, d, e, f = transform[:6]
    return lambda xy: np.stack([a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f], axis=1)


@given(placed_masks())
def test_filling_an_outline_gives_the_mask_back(drawn):
    for shape, mask, corner in zip(shapes_of(*drawn), *drawn, strict=True):
        assert (filled(shape, corner, mask.shape) == mask).all()
        assert shape.area == mask.sum()


@settings(max_examples=200)
@given(placed_masks())
def test_outlines_are_valid_and_have_the_pieces_and_holes_of_the_mask(drawn):
    for shape, mask in zip(shapes_of(*drawn), drawn[0], strict=True):
        assert shapely.is_valid(shape)
        assert counted(shape) == pieces_and_holes(mask)


@given(placed_masks())
def test_edges_run_along_pixels_and_turn_at_every_corner(drawn):
    for shape in shapes_of(*drawn):
        for ring in shapely.get_rings(shape):
            steps = np.diff(shapely.get_coordinates(ring), axis=0)
            assert (steps == np.round(steps)).all()
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert ((steps[:, 0] == 0) != (np.roll(steps[:, 0], 1) == 0)).all()


@given(placed_masks())
def test_an_outline_does_not_depend_on_the_masks_traced_with_it(drawn):
    together = shapes_of(*drawn)
    alone = [shapes_of([mask], [corner])[0] for mask, corner in zip(*drawn, strict=True)]
    assert shapely.equals_exact(together, alone).all()


@given(MASKS, st.floats(0, 4))
def test_simplified_outlines_are_valid_keep_holes_and_pieces_and_stay_near(mask, tolerance):
    exact = shapes_of([mask])
    found = simplify(exact, tolerance)
    assert shapely.is_valid(found).all()
    assert counted(found[0]) == counted(exact[0])
    assert shapely.get_num_coordinates(found)[0] <= shapely.get_num_coordinates(exact)[0]
    if mask.any():
        assert exact[0].boundary.hausdorff_distance(found[0].boundary) <= 2 * tolerance + 1e-9


@given(MASKS)
def test_shapes_on_rotated_ground_are_valid_and_keep_area_pieces_and_holes(mask):
    exact = shapes_of([mask], [(40_000, 50_000)])
    found = to_ground(exact, by_affine(ROTATED))[0]
    if not mask.any():
        assert found is None
        return
    assert found.is_valid and counted(found) == counted(exact[0])
    assert found.area == pytest.approx(mask.sum() * 0.125, rel=1e-6)
    assert all(part.exterior.is_ccw and not any(hole.is_ccw for hole in part.interiors) for part in shapely.get_parts(found))


@given(MASKS, st.sampled_from([1, -1]), st.sampled_from([1, -1]))
def test_outer_rings_are_counter_clockwise_whichever_way_the_axes_point(mask, across, up):
    for part in shapely.get_parts(to_ground(shapes_of([mask]), lambda xy: xy * [across, up])):
        assert part is None or part.exterior.is_ccw


@given(MASKS, MASKS)
def test_area_in_a_projected_crs_is_that_of_the_pixels(first, second):
    exact = shapes_of([first, second])
    found = areas_m2(to_ground(exact, by_affine(Affine(0.5, 0, 5e5, 0, -0.5, 5e6))), pyproj.CRS(32633))
    for area, mask in zip(found, (first, second), strict=True):
        assert area == pytest.approx(mask.sum() / 4, rel=1e-9) if mask.any() else np.isnan(area)


@pytest.mark.parametrize(
    "text, pieces, holes",
    [
        ("#", 1, 0),
        ("#. .#", 2, 0),
        (".# #.", 2, 0),
        ("### #.# ###", 1, 1),
        (".#. #.# .#.", 4, 0),
        ("#### #.## ##.# ####", 1, 2),
        ("##### #...# #.#.# #...# #####", 2, 1),
        ("#### #..# #.## ####", 1, 1),
        ("##### #.#.# ##.## #.#.# #####", 1, 5),
        ("###. #.#. ###. ...#", 2, 1),
        ("##### #.... #.### #.#.# ####.", 1, 1),
        (".### ##.# #.## ###.", 1, 2),
    ],
)
def test_known_pictures_have_their_pieces_and_holes(text, pieces, holes):
    mask = picture(text)
    shape = shapes_of([mask])[0]
    assert counted(shape) == (pieces, holes) == pieces_and_holes(mask)
    assert shape.is_valid and (filled(shape, (0, 0), mask.shape) == mask).all()


def test_a_ring_that_comes_back_to_a_corner_becomes_a_hole_that_touches_there():
    shape = shapes_of([picture("###. #..# #### ####")])[0]  # the notch is closed by a corner only
    assert shape.geom_type == "Polygon" and shape.is_valid
    shape = shapes_of([picture("##. #.# ###")])[0]
    assert len(shape.interiors) == 1 and shape.exterior.intersects(shape.interiors[0])


def test_one_pixel_is_one_square():
    assert shapes_of([np.ones((1, 1), bool)], [(7, 9)])[0].equals(shapely.box(7, 9, 8, 10))


def test_masks_that_fill_their_windows_and_lie_edge_to_edge_share_their_edges():
    left, right = shapes_of([np.ones((3, 2), bool)] * 2, [(0, 0), (2, 0)])
    assert left.intersection(right).length == 3 and left.union(right).equals(shapely.box(0, 0, 4, 3))


def test_batches_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    masks = [rng.random(rng.integers(1, 12, 2)) < 0.6 for _ in range(50)]
    together = shapes_of(masks)
    for name, value in (("_BATCH", 7), ("_BATCH_BYTES", 20)):
        monkeypatch.setattr(shapes, name, value)
        assert shapely.equals_exact(shapes_of(masks), together).all()


def test_an_empty_mask_is_an_empty_shape_and_no_masks_are_no_shapes():
    assert shapes_of([np.zeros((3, 4), bool)])[0].is_empty
    assert shapes_of([]).shape == (0,)


def test_a_string_with_a_run_of_nothing_in_it_has_the_same_outline():
    split = rle.Rle(Size(6, 1), rle.coco_mask.frPyObjects({"size": [6, 1], "counts": [1, 2, 0, 2, 1]}, 6, 1)["counts"])
    found = outlines(pa.array([split.counts.decode()]), np.array([[0, 0, 1, 6]]))
    assert found[0].normalize() == shapely.box(0, 1, 1, 5).normalize()


def test_a_long_object_in_a_huge_window_needs_no_bitmap():
    height = width = 60_000  # a bitmap would take 3.6 GB
    runs = [0, 1] + [height, 1] * 19_998  # down one pixel with each column
    counts = [*runs, height * width - sum(runs)]
    packed = rle.coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    found = outlines(pa.array([packed.decode()]), np.array([[0, 0, width, height]]))
    assert found[0].area == 19_999 and shapely.get_num_geometries(found)[0] == 19_999 and found[0].is_valid


def test_windows_that_do_not_fit_the_masks_are_refused():
    counts = pa.array([rle.encode(np.ones((2, 3), bool)).counts.decode()])
    with pytest.raises(ValueError, match=r"1 masks cannot lie in windows of shape \(2, 4\)"):
        outlines(counts, np.zeros((2, 4), dtype=np.int64))
    with pytest.raises(ValueError, match="window is 3 x 3"):
        outlines(counts, np.array([[0, 0, 3, 3]]))


def test_simplifying_makes_a_line_of_stairs():
    stairs = np.tril(np.ones((40, 40), bool))
    exact = shapes_of([stairs])
    assert shapely.get_num_coordinates(exact)[0] == 83
    assert shapely.get_num_coordinates(simplify(exact, 1))[0] <= 6
    assert simplify(exact, 0)[0].equals_exact(exact[0])


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(ValueError, match=f"simplify_px is {tolerance}"):
        simplify(shapes_of([np.ones((1, 1), bool)]), tolerance)


def test_what_the_transform_cannot_reach_is_none_and_takes_no_neighbour_along():
    exact = shapes_of([np.ones((2, 2), bool)] * 2, [(0, 0), (10, 0)])
    found = to_ground(exact, lambda xy: np.where(xy > 11, np.nan, xy))  # half of the second
    assert found[0].area == 4 and found[1] is None


def test_a_shape_the_transform_folds_comes_out_valid():
    exact = shapes_of([picture("#### #..# ####")])
    found = to_ground(exact, lambda xy: np.stack([abs(xy[:, 0] - 1.3), xy[:, 1]], axis=1), longest_edge_px=0.25)
    assert found[0].is_valid and found[0].area > 0
    assert to_ground(exact, lambda xy: xy * [1, 0])[0] is None


def test_edges_are_cut_before_a_transform_that_bends_them():
    disc = to_ground(
        shapes_of([np.ones((1, 100), bool)]),
        lambda xy: np.stack([np.cos(xy[:, 0] / 50), np.sin(xy[:, 0] / 50)], axis=1) * (10 + xy[:, 1:]),
        longest_edge_px=1,
    )
    assert disc[0].area == pytest.approx((11**2 - 10**2) * 2 / 2, rel=1e-3)  # a sector of 2 radians
    with pytest.raises(ValueError, match="longest_edge_px is 0"):
        to_ground(disc, lambda xy: xy, longest_edge_px=0)


def test_a_bow_tie_is_repaired_and_a_line_is_not_a_shape():
    found = valid(np.array([shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)]), shapely.Polygon([(0, 0), (1, 1), (2, 2)]), None]))
    assert found[0].is_valid and found[0].area == 2 and found[1] is None and found[2] is None


@pytest.mark.parametrize(
    "shape",
    [
        shapely.box(10, 50, 12, 51),
        shapely.box(-180, 0, 180, 60),
        shapely.box(179.5, -17, 180.5, -16),
        shapely.box(0, 89, 30, 90),
        shapely.Polygon([(0, 40), (3, 45), (1, 48)]),
        shapely.box(0, 0, 5, 5).difference(shapely.box(1, 1, 2, 2)),
    ],
)
def test_area_in_a_geographic_crs_is_that_on_the_ellipsoid(shape):
    in_steps = shapely.segmentize(shape, 0.001)
    expected = abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.orient_polygons(in_steps))[0])
    assert areas_m2(np.array([shape]), pyproj.CRS(4326))[0] == pytest.approx(expected, rel=1e-6)


def test_the_whole_earth_has_its_area():
    ellipsoid = pyproj.CRS(4326).ellipsoid
    a, b = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
    e = np.sqrt(1 - (b / a) ** 2)
    surface = 2 * np.pi * a**2 * (1 + (1 - e**2) / e * np.arctanh(e))
    assert areas_m2(np.array([shapely.box(-180, -90, 180, 90)]), pyproj.CRS(4326))[0] == pytest.approx(surface, rel=1e-12)
    sphere = pyproj.CRS("+proj=longlat +R=1000 +no_defs")
    assert areas_m2(np.array([shapely.box(-180, -90, 180, 90)]), sphere)[0] == pytest.approx(4e6 * np.pi)


def test_web_mercator_does_not_blow_areas_up():
    shape = shapely.box(179.5, 60, 180.5, 61)  # beyond the dateline, as pixels of one scene may lie
    to_mercator = pyproj.Transformer.from_crs(4326, 3857, always_xy=True, force_over=True)
    moved = shapely.transform(shape, lambda xy: np.stack(to_mercator.transform(xy[:, 0], xy[:, 1]), axis=1))
    found = areas_m2(np.array([moved]), pyproj.CRS(3857))[0]
    assert found == pytest.approx(areas_m2(np.array([shape]), pyproj.CRS(4326))[0], rel=1e-9)
    assert moved.area > 4 * found


@pytest.mark.parametrize(
    "crs, kind, of_a_unit_square",
    [
        (None, NO_AREA, None),
        ("EPSG:32633", PLANAR, 1.0),
        ("EPSG:2263", PLANAR, (1200 / 3937) ** 2),  # US survey feet
        ("EPSG:25832+7837", PLANAR, 1.0),  # with heights
        ("EPSG:2056", PLANAR, 1.0),  # an oblique Mercator, true at its centre
        ("EPSG:3395", ELLIPSOIDAL, 1.0),
        ("EPSG:4326", ELLIPSOIDAL, 12308463846.4),
        ("EPSG:4978", NO_AREA, None),
        ("EPSG:5703", NO_AREA, None),
    ],
)
def test_areas_are_taken_as_the_crs_allows(crs, kind, of_a_unit_square):
    crs = None if crs is None else pyproj.CRS(crs)
    assert area_kind(crs) == kind
    found = areas_m2(np.array([shapely.box(0, 0, 1, 1), None]), crs)
    assert np.isnan(found[1])
    assert np.isnan(found[0]) if of_a_unit_square is None else found[0] == pytest.approx(of_a_unit_square, rel=2e-5)
