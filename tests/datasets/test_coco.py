"""COCO files: every form of mask reads alike, and a file that cannot be used says where and why."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rayseg.datasets.coco import CocoInstances
from rayseg.datasets.coco_masks import read_mask
from rayseg.errors import DatasetError
from rayseg.geometry import Size

SIZE = Size(height=8, width=10)
RECTANGLE = [2, 1, 7, 1, 7, 5, 2, 5]


def rectangle_mask() -> np.ndarray:
    mask = np.zeros(SIZE.hw, dtype=np.uint8)
    mask[1:5, 2:7] = 1
    return mask


def uncompressed(mask: np.ndarray) -> dict:
    runs, value, length = [], 0, 0
    for pixel in mask.flatten(order="F"):
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    return {"size": list(mask.shape), "counts": [*runs, length]}


def compressed(mask: np.ndarray) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask))
    return {"size": found["size"], "counts": found["counts"].decode()}


def content(**changes) -> dict:
    out = {
        "images": [{"id": 7, "file_name": "a.png", "height": 8, "width": 10}],
        "categories": [{"id": 5, "name": "nut"}, {"id": 3, "name": "fig"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": [RECTANGLE]}],
    }
    return out | changes


def write(folder: Path, what: dict, *, image: np.ndarray | None = None) -> CocoInstances:
    (folder / "set.json").write_text(json.dumps(what))
    cv2.imwrite(str(folder / "a.png"), np.zeros((*SIZE.hw, 3), np.uint8) if image is None else image)
    return CocoInstances(folder / "set.json", folder)


def one_annotation(**changes) -> dict:
    return content(annotations=[content()["annotations"][0] | changes])


@pytest.mark.parametrize(
    "segmentation",
    [[RECTANGLE], uncompressed(rectangle_mask()), compressed(rectangle_mask())],
    ids=["polygon", "runs", "compressed"],
)
def test_every_form_of_a_mask_reads_alike(segmentation):
    patch = read_mask({"segmentation": segmentation}, SIZE)
    assert (patch.window.x0, patch.window.y0, patch.window.x1, patch.window.y1) == (2, 1, 7, 5)
    assert patch.bits.all()


def test_several_polygons_are_one_object():
    patch = read_mask({"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2], [6, 4, 8, 4, 8, 6, 6, 6]]}, SIZE)
    assert patch.area == 8


def test_classes_follow_the_order_of_the_file(tmp_path):
    found = write(tmp_path, content())
    assert found.labels == ("nut", "fig")
    assert found[0].classes.tolist() == [1]


def test_a_crowd_is_no_target_but_stays_in_the_ground_truth(tmp_path):
    found = write(tmp_path, one_annotation(iscrowd=1, segmentation=uncompressed(rectangle_mask())))
    assert len(found[0].masks) == 0
    assert len(found.ground_truth["annotations"]) == 1


def test_a_polygon_without_a_pixel_is_left_out(tmp_path):
    found = write(tmp_path, one_annotation(segmentation=[[2.0, 2.0, 2.1, 2.0, 2.1, 2.1]]))
    assert len(found[0].masks) == len(found[0].classes) == 0


def test_colours_come_out_as_rgb(tmp_path):
    red = np.zeros((*SIZE.hw, 3), np.uint8)
    red[..., 2] = 255
    assert write(tmp_path, content(), image=red)[0].image[0, 0].tolist() == [255, 0, 0]


def test_masks_of_the_real_set_equal_its_original_one_file_per_object(shared_dir):
    folder = shared_dir / "data" / "nuclei_dsb2018"
    sets = [CocoInstances(folder / f"instances_{part}.json", folder / "images") for part in ("train", "val")]
    seen = 0
    for dataset in sets:
        for index, entry in enumerate(dataset.images):
            raw = sorted((folder / "raw_masks" / entry.path.stem).rglob("*.png"))
            if not raw:
                continue
            wanted = {cv2.imread(str(file), cv2.IMREAD_GRAYSCALE).astype(bool).tobytes() for file in raw}
            assert {mask.tobytes() for mask in dataset[index].full_masks()} == wanted
            seen += 1
    assert seen == 12


@pytest.mark.parametrize(
    "what, message",
    [
        (one_annotation(image_id=8), "belongs to image 8"),
        (one_annotation(category_id=4), r"has category 4; `categories` lists \[5, 3\]"),
        (one_annotation(segmentation=[[1, 2, 3, 4]]), "at least three x, y pairs"),
        (one_annotation(segmentation=[]), "list of polygons is empty"),
        (one_annotation(segmentation="x"), "neither polygons nor RLE"),
        (one_annotation(segmentation={"size": [10, 8], "counts": [80]}), r"RLE of size \[10, 8\]"),
        (one_annotation(segmentation={"size": [8, 10], "counts": [3, 4]}), "add up to 7 pixels, the image has 80"),
        (content(annotations=[{"id": 1, "image_id": 7}]), "lacks category_id, segmentation"),
        (content(images=content()["images"] * 2), "two images share an id"),
        (content(categories=content()["categories"] * 2), "two categories share an id"),
        (content(images=[]), "lists no images"),
        (content(images=[{"id": 7}]), "lacks file_name, height, width"),
        ({"images": []}, "needs the lists images, annotations and categories"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, what, message):
    with pytest.raises(DatasetError, match=message):
        write(tmp_path, what)


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.json: no such annotation file"):
        CocoInstances(tmp_path / "none.json", tmp_path)


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "set.json").write_text("<html>")
    with pytest.raises(DatasetError, match=r"set\.json: not JSON"):
        CocoInstances(tmp_path / "set.json", tmp_path)


def test_an_image_that_is_not_there_is_named_when_read(tmp_path):
    found = write(tmp_path, content())
    (tmp_path / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"a\.png: image 7 of the annotations is not there"):
        found[0]


@pytest.mark.parametrize("left", [0, 30])
def test_a_cut_image_is_named_when_read(tmp_path, left):
    found = write(tmp_path, content())
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:left])
    with pytest.raises(DatasetError, match=r"a\.png: cannot be decoded"):
        found[0]


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path):
    found = write(tmp_path, content(), image=np.zeros((10, 8, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"has \[height, width\] \[10, 8\], the annotations say \[8, 10\]"):
        found[0]
