"""A whole data set checked on Ray: everything is looked at once, every fault is in the result, the driver sees little."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from rayseg.config.train import Settings
from rayseg.datasets.coco_masks import to_rle
from rayseg.datasets.layout import find_instance
from rayseg.errors import ConfigError, DatasetError
from rayseg.geometry import Size
from rayseg.pipeline import check_tasks
from rayseg.pipeline.check_dataset import check_dataset, check_from_settings
from rayseg.pipeline.check_tasks import CheckPlan, UrlReader, check_chunk, cut_coco
from tests.datasets.builders import annotation, coco, labels, shape, write_coco_set, write_image, write_labelme, write_pair

from .s3_server import no_other_credentials, serve_s3


@pytest.fixture
def good(tmp_path) -> Path:
    return write_coco_set(tmp_path / "set", coco([f"t{i}.png" for i in range(9)]), coco([f"v {i}.png" for i in range(5)]))


def counts(result: dict) -> dict[str, int]:
    return {row["kind"]: row["count"] for level in ("errors", "warnings") for row in result[level]}


def test_a_good_set_passes_with_paddlex_fields(ray_local, good, tmp_path):
    result = check_dataset(str(good), task="instance", out=str(tmp_path / "out"), demo_images=3, chunk_images=2)
    assert result == json.loads((tmp_path / "out" / "check_dataset_result.json").read_text())
    assert result["done_flag"] is True and result["check_pass"] is True and counts(result) == {}
    assert (result["dataset_path"], result["show_type"], result["dataset_type"]) == ("set", "image", "COCOInstSegDataset")
    found = result["attributes"]
    assert (found["num_classes"], found["train_samples"], found["val_samples"]) == (2, 9, 5)
    assert (found["train_images"], found["train_annotations"], found["train_objects"], found["train_crowds"]) == (9, 9, 9, 0)
    for split in ("train", "val"):
        paths = [tmp_path / "out" / name for name in found[f"{split}_sample_paths"]]
        assert len(paths) == 3 and all(cv2.imread(str(path)) is not None for path in paths)
    assert cv2.imread(str(tmp_path / "out" / result["analysis"]["histogram"])) is not None
    assert (tmp_path / "out" / result["findings"]).read_text() == ""


def test_samples_may_be_counted_as_paddlex_counts_them(ray_local, tmp_path):
    train = coco(["a.png"], annotations=[annotation(i, x=2 * i) for i in range(1, 6)])
    root = write_coco_set(tmp_path / "set", train, coco(["b.png"]))
    for flag, wanted in ((False, 1), (True, 5)):
        result = check_dataset(str(root), task="instance", out=str(tmp_path / "out"), paddlex_counts=flag)
        assert result["attributes"]["train_samples"] == wanted and result["attributes"]["train_annotations"] == 5


@dataclass(frozen=True)
class CountingReader(UrlReader):
    """Notes each file it reads."""

    folder: str = ""
    options: dict = field(default_factory=dict)

    def __call__(self, path: str) -> bytes:
        with open(os.path.join(self.folder, f"{os.getpid()}.log"), "a") as file:
            file.write(f"{path}\n")
        return super().__call__(path)


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_every_file_is_read_exactly_once(ray_local, good, tmp_path, monkeypatch, task):
    if task == "semantic":
        for split in ("train", "val"):
            lines = [write_pair(good, f"{split}{i}", labels(i), i) for i in range(7)]
            (good / f"{split}.txt").write_text("\n".join(lines))
    (tmp_path / "reads").mkdir()
    reader = CountingReader(folder=str(tmp_path / "reads"))
    monkeypatch.setattr("rayseg.pipeline.check_dataset.UrlReader", lambda options: reader)
    check_dataset(str(good), task=task, out=str(tmp_path / "out"), chunk_images=2)
    reads = Counter(line for path in (tmp_path / "reads").iterdir() for line in path.read_text().splitlines())
    assert set(reads.values()) == {1}
    assert len(reads) == (14 + 2 if task == "instance" else 28 + 2)


def test_planted_faults_are_all_in_the_result_and_the_rest_is_still_checked(ray_local, tmp_path):
    train = coco([f"t{i}.png" for i in range(12)])
    train["annotations"][0]["segmentation"] = [[1, 2, 3]]
    del train["annotations"][1]["segmentation"]
    train["annotations"][2]["bbox"] = [90, 90, 8, 8]
    train["annotations"][3]["id"] = 1
    train["images"][9]["file_name"] = "t8.png"
    val = coco(["t5.png", "v.png"], categories={1: "nut", 2: "date"})
    root = write_coco_set(tmp_path / "set", train, val)
    (root / "images" / "t4.png").unlink()
    (root / "images" / "t6.png").write_bytes((root / "images" / "t6.png").read_bytes()[:40])
    write_image(root / "images" / "t7.png", height=30)
    result = check_dataset(str(root), task="instance", out=str(tmp_path / "out"), chunk_images=5)
    assert result["check_pass"] is False
    assert counts(result) == {
        "mask-invalid": 1, "box-without-mask": 1, "box-outside": 1, "duplicate-annotation-id": 1, "duplicate-file-name": 1,
        "categories-differ": 2, "missing-image": 1, "unreadable-image": 1, "size-mismatch": 1, "image-in-both-splits": 1,
        "empty-image": 1, "box-disagrees": 1,
    }  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "out" / result["findings"]).read_text().splitlines()]
    assert Counter(row["kind"] for row in rows) == counts(result)
    assert all(row["file"] and row["problem"] and row["remedy"] for row in rows)
    assert [row["level"] for row in rows] == sorted((row["level"] for row in rows), key="error warning".index)
    assert result["attributes"]["train_objects"] == 10


def test_findings_of_one_kind_are_counted_beyond_those_kept(ray_local, tmp_path):
    root = write_coco_set(tmp_path / "set", coco([f"t{i:02}.png" for i in range(30)]), coco(["v.png"]))
    for path in (root / "images").glob("t*.png"):
        path.unlink()
    result = check_dataset(str(root), task="instance", out=str(tmp_path / "out"), max_findings=4, chunk_images=3)
    assert counts(result) == {"missing-image": 30}
    rows = [json.loads(line) for line in (tmp_path / "out" / result["findings"]).read_text().splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["t00.png", "t01.png", "t02.png", "t03.png"]


def test_a_semantic_set_is_checked_and_its_ids_are_judged_together(ray_local, tmp_path):
    for split, classes in (("train", 2), ("val", 3)):
        lines = [write_pair(tmp_path, f"{split} {i}", labels(i, classes=classes), i) for i in range(6)]
        (tmp_path / f"{split}.txt").write_text("\n".join([*lines, "no pair"]))
    result = check_dataset(str(tmp_path), task="semantic", out=str(tmp_path / "out"))
    assert counts(result) == {"line-invalid": 2, "class-only-in-val": 1} and not result["check_pass"]
    found = result["attributes"]
    assert (found["num_classes"], found["train_samples"], result["dataset_type"]) == (3, 7, "SegDataset")
    assert sum(found["pixel_share"].values()) == pytest.approx(1)
    (tmp_path / "labels.txt").write_text("background\nnut\n")
    assert counts(check_dataset(str(tmp_path), task="semantic", out=str(tmp_path / "out")))["ids-outside-classes"] >= 5


def test_an_image_that_takes_its_process_along_costs_itself_alone(ray_local, good, tmp_path, monkeypatch):
    reader = DeadlyReader(deadly="t4.png")
    monkeypatch.setattr("rayseg.pipeline.check_dataset.UrlReader", lambda options: reader)
    result = check_dataset(str(good), task="instance", out=str(tmp_path / "out"), chunk_images=2)
    assert counts(result) == {"check-failed": 1}
    assert result["errors"][0]["examples"][0].startswith(f"{good}/images/t4.png: ")
    assert result["attributes"]["train_objects"] == 8


@dataclass(frozen=True)
class DeadlyReader(UrlReader):
    """Ends the process that reads one file."""

    deadly: str = ""

    def __call__(self, path: str) -> bytes:
        if path.endswith(self.deadly):
            os._exit(1)
        return super().__call__(path)


def test_progress_ends_at_all_images(ray_local, good, tmp_path):
    seen = []
    check_dataset(str(good), task="instance", out=str(tmp_path / "out"), chunk_images=2, on_progress=seen.append)
    assert seen[-1].done == seen[-1].total == 14
    assert [one.done for one in seen] == sorted(one.done for one in seen)


def test_settings_convert_then_split_then_check(ray_local, tmp_path):
    for i in range(10):
        write_labelme(tmp_path / "labelme" / f"{i}.json", [shape("nut", [[2, 2], [14, 2], [2, 14]])], seed=i)
    settings = Settings.from_mapping(
        {
            "Global": {"model": "PP-YOLOE_seg-S", "dataset_dir": str(tmp_path), "output": str(tmp_path / "out")},
            "CheckDataset": {
                "convert": {"enable": True, "src_dataset_type": "LabelMe"},
                "split": {"enable": True, "train_percent": 70, "val_percent": 30},
            },
        }
    )
    result = check_from_settings(settings, task="instance")
    assert result["check_pass"] and (result["attributes"]["train_images"], result["attributes"]["val_images"]) == (7, 3)
    assert (tmp_path / "annotations" / "instance_train.json.bak").is_file()


def test_what_cannot_be_checked_stops_before_any_work(ray_local, tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        check_dataset(str(tmp_path / "none"), task="instance", out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="task 'panoptic'"):
        check_dataset(str(tmp_path), task="panoptic", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_annotation_file_that_is_not_json_is_a_finding(ray_local, good, tmp_path):
    (good / "annotations" / "instance_val.json").write_text("{")
    result = check_dataset(str(good), task="instance", out=str(tmp_path / "out"))
    assert counts(result) == {"unreadable-annotations": 1} and result["attributes"]["train_objects"] == 9


def test_one_process_without_ray_looks_at_a_chunk(good):
    plan = CheckPlan(UrlReader(), chunk_images=4, demo_images=2, seed=0, max_findings=9)
    head, names, *chunks = cut_coco(find_instance(good).train, plan)
    assert head.usable == len(names) == 9 and head.chunks == len(chunks) == 3
    reports = [check_chunk(chunk, plan, slice(0, 4)) for chunk in chunks]
    assert sum(one.images for one in reports) == 9 and sum(len(one.pictures) for one in reports) == 2


def test_remote_files_are_read_ahead_once_each_and_in_any_order():
    read = Counter()

    def reader(path: str) -> bytes:
        read[path] += 1
        if path.endswith("7"):
            raise FileNotFoundError(path)
        return path.encode()

    paths = [f"s3://b/{i}" for i in range(30)]
    with check_tasks._reading_ahead(reader, paths) as get:
        for path in paths[:5] + paths[10:]:
            if path.endswith("7"):
                with pytest.raises(FileNotFoundError):
                    get(path)
            else:
                assert get(path) == path.encode()
    assert set(read) <= set(paths) and max(read.values()) == 1


def test_a_bucket_is_checked_like_a_folder(ray_local, good, tmp_path):
    pytest.importorskip("s3fs")
    local = check_dataset(str(good), task="instance", out=str(tmp_path / "out"), chunk_images=3)
    (good / "images" / "t3.png").unlink()
    with no_other_credentials(), serve_s3(tmp_path) as s3:
        (tmp_path / "results").mkdir()
        result = check_dataset(
            "s3://set", task="instance", out="s3://results/run", chunk_images=3, options=s3.options, out_options=s3.options
        )
        written = sorted(path.name for path in (tmp_path / "results" / "run").rglob("*") if path.is_file())
    assert counts(result) == {"missing-image": 1}
    assert result["attributes"]["train_images"] == local["attributes"]["train_images"]
    assert {"check_dataset_result.json", "findings.jsonl", "histogram.png"} <= set(written)


@pytest.mark.parametrize("name, images, objects", [("coco_ccby", 125, 1129), ("nuclei_dsb2018", 139, 5966)])
def test_real_sets_pass(ray_local, shared_dir, tmp_path, name, images, objects):
    result = check_dataset(str(shared_dir / "data" / name), task="instance", out=str(tmp_path))
    found = result["attributes"]
    assert result["check_pass"] and found["train_images"] + found["val_images"] == images
    assert found["train_objects"] + found["val_objects"] == objects


def test_the_real_set_with_lossy_masks_does_not_pass(ray_local, shared_dir, tmp_path):
    folder = shared_dir / "data" / "optic_disc_idrid"
    for part in ("images", "masks", "masks_lossy_jpg", "labels.txt"):
        (tmp_path / part).symlink_to(folder / part)
    (tmp_path / "train.txt").write_text("".join(f"images/IDRiD_0{i}.jpg masks_lossy_jpg/IDRiD_0{i}_OD.jpg\n" for i in (1, 2, 3)))
    (tmp_path / "val.txt").write_text("images/IDRiD_04.jpg masks/IDRiD_04.png\n")
    result = check_dataset(str(tmp_path), task="semantic", out=str(tmp_path / "out"))
    assert not result["check_pass"] and counts(result) == {"lossy-mask": 3}


def test_what_is_drawn_is_the_annotation(tmp_path):
    root = write_coco_set(tmp_path, coco(["a.png"]), coco(["b.png"]))
    cv2.imwrite(str(root / "images" / "a.png"), np.full((24, 32, 3), 90, np.uint8))
    plan = CheckPlan(UrlReader(), chunk_images=4, demo_images=1, seed=0, max_findings=9)
    _, _, chunk = cut_coco(find_instance(root).train, plan)
    ((_, data),) = check_chunk(chunk, plan, slice(0, 4)).pictures
    changed = abs(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int) - 90).max(axis=2)
    window = to_rle(coco(["a.png"])["annotations"][0]["segmentation"], Size(24, 32)).extent
    assert changed[window.slices].min() > 15
    assert changed[21:].max() < 15  # a JPEG is not exact, and the name is written over the object
