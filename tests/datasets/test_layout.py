"""Where a data set keeps its files: PaddleX's names, COCO's, and those the settings give."""

from __future__ import annotations

import pytest

from rayseg.datasets.layout import find_annotated, find_instance, find_semantic, read_class_names
from rayseg.errors import DatasetError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return root


def test_paddlex_layout(tmp_path):
    touch(tmp_path, "annotations/instance_train.json", "annotations/instance_val.json", "images/a.jpg")
    found = find_instance(tmp_path)
    assert found.train.annotations == f"{tmp_path}/annotations/instance_train.json"
    assert found.train.images == found.val.images == f"{tmp_path}/images"


def test_coco_layout_has_a_folder_of_images_for_each_split(tmp_path):
    touch(tmp_path, *(f"annotations/instances_{s}2017.json" for s in ("train", "val")), "train2017/a.jpg", "val2017/a.jpg")
    found = find_instance(tmp_path)
    assert (found.train.images, found.val.images) == (f"{tmp_path}/train2017", f"{tmp_path}/val2017")


def test_names_in_the_settings_come_first(tmp_path):
    touch(tmp_path, "annotations/instance_train.json", "annotations/instance_val.json", "images/a.jpg", "x/t.json")
    found = find_instance(tmp_path, image_dir="photos", train="x/t.json", val="annotations/instance_val.json")
    assert (found.train.annotations, found.train.images) == (f"{tmp_path}/x/t.json", f"{tmp_path}/photos")


def test_urls_are_asked_through_the_callable():
    there = {"s3://b/set/annotations/instance_train.json", "s3://b/set/annotations/instance_val.json", "s3://b/set/images"}
    found = find_instance("s3://b/set/", exists=there.__contains__)
    assert found.val.annotations == "s3://b/set/annotations/instance_val.json" and found.val.images == "s3://b/set/images"


def test_the_only_images_folder_may_lie_deeper(tmp_path):
    touch(tmp_path, "set/annotations/instance_train.json", "set/annotations/instance_val.json", "set/images/a.jpg")
    assert find_instance(tmp_path).root == f"{tmp_path}/set"
    touch(tmp_path, "other/images/a.jpg")
    with pytest.raises(DatasetError, match="several folders hold images/: .*other, .*set"):
        find_instance(tmp_path)


def test_what_was_tried_is_named(tmp_path):
    touch(tmp_path, "annotations/instance_train.json")
    with pytest.raises(
        DatasetError, match=r"no annotation file of val; tried annotations/instance_val\.json, .*Convert or split"
    ):
        find_instance(tmp_path)
    with pytest.raises(DatasetError, match=r"val\.txt: not there"):
        find_semantic(touch(tmp_path, "train.txt"))
    with pytest.raises(DatasetError, match="no such folder"):
        find_instance(tmp_path / "none")


def test_class_names_are_lines(tmp_path):
    touch(tmp_path, "train.txt", "val.txt")
    assert find_semantic(tmp_path).class_names is None
    (tmp_path / "labels.txt").write_text("background\nnut tree\n")
    assert find_semantic(tmp_path).class_names == ("background", "nut tree")
    (tmp_path / "labels.txt").write_text("a\nb\na\n")
    with pytest.raises(DatasetError, match="names a twice"):
        read_class_names(tmp_path)


@pytest.mark.parametrize(
    "files, wanted",
    [
        (["annotations/instance_train.json"], ["annotations/instance_train.json"]),
        (["instances_train.json", "instances_val.json"], ["instances_train.json", "instances_val.json"]),
        (["trainval.json"], ["trainval.json"]),
    ],
)
def test_what_there_is_to_split(tmp_path, files, wanted):
    touch(tmp_path, *files, "images/a.jpg")
    assert [f.annotations for f in find_annotated(tmp_path)[1]] == [f"{tmp_path}/{name}" for name in wanted]
