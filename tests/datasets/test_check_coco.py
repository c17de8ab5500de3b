"""Every fault planted in a COCO set is found, under its own name, with file, id and remedy; a good set has none."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from rayseg.datasets.check_coco import check_image, compare_categories, compare_images, index_split, judge_objects
from rayseg.datasets.files import read_local
from rayseg.images import decode

from .builders import HEIGHT, WIDTH, annotation, coco, coco_rle, square, write_coco_set, write_image


def kinds(content, root=None, file="set.json") -> dict[str, int]:
    """Kind -> count of all findings of one file and, with a folder, of its images."""
    index = index_split(content, file)
    found = list(index.findings)
    for work in index.images if root else ():
        found += check_image(work, str(root / "images"), file, read=read_local, decode=decode).findings
    for one in found:
        assert one.problem and one.remedy and one.file and str(one).startswith(one.file)
    return {kind: sum(one.kind == kind for one in found) for kind in {one.kind for one in found}}


@pytest.fixture
def root(tmp_path):
    return write_coco_set(tmp_path, coco(["a.png", "b.png"]), coco(["v.png"]))


def with_annotation(**changes) -> dict:
    return coco(["a.png", "b.png"], annotations=[annotation(1), annotation(2, **({"image_id": 2} | changes))])


def test_a_good_set_has_no_findings(root):
    assert kinds(coco(["a.png", "b.png"]), root) == {}


def test_objects_are_counted_and_masks_returned(root):
    crowd = annotation(3, 1, iscrowd=1, segmentation=coco_rle(np.eye(HEIGHT, WIDTH, dtype=bool)), bbox=[0, 0, 24, 24], area=24)
    index = index_split(coco(["a.png", "b.png"], annotations=[annotation(1), annotation(2, x=12), crowd]), "set.json")
    report = check_image(index.images[0], str(root / "images"), "set.json", read=read_local, decode=decode)
    assert report.findings == [] and report.objects == {1: 2} and report.crowds == 1 and len(report.masks) == 3
    assert report.image.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    "changes, kind",
    [
        ({"segmentation": ...}, "box-without-mask"),
        ({"segmentation": []}, "box-without-mask"),
        ({"segmentation": ..., "bbox": ...}, "annotation-invalid"),
        ({"category_id": 9}, "annotation-invalid"),
        ({"category_id": [1]}, "annotation-invalid"),
        ({"image_id": 9}, "annotation-invalid"),
        ({"image_id": ...}, "annotation-invalid"),
        ({"id": 1}, "duplicate-annotation-id"),
        ({"id": 0}, "annotation-id-zero"),
        ({"id": None}, "annotation-id-invalid"),
        ({"segmentation": [[1, 2, 3]]}, "mask-invalid"),
        ({"segmentation": {"size": [32, 24], "counts": [768]}}, "mask-invalid"),
        ({"segmentation": {"size": [24, 32], "counts": "junk!"}}, "mask-invalid"),
        ({"segmentation": [[3.0, 3.0, 3.01, 3.0, 3.0, 3.01]]}, "mask-empty"),
        ({"segmentation": [square(-6, 2, 12)], "bbox": [0, 2, 6, 12]}, "mask-outside"),
        ({"bbox": [2, 3, 0, 8]}, "box-invalid"),
        ({"bbox": [2, 3, 8]}, "box-invalid"),
        ({"bbox": [2, 3, 8, 10**400]}, "box-invalid"),
        ({"bbox": [2, 3, float("nan"), 8]}, "box-invalid"),
        ({"bbox": [2, 3, 80, 8]}, "box-outside"),
        ({"bbox": [20, 12, 8, 8]}, "box-disagrees"),
        ({"bbox": ...}, "box-missing"),
        ({"area": ...}, "area-invalid"),
        ({"area": 0}, "area-invalid"),
        ({"iscrowd": 2}, "crowd-invalid"),
    ],
)
def test_a_fault_in_an_annotation_is_found(root, changes, kind):
    found = kinds(with_annotation(**changes), root)
    found.pop("empty-image", None)  # where the broken one was its only annotation
    if kind == "box-outside":
        assert found.pop("box-disagrees", 1) == 1
    assert found == {kind: 1}


def test_the_same_object_twice_is_found(root):
    content = coco(["a.png", "b.png"], annotations=[annotation(1), annotation(2, 2), annotation(7), annotation(8, category_id=2)])
    assert kinds(content, root) == {"duplicate-object": 1}


def test_masks_that_reach_over_two_columns_do_not_disagree_with_their_boxes(root):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[14:, 4] = mask[:14, 5] = True  # one run of pixels, from the bottom of one column to the top of the next
    mask[10:14, 4:6] = True
    found = annotation(1, segmentation=coco_rle(mask), bbox=[4, 0, 2, 24], area=int(mask.sum()))
    assert kinds(coco(["a.png"], annotations=[found]), root) == {}


@pytest.mark.parametrize(
    "changes, wanted",
    [
        (
            {"categories": [{"id": 1, "name": "nut"}, {"id": 1, "name": "fig"}, {"id": 2, "name": "x"}]},
            {"duplicate-category-id": 1},
        ),
        ({"categories": [{"id": 1, "name": "nut"}, {"id": 2, "name": "nut"}]}, {"duplicate-category-name": 1}),
        ({"categories": [{"id": 1, "name": "nut"}, {"id": 2, "name": "fig"}, {"id": 3}]}, {"category-invalid": 1}),
        ({"categories": [{"id": i, "name": str(i)} for i in (1, 2, 5)]}, {"category-id-gaps": 1}),
        ({"annotations": []}, {"no-annotations": 1, "empty-image": 2}),
        ({"annotations": [annotation(1), 7, annotation(2, 2)]}, {"annotation-invalid": 1}),
        ({"annotations": [annotation(1)]}, {"empty-image": 1}),
    ],
)
def test_a_fault_of_the_file_is_found(root, changes, wanted):
    assert kinds(coco(["a.png", "b.png"], **changes), root) == wanted


@pytest.mark.parametrize(
    "entry, kind",
    [
        ({"id": 1, "file_name": "b.png", "height": HEIGHT, "width": WIDTH}, "duplicate-image-id"),
        ({"id": 3, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}, "duplicate-file-name"),
        ({"id": 3, "file_name": "b.png", "height": "24", "width": WIDTH}, "image-entry-invalid"),
        ({"id": 3, "file_name": "b.png", "height": 10**400, "width": WIDTH}, "image-entry-invalid"),
        ({"id": 3, "height": HEIGHT, "width": WIDTH}, "image-entry-invalid"),
        ({"id": None, "file_name": "b.png", "height": HEIGHT, "width": WIDTH}, "image-entry-invalid"),
        ("b.png", "image-entry-invalid"),
    ],
)
def test_a_fault_in_an_entry_of_images_is_found(entry, kind):
    content = coco(["a.png"])
    content["images"].append(entry)
    assert kinds(content) == {kind: 1}


@pytest.mark.parametrize("content", [[], {}, {"images": []}, {"images": 1, "annotations": [], "categories": []}, None])
def test_what_is_no_coco_file_is_one_finding(content):
    assert kinds(content) == {"not-coco": 1}


def test_a_missing_and_a_broken_image_are_found(root):
    (root / "images" / "a.png").unlink()
    (root / "images" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n junk")
    assert kinds(coco(["a.png", "b.png"]), root) == {"missing-image": 1, "unreadable-image": 1}


def test_an_image_of_another_size_is_found(root):
    write_image(root / "images" / "a.png", height=20)
    assert kinds(coco(["a.png", "b.png"]), root) == {"size-mismatch": 1}


def test_annotations_made_before_the_exif_turn_are_explained(tmp_path):
    image = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images" / "a.jpg", exif=exif)
    index = index_split(coco(["a.jpg"]), "set.json")
    (found,) = check_image(index.images[0], str(tmp_path / "images"), "set.json", read=read_local, decode=decode).findings
    assert found.kind == "size-mismatch" and "EXIF orientation is 6" in found.problem and "image id 1" in found.where


def test_categories_that_differ_between_splits_are_found_on_both_sides():
    def compared(train: dict, val: dict) -> list[str]:
        indexes = [index_split(coco(categories=one), f"{name}.json") for name, one in (("train", train), ("val", val))]
        return [found.kind for found in compare_categories(*indexes)]

    base = {1: "nut", 2: "fig"}
    assert compared(base, base) == []
    assert compared(base, {2: "fig", 1: "nut"}) == ["category-order-differs"]
    assert compared(base, {1: "nut", 2: "date"}) == ["categories-differ"] * 2
    assert compared(base, base | {3: "date"}) == ["categories-differ"]


def test_an_image_in_both_splits_is_found_by_its_path():
    found = compare_images("train.json", ["x/a.png", "x/b.png"], "val.json", ["x/b.png", "y/a.png"])
    assert [(one.file, one.where) for one in found] == [("val.json", "x/b.png")]


def test_classes_that_cannot_be_learned_are_found():
    from collections import Counter

    found = judge_objects(Counter({1: 3}), {1: "nut", 2: "fig"}, "train.json", 3)
    assert [one.kind for one in found] == ["num-classes-differ", "class-without-objects"]
    assert judge_objects(Counter({1: 3, 2: 1}), {1: "nut", 2: "fig"}, "train.json", 2) == []


def test_images_in_other_folders_are_read(tmp_path):
    write_image(tmp_path / "photos" / "a.png", 1)
    for name in ("../photos/a.png", str(tmp_path / "photos" / "a.png")):
        index = index_split(coco([name]), "set.json")
        report = check_image(index.images[0], str(tmp_path / "images"), "set.json", read=read_local, decode=decode)
        assert report.findings == []
        assert (report.image == cv2.imread(str(tmp_path / "photos" / "a.png"))[..., ::-1]).all()


def test_real_sets_have_no_errors(shared_dir):
    folder = shared_dir / "data" / "coco_ccby"
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    index = index_split(content, "val.json")
    found = list(index.findings)
    for work in index.images[:20]:
        found += check_image(work, str(folder / "val2017"), "val.json", read=read_local, decode=decode).findings
    assert {one.level for one in found} <= {"warning"} and {one.kind for one in found} == {"category-id-gaps", "empty-image"}
