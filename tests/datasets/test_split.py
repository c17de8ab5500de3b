"""Splits: nothing is lost or doubled, the seed alone decides, and old files stay."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.datasets.coco import CocoInstances
from rayseg.datasets.layout import find_instance
from rayseg.datasets.semantic import SemanticPairs
from rayseg.datasets.split import chosen_for_training, split
from rayseg.errors import ConfigError, DatasetError

from .builders import annotation, coco, labels, write_coco_set, write_pair

EIGHTY = {"train_percent": 80, "val_percent": 20}


def read(root):
    return [json.loads((root / "annotations" / f"instance_{part}.json").read_text()) for part in ("train", "val")]


def objects(*contents) -> list:
    """What is annotated, whatever the ids."""
    out = []
    for content in contents:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        out += [(names[a["image_id"]], a["category_id"], str(a["segmentation"])) for a in content["annotations"]]
    return sorted(out)


@pytest.fixture
def dataset(tmp_path):
    train = coco([f"t{i}.png" for i in range(8)])
    val = coco([f"v{i}.png" for i in range(4)])
    for number, one in enumerate([*train["annotations"], *val["annotations"]]):
        one["segmentation"] = [[number, 0, number + 5, 0, number + 5, 6, number, 6]]
    return write_coco_set(tmp_path, train, val)


def test_every_object_is_on_exactly_one_side(dataset):
    before = objects(*read(dataset))
    done = split(dataset, task="instance", **EIGHTY)
    train, val = read(dataset)
    assert objects(train, val) == before
    assert (done.train_images, done.val_images) == (len(train["images"]), len(val["images"])) == (10, 2)
    for content in (train, val):
        ids = {image["id"] for image in content["images"]}
        assert {a["image_id"] for a in content["annotations"]} <= ids
        assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])


def test_splitting_again_gives_the_same_and_another_seed_another(dataset):
    split(dataset, task="instance", **EIGHTY, seed=3)
    first = read(dataset)
    split(dataset, task="instance", train_percent=50, val_percent=50, seed=9)
    assert read(dataset) != first
    split(dataset, task="instance", **EIGHTY, seed=3)
    assert read(dataset) == first
    seeds = [tuple(sorted(chosen_for_training([str(i) for i in range(20)], 50, seed))) for seed in range(5)]
    assert len(set(seeds)) == 5


def test_all_old_files_are_kept(dataset):
    original = (dataset / "annotations" / "instance_train.json").read_bytes()
    split(dataset, task="instance", **EIGHTY)
    done = split(dataset, task="instance", train_percent=50, val_percent=50)
    assert (dataset / "annotations" / "instance_train.json.bak").read_bytes() == original
    assert {path.rpartition("/")[2] for path in done.backups} == {"instance_train.json.bak.1", "instance_val.json.bak.1"}


def test_images_in_two_folders_end_up_in_one_list(tmp_path):
    from .builders import write_image

    (tmp_path / "annotations").mkdir()
    for part in ("train", "val"):
        (tmp_path / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(coco(["1.png", "2.png", "3.png"])))
        for i in (1, 2, 3):
            write_image(tmp_path / f"{part}2017" / f"{i}.png", i)
    split(tmp_path, task="instance", **EIGHTY)
    found = find_instance(tmp_path)
    sets = [CocoInstances(one.annotations, one.images) for one in (found.train, found.val)]
    assert [len(one) for one in sets] == [5, 1]
    assert sorted(entry.uri for one in sets for entry in one.images) == [
        f"{tmp_path}/{part}2017/{i}.png" for part in ("train", "val") for i in (1, 2, 3)
    ]
    assert all(len(sample.masks) == 1 for one in sets for sample in one)


@pytest.mark.parametrize(
    "val, message",
    [
        (coco(["t1.png"]), "t1.png is listed twice"),
        (coco(["v.png"], categories={1: "nut", 2: "date"}), "category 2: date clashes"),
        (coco(["v.png"], categories={1: "nut", 3: "fig"}), "category 3: fig clashes"),
        (coco(["v.png"], annotations=[annotation(5, 99)]), "annotation 5 belongs to image 99"),
    ],
)
def test_files_that_do_not_fit_together_are_refused_and_nothing_is_written(tmp_path, val, message):
    write_coco_set(tmp_path, coco([f"t{i}.png" for i in range(4)]), val)
    before = sorted(path.name for path in (tmp_path / "annotations").iterdir())
    with pytest.raises(DatasetError, match=message):
        split(tmp_path, task="instance", **EIGHTY)
    assert sorted(path.name for path in (tmp_path / "annotations").iterdir()) == before


def test_lists_are_split_and_names_with_spaces_survive(tmp_path):
    lines = [write_pair(tmp_path, name, labels(i), i) for i, name in enumerate(["a", "b c", "d", "e f g", "h"])]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    done = split(tmp_path, task="semantic", train_percent=60, val_percent=40)
    assert (done.train_images, done.val_images) == (3, 2)
    found = [SemanticPairs(tmp_path / f"{part}.txt", tmp_path) for part in ("train", "val")]
    assert sorted(sample.name for one in found for sample in one) == ["a.jpg", "b c.jpg", "d.jpg", "e f g.jpg", "h.jpg"]
    assert (tmp_path / "train.txt.bak").read_text() == "\n".join(lines)


@given(st.sets(st.text("abc", min_size=1), min_size=2, max_size=30), st.floats(1, 99), st.integers(0, 9))
def test_both_sides_get_their_share_and_never_nothing(names, percent, seed):
    chosen = chosen_for_training(sorted(names), percent, seed)
    assert chosen < names and len(chosen) >= 1
    assert abs(len(chosen) - len(names) * percent / 100) <= 1


@pytest.mark.parametrize("train, val", [(80, 30), (100, 0), (0, 100), (-20, 120), (float("nan"), 20)])
def test_percentages_that_are_no_split_are_refused(tmp_path, train, val):
    with pytest.raises(ConfigError, match="must be above 0 and add up to 100"):
        split(tmp_path, task="instance", train_percent=train, val_percent=val)


def test_one_image_cannot_be_split(tmp_path):
    (tmp_path / "train.txt").write_text("a.jpg a.png")
    with pytest.raises(DatasetError, match="cannot be split in two"):
        split(tmp_path, task="semantic", **EIGHTY)
    with pytest.raises(DatasetError, match="neither train.txt nor val.txt"):
        split(tmp_path / "..", task="semantic", **EIGHTY)
