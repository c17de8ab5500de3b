"""Conversions: the same objects come out, nothing is written when anything is wrong, old files stay."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rayseg.datasets.coco import CocoInstances
from rayseg.datasets.coco_masks import to_rle
from rayseg.datasets.convert import convert
from rayseg.datasets.layout import find_instance, find_semantic
from rayseg.datasets.semantic import SemanticPairs
from rayseg.errors import ConfigError, DatasetError
from rayseg.geometry import Size
from rayseg.polygons import rasterize

from .builders import picture, shape, write_image, write_labelme, write_voc

TRIANGLE = [[2.0, 2.0], [14.0, 2.0], [2.0, 14.0]]
BLOCK = [[8.0, 4.0], [20.0, 4.0], [20.0, 16.0], [8.0, 16.0]]


def sets(root: Path) -> list[CocoInstances]:
    found = find_instance(root)
    return [CocoInstances(one.annotations, one.images) for one in (found.train, found.val)]


@pytest.fixture
def drawn(tmp_path) -> Path:
    """Five LabelMe files; "date" is in the last alone."""
    for number in range(5):
        shapes = [shape("nut", TRIANGLE), shape("fig" if number < 4 else "date", BLOCK)]
        write_labelme(tmp_path / "labelme" / f"{number} x.json", shapes, seed=number)
    return tmp_path


def write_lists(root: Path, **lists: list[str]) -> None:
    for split, names in lists.items():
        (root / f"{split}_anno_list.txt").write_text("".join(f"labelme/{name}.json\n" for name in names))


def test_the_two_forms_of_the_real_set_hold_the_same_objects(shared_dir, tmp_path):
    source = shared_dir / "data" / "fruits_nuts"
    for part in ("labelme", "images"):
        (tmp_path / part).mkdir()
        for path in (source / part).iterdir():
            (tmp_path / part / path.name).symlink_to(path)
    done = convert(tmp_path, task="instance", source="LabelMe")
    truth = json.loads((source / "trainval.json").read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    classes = {category["id"]: category["name"] for category in truth["categories"]}
    wanted: dict[tuple[str, str], list[dict]] = {}
    for one in truth["annotations"]:
        size = next(Size(i["height"], i["width"]) for i in truth["images"] if i["id"] == one["image_id"])
        key = (names[one["image_id"]], classes[one["category_id"]])
        wanted.setdefault(key, []).append(to_rle(one["segmentation"], size).to_coco())
    assert (done.images, done.objects) == (18, len(truth["annotations"])) == (18, 165)
    ious = []
    for dataset in sets(tmp_path):
        for entry in dataset.images:
            for one in entry.annotations:
                mask = to_rle(one["segmentation"], entry.size).to_coco()
                others = wanted[entry.path.name, dataset.labels[dataset.class_of[one["category_id"]]]]
                found = coco_mask.iou([mask], others, [0] * len(others))[0]
                ious.append(found.max())
                others.pop(int(found.argmax()))
    assert len(ious) == 165 and not any(wanted.values())
    assert min(ious) == 1.0


def test_both_files_list_all_classes(drawn):
    write_lists(drawn, train=["0 x", "1 x", "2 x"], val=["3 x", "4 x"])
    convert(drawn, task="instance", source="LabelMe")
    train, val = sets(drawn)
    assert train.labels == val.labels == ("nut", "fig", "date")
    assert (len(train), len(val)) == (3, 2)
    assert {entry.uri for one in (train, val) for entry in one.images} == {f"{drawn}/images/{i} x.png" for i in range(5)}


def test_boxes_and_areas_are_those_of_the_masks(drawn):
    convert(drawn, task="instance", source="LabelMe")
    for dataset in sets(drawn):
        for sample, entry in zip(dataset, dataset.images, strict=True):
            for patch, one in zip(sample.masks, entry.annotations, strict=True):
                w = patch.window
                assert one["bbox"] == [w.x0, w.y0, w.width, w.height] and one["area"] == patch.area


def test_without_a_list_the_files_are_split_by_the_seed(drawn):
    def convert_with(seed: int) -> list[str]:
        convert(drawn, task="instance", source="LabelMe", train_percent=60, seed=seed)
        return [entry.path.name for entry in sets(drawn)[0].images]

    first = convert_with(0)
    assert len(first) == 3 and convert_with(0) == first
    assert any(convert_with(seed) != first for seed in range(1, 5))


def test_one_list_is_split_and_kept(drawn):
    write_lists(drawn, train=[f"{i} x" for i in range(5)])
    before = (drawn / "train_anno_list.txt").read_text()
    done = convert(drawn, task="instance", source="LabelMe")
    assert (drawn / "train_anno_list.txt.bak").read_text() == before
    lists = [(drawn / f"{split}_anno_list.txt").read_text().splitlines() for split in ("train", "val")]
    assert [len(one) for one in lists] == [4, 1] and sorted(lists[0] + lists[1]) == before.splitlines()
    assert f"{drawn}/train_anno_list.txt.bak" in done.backups


def test_names_given_set_the_order_and_must_be_complete(drawn):
    convert(drawn, task="instance", source="LabelMe", class_names=("date", "fig", "nut"))
    assert sets(drawn)[0].labels == ("date", "fig", "nut")
    (drawn / "labels.txt").write_text("__ignore__\n_background_\nnut\nfig\n")
    with pytest.raises(DatasetError, match="labels that the list of classes lacks: 'date'"):
        convert(drawn, task="instance", source="LabelMe")


def test_all_bad_files_are_named_and_nothing_is_written(drawn):
    write_labelme(drawn / "labelme" / "1 x.json", [shape("nut", TRIANGLE[:2])])
    (drawn / "images" / "3 x.png").unlink()
    with pytest.raises(DatasetError, match=r"(?s)2 files cannot be converted:.*1 x\.json: shape 0.*3 x\.json: its photo"):
        convert(drawn, task="instance", source="LabelMe")
    assert not (drawn / "annotations").exists()


def test_a_photo_that_is_in_the_file_alone_is_written(tmp_path):
    for number in range(2):
        data = base64.b64encode(cv2.imencode(".png", picture(number))[1]).decode()
        file = write_labelme(tmp_path / f"{number}.json", [shape("nut", TRIANGLE)], image="{}.png", imageData=data)
        file.with_suffix(".png").unlink()
    convert(tmp_path, task="instance", source="LabelMe")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["0.png", "1.png"]
    assert (cv2.imread(str(tmp_path / "images" / "1.png")) == picture(1)).all()


def test_an_object_without_a_pixel_is_left_out_and_said(tmp_path):
    for number in range(2):
        thin = shape("nut", [[1.0, 1.0], [1.01, 1.0], [1.0, 1.01]])
        write_labelme(tmp_path / "labelme" / f"{number}.json", [shape("nut", BLOCK), thin, shape("__ignore__", BLOCK)])
    done = convert(tmp_path, task="instance", source="LabelMe")
    assert done.objects == 2 and done.class_names == ("nut",)
    assert sum("covers no pixel" in w for w in done.warnings) == sum("means no object" in w for w in done.warnings) == 2


def test_label_maps_hold_what_was_drawn_last(drawn):
    write_labelme(
        drawn / "labelme" / "0 x.json",
        [shape("nut", BLOCK), shape("fig", TRIANGLE), shape("__ignore__", [[20, 18], [30, 18], [30, 22], [20, 22]])],
    )
    done = convert(drawn, task="semantic", source="LabelMe")
    found = find_semantic(drawn)
    assert found.class_names == done.class_names == ("_background_", "nut", "fig", "date")
    samples = {
        sample.name: sample.labels
        for file in (found.train, found.val)
        for sample in SemanticPairs(file, found.images, num_classes=4)
    }
    size = Size(24, 32)
    wanted = np.zeros(size.hw, np.uint8)
    for value, points in ((1, BLOCK), (2, TRIANGLE), (255, [[20, 18], [30, 18], [30, 22], [20, 22]])):
        wanted[rasterize([np.ravel(points)], size)] = value
    assert (samples["0 x.png"] == wanted).all() and set(np.unique(wanted)) == {0, 1, 2, 255}
    assert len(samples) == 5


@pytest.mark.parametrize("lists", [True, False])
def test_voc_objects_come_out_pixel_for_pixel(tmp_path, lists):
    rng = np.random.default_rng(1)
    truth = {}
    for number in range(4):
        objects = np.kron(rng.choice([0, 1, 2, 7, 255], (5, 6)), np.ones((5, 5))).astype(np.uint8)
        classes = np.array([0, 3, 5, *[0] * 4, 3, *[0] * 247, 255], np.uint8)[objects]
        write_voc(tmp_path, f"im {number}" if not lists else f"im{number}", objects, classes, seed=number)
        truth[number] = {
            (int(classes[objects == i][0]), (objects == i).tobytes()) for i in np.unique(objects) if i not in (0, 255)
        }
    if lists:
        (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
        for split, names in (("train", "im0\nim1\nim2\n"), ("val", "im3\n")):
            (tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)
    done = convert(tmp_path, task="instance", source="VOC")
    assert "VOC 2012" in done.warnings[0] and done.class_names[2] == "bird"
    found = {}
    for dataset in sets(tmp_path):
        for sample in dataset:
            number = int(Path(sample.name).stem[-1])
            found[number] = {(int(c) + 1, mask.tobytes()) for c, mask in zip(sample.classes, sample.full_masks(), strict=True)}
    assert found == truth


def test_real_nuclei_survive_the_way_through_voc(shared_dir, tmp_path):
    """One PNG an object -> VOC's index images -> COCO: the same masks."""
    raw = shared_dir / "data" / "nuclei_dsb2018" / "raw_masks"
    truth = {}
    for folder in sorted(raw.iterdir()):
        masks = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0 for path in sorted(folder.rglob("*.png"))]
        if len(masks) < 200 and not (np.sum(masks, axis=0) > 1).any():
            objects = sum(mask * np.uint8(i) for i, mask in enumerate(masks, 1)).astype(np.uint8)
            write_voc(tmp_path, folder.name, objects, (objects > 0).astype(np.uint8))
            truth[folder.name] = {mask.tobytes() for mask in masks}
    (tmp_path / "labels.txt").write_text("background\nnucleus\n")
    done = convert(tmp_path, task="instance", source="VOC")
    assert done.class_names == ("nucleus",) and done.images == len(truth) >= 8
    found = {
        Path(sample.name).stem: {m.tobytes() for m in sample.full_masks()} for dataset in sets(tmp_path) for sample in dataset
    }
    assert found == truth


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda o, c: c.__setitem__(o == 1, 0), "object 1 has no class under it"),
        (lambda o, c: c.__setitem__((slice(0, 2), slice(0, 2)), 4), "object 1 lies on the classes 3, 4"),
    ],
)
def test_an_object_of_no_class_or_several_is_refused(tmp_path, change, message):
    for name in ("a", "b"):
        objects = np.zeros((10, 10), np.uint8)
        objects[:5, :5] = 1
        classes = objects * np.uint8(3)
        change(objects, classes)
        write_voc(tmp_path, name, objects, classes)
    with pytest.raises(DatasetError, match=message):
        convert(tmp_path, task="instance", source="VOC")


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"task": "instance", "source": "Labelme"}, ConfigError, "did you mean 'LabelMe'"),
        ({"task": "semantic", "source": "VOC"}, ConfigError, "index masks already"),
        ({"task": "instance", "source": "LabelMe"}, DatasetError, "no LabelMe files"),
        ({"task": "instance", "source": "VOC"}, DatasetError, "no VOC instance masks"),
        ({"task": "instance", "source": "LabelMe", "train_percent": 100}, ConfigError, "between 0 and 100"),
    ],
)
def test_what_cannot_be_converted_says_why(tmp_path, settings, error, message):
    write_image(tmp_path / "images" / "a.png")
    with pytest.raises(error, match=message):
        convert(tmp_path, **settings)
