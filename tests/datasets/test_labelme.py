"""LabelMe files: every shape that has an area becomes an object, every other says why not."""

from __future__ import annotations

import base64
import json
import math

import cv2
import numpy as np
import pytest

from rayseg.datasets.labelme import read_labelme
from rayseg.errors import DatasetError
from rayseg.geometry import Size

from .builders import HEIGHT, WIDTH, picture, shape, write_image, write_labelme

SIZE = Size(HEIGHT, WIDTH)
TRIANGLE = [[2.0, 2.0], [12.0, 2.0], [2.0, 12.0]]


def only_mask(file):
    (one,) = read_labelme(file).objects
    return one.mask(SIZE)


def test_a_rectangle_is_its_four_corners_whichever_two_are_given(tmp_path):
    wanted = np.zeros(SIZE.hw, bool)
    wanted[5:15, 3:20] = True
    for points in ([[3, 5], [20, 15]], [[20, 15], [3, 5]], [[3, 15], [20, 5]]):
        file = write_labelme(tmp_path / "labelme" / "a.json", [shape("nut", points, shape_type="rectangle")])
        assert (only_mask(file) == wanted).all()


def test_a_circle_has_the_area_of_one(tmp_path):
    file = write_labelme(tmp_path / "labelme" / "a.json", [shape("nut", [[15, 12], [15, 4]], shape_type="circle")])
    assert only_mask(file).sum() == pytest.approx(math.pi * 64, rel=0.03)


def test_pixels_lie_where_they_were_drawn(tmp_path):
    bits = np.zeros((6, 5), np.uint8)
    bits[1:4, 2] = 255
    data = base64.b64encode(cv2.imencode(".png", bits)[1]).decode()
    points = [[10, 7], [14, 12]]
    file = write_labelme(tmp_path / "labelme" / "a.json", [shape("nut", points, shape_type="mask", mask=data)])
    wanted = np.zeros(SIZE.hw, bool)
    wanted[8:11, 12] = True
    assert (only_mask(file) == wanted).all()


def test_shapes_of_one_group_are_one_object(tmp_path):
    other = [[x + 15, y] for x, y in TRIANGLE]
    shapes = [shape("nut", TRIANGLE, group_id=1), shape("nut", other, group_id=1), shape("fig", other, group_id=1)]
    file = write_labelme(tmp_path / "labelme" / "a.json", shapes)
    assert [(one.label, len(one.polygons)) for one in read_labelme(file).objects] == [("nut", 2), ("fig", 1)]
    assert [one.label for one in read_labelme(file, by_shape=True).objects] == ["nut", "nut", "fig"]


def test_old_files_without_shape_type_hold_polygons(tmp_path):
    file = write_labelme(tmp_path / "labelme" / "a.json", [{"label": "nut", "points": TRIANGLE}])
    assert only_mask(file).any()


@pytest.mark.parametrize("image", ["../images/{}.png", "..\\images\\{}.png", "{}.png"])
def test_the_photo_is_found_where_image_path_says(tmp_path, image):
    file = write_labelme(tmp_path / "labelme" / "a.json", [shape("nut", TRIANGLE)], image=image)
    assert read_labelme(file).image.is_file()


def test_a_photo_that_moved_is_found_by_its_name_or_in_the_file(tmp_path):
    data = base64.b64encode(cv2.imencode(".png", picture())[1]).decode()
    file = write_labelme(tmp_path / "labelme" / "a.json", [shape("nut", TRIANGLE)], image="a.png", imageData=data)
    (file.parent / "a.png").unlink()
    found = read_labelme(file)
    assert found.image is None and found.image_data == base64.b64decode(data) and found.size == SIZE
    write_image(tmp_path / "images" / "a.png")
    assert read_labelme(file, image_folder=tmp_path / "images").image == tmp_path / "images" / "a.png"


@pytest.mark.parametrize(
    "shapes, changes, message",
    [
        ([shape("nut", TRIANGLE[:2])], {}, r"shape 0: \(nut\) a polygon has 3 or more points, got 2"),
        (
            [shape("nut", TRIANGLE), shape("fig", [[1, 1], [2, 2]], shape_type="line")],
            {},
            r"shape 1: \(fig\) is a line, which has no area",
        ),
        ([shape("nut", [[1, 1]], shape_type="point")], {}, "is a point, which has no area"),
        ([shape("nut", [[1, 2], [3, 4], [5, 6]], shape_type="circle")], {}, "a circle has 2 points, got 3"),
        ([shape("nut", [[1, float("nan")], [3, 4], [5, 6]])], {}, "points are not pairs of numbers"),
        ([shape("nut", [[1, 2, 3]])], {}, "points are not pairs of numbers"),
        ([shape("nut", [[1, 2], [3, 4], [1e7, 6]])], {}, "far outside the photo"),
        ([shape("", TRIANGLE)], {}, "shape 0: has no label"),
        ([7], {}, "shape 0: has no label"),
        ([shape("nut", TRIANGLE, group_id=[1])], {}, "group_id is"),
        ([shape("nut", [[1, 2], [3, 4]], shape_type="mask", mask="!")], {}, "its pixels cannot be read"),
        ([shape("nut", TRIANGLE)], {"imageHeight": WIDTH, "imageWidth": HEIGHT}, r"say \[32, 24\], the photo .* has \[24, 32\]"),
        ([shape("nut", TRIANGLE)], {"imagePath": None}, "needs shapes and imagePath"),
        ([shape("nut", TRIANGLE)], {"shapes": {}}, "needs shapes and imagePath"),
        ([shape("nut", TRIANGLE)], {"imagePath": "gone.png"}, "neither at .*gone.png, nor in imageData"),
        ([shape("nut", TRIANGLE)], {"imagePath": "gone.png", "imageData": "###"}, "imageData is not base64"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, shapes, changes, message):
    with pytest.raises(DatasetError, match=message):
        read_labelme(write_labelme(tmp_path / "labelme" / "a.json", shapes, **changes))


def test_all_bad_shapes_are_named_at_once(tmp_path):
    file = write_labelme(tmp_path / "labelme" / "a.json", [shape("nut", [[1, 1]]), shape("nut", TRIANGLE), shape("", TRIANGLE)])
    with pytest.raises(DatasetError, match="shape 0: .*shape 2: "):
        read_labelme(file)


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([1]))
    with pytest.raises(DatasetError, match=r"a\.json: not a LabelMe file"):
        read_labelme(tmp_path / "a.json")
