"""A job is scored from its tables: as its rows would score by hand, whatever the commits, with failed and absent images told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rayseg.datasets.index_mask import write_index_mask
from rayseg.errors import ConfigError, DatasetError, OutputError
from rayseg.geometry import Size
from rayseg.metrics.mask_ap import box_ap, mask_ap
from rayseg.metrics.mean_iou import ConfusionMatrix
from rayseg.pipeline.score_job import Names, score_job
from rayseg.pipeline.storage import Store
from rayseg.results import Instances, SemanticMap
from rayseg.tables import Unit
from tests.pipeline.handmade import Done, discs, write_out

LABELS = ["cat", "dog"]
CATEGORY = {"cat": 40, "dog": 7}


def job(tmp_path: Path, *, chunk_images: int = 2, failed: tuple[int, ...] = (), n: int = 6) -> tuple[Store, list[Done]]:
    """Images /in/a/00.png, ... with as many discs as their number."""
    done = [Done(Unit(f"/in/a/{i:02d}.png"), discs(Size(60 + i, 80), i, seed=i, n_classes=2)) for i in range(n)]
    done = [Done(d.unit, ("decode", "cut short")) if i in failed else d for i, d in enumerate(done)]
    return Store(str(write_out(tmp_path, done, labels=LABELS, chunk_images=chunk_images))), done


def truth_file(path: Path, *, names: str = "a/{:02d}.png", n: int = 6, changes: dict | None = None) -> str:
    """Mostly the discs of `job`: each image lacks its first and has one of another seed. Its ids are its own."""
    images, annotations = [], []
    for i in range(n):
        size = Size(60 + i, 80)
        images.append({"id": 900 - i, "file_name": names.format(i), "height": size.height, "width": size.width})
        for found in (discs(size, i, seed=i, n_classes=2).select(range(1, i)), discs(size, 1, seed=100 + i)):
            for label, mask in zip(found.class_ids.tolist(), found.masks, strict=True):
                rle = {"size": list(size.hw), "counts": mask.counts.decode()}
                row = {"image_id": 900 - i, "category_id": CATEGORY[LABELS[label]], "segmentation": rle, "area": mask.area}
                annotations.append({"id": len(annotations), "iscrowd": 0, **row})
    categories = [{"id": number, "name": name} for name, number in CATEGORY.items()]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories} | (changes or {})))
    return str(path)


def rows_of(done: list[Done], *, failed: tuple[int, ...] = ()) -> list[dict]:
    rows = []
    for i, item in enumerate(done):
        if i in failed:
            continue
        found = item.result
        for box, score, label, mask in zip(found.boxes_xyxy, found.scores, found.class_ids, found.masks, strict=True):
            x0, y0, x1, y1 = box.tolist()
            row = {"image_id": 900 - i, "category_id": CATEGORY[LABELS[label]], "score": float(score)}
            rows.append(row | {"segmentation": mask.to_coco(), "bbox": [x0, y0, x1 - x0, y1 - y0]})
    return rows


@pytest.mark.parametrize("chunk_images", [1, 2, 100])
def test_scores_are_those_of_the_rows(tmp_path, chunk_images):
    store, done = job(tmp_path / "out", chunk_images=chunk_images)
    truth = truth_file(tmp_path / "truth.json")
    found = score_job(store, truth)
    content = json.loads(Path(truth).read_text())
    np.testing.assert_equal(found.evaluation.mask, mask_ap(content, rows_of(done)))
    np.testing.assert_equal(found.evaluation.box, box_ap(content, rows_of(done)))
    assert 0.3 < found.evaluation.mask.ap < 1
    assert (found.failed, found.absent, found.unlisted, found.evaluation.images) == ((), (), 0, 6)


def test_tasks_on_a_cluster_give_the_same(tmp_path, ray_local):
    store, _ = job(tmp_path / "out")
    truth = truth_file(tmp_path / "truth.json")
    assert score_job(store, truth, parallel=True).to_json() == score_job(store, truth).to_json()
    (Path(store.url) / "objects").joinpath(min(store.list("objects"))).write_bytes(b"gone")
    with pytest.raises(OutputError, match=r"cannot be read .*`rayseg verify"):
        score_job(store, truth, parallel=True)


def test_a_failed_image_counts_with_nothing_found_and_is_listed(tmp_path):
    store, done = job(tmp_path / "out", failed=(3, 5))
    truth = truth_file(tmp_path / "truth.json")
    found = score_job(store, truth)
    whole, _ = job(tmp_path / "whole")
    np.testing.assert_equal(found.evaluation.mask, mask_ap(json.loads(Path(truth).read_text()), rows_of(done, failed=(3, 5))))
    assert found.evaluation.mask.ap < score_job(whole, truth).evaluation.mask.ap
    assert found.failed == (("/in/a/03.png", "decode", "cut short"), ("/in/a/05.png", "decode", "cut short"))
    assert found.to_json()["job"]["failed"][0] == {"file": "/in/a/03.png", "stage": "decode", "reason": "cut short"}
    assert "2 images failed in the job and are counted with nothing found: /in/a/03.png" in found.to_text()


def test_images_of_one_side_only_are_left_out_and_told(tmp_path):
    store, done = job(tmp_path / "out", n=4)
    truth = truth_file(tmp_path / "truth.json")
    content = json.loads(Path(truth).read_text())
    found = score_job(store, truth)
    kept = [image for image in content["images"] if image["id"] > 896]
    rows = [row for row in content["annotations"] if row["image_id"] > 896]
    np.testing.assert_equal(found.evaluation.mask, mask_ap(content | {"images": kept, "annotations": rows}, rows_of(done)))
    assert found.absent == ("a/04.png", "a/05.png") and found.evaluation.images == 4
    assert "2 images of the truth are not done by the job and are left out: a/04.png" in found.to_text()
    bigger, _ = job(tmp_path / "bigger")
    found = score_job(bigger, truth_file(tmp_path / "small.json", n=2))
    assert found.unlisted == 4 and "4 images of the job are not in the truth" in found.to_text()


@pytest.mark.parametrize("folder", ["", "./", "a/", "a\\", "/in/a/", "old/", "s3://bucket/a/"])
def test_images_are_found_by_the_end_of_their_path(tmp_path, folder):
    store, _ = job(tmp_path / "out")
    assert score_job(store, truth_file(tmp_path / "truth.json", names=folder + "{:02d}.png")).absent == ()


def test_a_file_of_the_same_name_in_another_folder_is_another_image(tmp_path):
    done = [Done(Unit(f"/in/{folder}/00.png"), discs(Size(60, 80), 2, seed=1, n_classes=2)) for folder in "ab"]
    store = Store(str(write_out(tmp_path / "out", done, labels=LABELS)))
    found = score_job(store, truth_file(tmp_path / "truth.json", n=1))
    assert (found.evaluation.images, found.unlisted) == (1, 1)


def test_folders_tell_files_of_one_name_apart_and_doubt_is_refused():
    two = Names([(("a/0.png", 0), 1), (("b/0.png", 0), 2), (("c.tif", 0), 3), (("c.tif", 1), 4)])
    assert [two.find(uri, 0) for uri in ("/in/a/0.png", "s3://x/b/0.png", "file:///in/a/0.png")] == [1, 2, 1]
    assert [two.find("c.tif", page) for page in (0, 1, 2)] == [3, 4, None]
    with pytest.raises(DatasetError, match=r"/in/0\.png: could be any of 2 images of the truth: a/0\.png, b/0\.png"):
        two.find("/in/0.png", 0, whole=False)


def test_two_images_of_the_job_for_one_of_the_truth_are_refused(tmp_path):
    done = [Done(Unit(f"/in/{f}/00.png"), discs(Size(60, 80), 2, seed=1, n_classes=2)) for f in "ab"]
    store = Store(str(write_out(tmp_path / "out", done, labels=LABELS, chunk_images=1)))
    with pytest.raises(DatasetError, match="1 images of the truth stand for several images of the job, such as 900"):
        score_job(store, truth_file(tmp_path / "truth.json", names="{:02d}.png"))


def test_a_threshold_that_cuts_the_curve_short_is_told(tmp_path):
    store, _ = job(tmp_path / "out")
    found = score_job(store, truth_file(tmp_path / "truth.json"))
    assert found.threshold == 0.5 and "the job kept objects above 0.5 only" in found.to_text()
    assert not replace(found, threshold=0.01).notes()


def test_other_names_of_classes_can_be_told(tmp_path):
    store, _ = job(tmp_path / "out")
    plain = score_job(store, truth_file(tmp_path / "truth.json"))
    renamed = {"categories": [{"id": 40, "name": "feline"}, {"id": 7, "name": "dog"}]}
    truth = truth_file(tmp_path / "renamed.json", changes=renamed)
    half = score_job(store, truth).evaluation
    assert half.unknown == ("cat",) and half.lacking == ("feline",) and half.mask.per_class[40].ap == 0
    same = score_job(store, truth, rename={"cat": "feline"}).evaluation
    np.testing.assert_equal(same.mask, plain.evaluation.mask)


def maps(tmp_path: Path, *, failed: tuple[int, ...] = ()) -> tuple[Store, list[np.ndarray], Path]:
    """A semantic job, its label maps, and a folder with masks that differ from them here and there."""
    rng, done, found = np.random.default_rng(0), [], []
    folder = tmp_path / "masks"
    folder.mkdir(parents=True)
    for i in range(5):
        labels = np.kron(rng.integers(0, 3, (5, 6)), np.ones((8, 8), int)).astype(np.uint8)
        truth = labels.copy()
        truth[: 2 * i] = rng.integers(0, 3, truth[: 2 * i].shape)
        truth[-1] = 255
        (folder / f"{i}.png").write_bytes(write_index_mask(truth))
        done.append(Done(Unit(f"/in/{i}.jpg"), ("fetch", "gone") if i in failed else SemanticMap(labels)))
        found.append(labels)
    names = [f"/in/{i}.jpg {folder}/{i}.png" for i in range(5)]
    (tmp_path / "val.txt").write_text("\n".join(names))
    out = write_out(tmp_path / "out", done, labels=["sky", "sea", "land"], task="semantic", chunk_images=2)
    return Store(str(out)), found, folder


@pytest.mark.parametrize("source", ["masks", "val.txt"])
@pytest.mark.parametrize("failed", [(), (2,)])
def test_label_maps_are_scored_against_index_masks(tmp_path, source, failed):
    store, labels, folder = maps(tmp_path, failed=failed)
    from rayseg.datasets.index_mask import read_index_mask

    counts = ConfusionMatrix.empty(3)
    for i, found in enumerate(labels):
        if i not in failed:
            counts += ConfusionMatrix.of(found, read_index_mask((folder / f"{i}.png").read_bytes()), num_classes=3)
    found = score_job(store, str(tmp_path / source))
    assert (found.evaluation.confusion.counts == counts.counts).all() and 0.5 < found.evaluation.scores.miou < 1
    assert found.evaluation.images == 5 - len(failed) and len(found.failed) == len(failed) and found.threshold is None
    if failed:
        assert "1 images failed in the job and are left out: /in/2.jpg" in found.to_text()


def test_an_image_without_objects_is_scored_too(tmp_path):
    done = [Done(Unit("/in/a/00.png"), Instances.none(Size(60, 80)))]
    store = Store(str(write_out(tmp_path / "out", done, labels=LABELS)))
    found = score_job(store, truth_file(tmp_path / "truth.json", n=1)).evaluation
    assert found.images == 1 and found.mask.ap == 0.0


def test_what_cannot_be_scored_is_refused(tmp_path):
    store, _ = job(tmp_path / "out")
    truth = truth_file(tmp_path / "truth.json")
    with pytest.raises(OutputError, match=r"no job\.json there"):
        score_job(Store(str(tmp_path)), truth)
    with pytest.raises(DatasetError, match=r"none of its images is in the truth, which lists x0\.png, x1\.png"):
        score_job(store, truth_file(tmp_path / "other.json", names="x{}.png"))
    with pytest.raises(DatasetError, match="no such annotation file"):
        score_job(store, str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match=r"masks: the job found instances; their truth is a COCO \.json file"):
        score_job(store, str(tmp_path / "masks"))
    with pytest.raises(ConfigError, match="images 'x' is set, but a COCO file is matched by its file names"):
        score_job(store, truth, images="x")
    turned = [{"id": 900, "file_name": "00.png", "height": 80, "width": 60}]
    with pytest.raises(DatasetError, match=r"image 900 has \[height, width\] \[60, 80\], the ground truth says \[80, 60\]"):
        score_job(store, truth_file(tmp_path / "turned.json", changes={"images": turned, "annotations": []}))
    semantic, _, folder = maps(tmp_path / "semantic")
    with pytest.raises(ConfigError, match="the job made label maps; their truth is a list"):
        score_job(semantic, truth)
    with pytest.raises(ConfigError, match="rename is for COCO files"):
        score_job(semantic, str(folder), rename={"sky": "air"})
    (folder / "1.png").write_bytes(write_index_mask(np.full((40, 48), 5, np.uint8)))
    with pytest.raises(DatasetError, match=r"1\.png: label map holds class 5, outside the 3 classes"):
        score_job(semantic, str(folder))
    (folder / "1.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"1\.png: no usable mask"):
        score_job(semantic, str(folder))
    (tmp_path / "void").mkdir()
    with pytest.raises(DatasetError, match="void: holds no index masks"):
        score_job(semantic, str(tmp_path / "void"))
