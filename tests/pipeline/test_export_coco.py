"""The COCO files load in pycocotools, say what the tables say, and do not depend on how a job came to its end."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from rayseg import rle
from rayseg.errors import ConfigError, OutputError
from rayseg.geometry import Size
from rayseg.pipeline.export_coco import export_coco
from rayseg.pipeline.storage import Store
from rayseg.results import Instances, SemanticMap
from rayseg.tables import Unit
from tests.pipeline.handmade import Done, discs, write_out

LABELS = ["cat", "dog", "鸟"]


def found(n_images: int = 7) -> list[Done]:
    sizes = [Size(40 + i, 60) for i in range(n_images)]
    return [Done(Unit(f"/in/{i:02d}.png"), discs(size, i, seed=i, n_classes=3)) for i, size in enumerate(sizes)]


def load(path):
    truth = COCO(str(path.with_name(f"{path.stem}_images.json")))
    return truth, truth.loadRes(str(path))


def test_pycocotools_reads_back_every_object_exactly(tmp_path):
    done = found()
    out, path = write_out(tmp_path / "out", done, labels=LABELS, chunk_images=3), tmp_path / "results.json"
    assert export_coco(Store(str(out)), path) == sum(len(d.result) for d in done)
    truth, results = load(path)
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == LABELS
    for number, item in enumerate(done):
        image = truth.loadImgs(number + 1)[0]
        size = item.result.size
        assert (image["file_name"], image["height"], image["width"]) == (item.unit.uri, size.height, size.width)
        entries = results.loadAnns(results.getAnnIds(imgIds=[number + 1]))
        assert [e["category_id"] - 1 for e in entries] == item.result.class_ids.tolist()
        assert np.float32([e["score"] for e in entries]).tolist() == item.result.scores.tolist()
        for entry, box, mask in zip(entries, item.result.boxes_xyxy, item.result.masks, strict=True):
            x, y, width, height = entry["bbox"]
            assert [x, y, x + width, y + height] == box.tolist()
            assert (results.annToMask(entry) == rle.decode(mask)).all()


def test_ids_do_not_change_when_images_fail_or_are_still_to_come(tmp_path):
    done = found()
    broken = [Done(d.unit, ("decode", "cut")) if i == 2 else d for i, d in enumerate(done)]
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    export_coco(Store(str(write_out(tmp_path / "a", done, labels=LABELS))), whole)
    left = [d.unit for d in done[5:]]
    export_coco(Store(str(write_out(tmp_path / "b", broken[:5], labels=LABELS, left=left))), part)
    expected = [e for e in json.loads(whole.read_text()) if e["image_id"] in (1, 2, 4, 5)]
    assert json.loads(part.read_text()) == expected
    images = json.loads((tmp_path / "part_images.json").read_text())["images"]
    assert [(i["id"], i["file_name"]) for i in images] == [(n + 1, done[n].unit.uri) for n in (0, 1, 3, 4)]


def test_how_rows_are_cut_into_commits_leaves_no_trace(tmp_path):
    for chunk_images in (1, 100):
        out = write_out(tmp_path / f"out{chunk_images}", found(), labels=LABELS, chunk_images=chunk_images)
        export_coco(Store(str(out)), tmp_path / f"{chunk_images}.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "100.json").read_bytes()
    assert (tmp_path / "1_images.json").read_bytes() == (tmp_path / "100_images.json").read_bytes()


def test_objects_below_the_score_are_left_out(tmp_path):
    done = [Done(Unit("/a.png"), discs(Size(30, 30), 4, scores=[0.2, 0.5, 0.9, 0.7]))]
    out = write_out(tmp_path / "out", done, labels=["cell"])
    assert export_coco(Store(str(out)), tmp_path / "r.json", min_score=0.7) == 2
    scores = [e["score"] for e in json.loads((tmp_path / "r.json").read_text())]
    assert scores == [pytest.approx(0.9), pytest.approx(0.7)]


def test_regions_of_a_label_map_become_results_that_cover_the_image(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    out = write_out(tmp_path / "out", [Done(Unit("/a.png"), SemanticMap(labels))], labels=LABELS, task="semantic")
    assert export_coco(Store(str(out)), tmp_path / "r.json") == 3
    _, results = load(tmp_path / "r.json")
    back = sum(results.annToMask(e) * (e["category_id"] - 1) for e in results.loadAnns(results.getAnnIds()))
    assert (back == labels).all()


def test_pages_of_one_file_are_images_of_their_own(tmp_path):
    done = [Done(Unit("/a.tif", page), discs(Size(20, 20), 1, seed=page)) for page in range(3)]
    export_coco(Store(str(write_out(tmp_path / "out", done, labels=["cell"]))), tmp_path / "r.json")
    images = json.loads((tmp_path / "r_images.json").read_text())["images"]
    assert [(i["id"], i["page"]) for i in images] == [(1, 0), (2, 1), (3, 2)]


def test_names_with_quotes_line_ends_and_chinese_letters_stay_as_they_are(tmp_path):
    uri = '/in/"a"\n\\猫 .png'
    done = [Done(Unit(uri), discs(Size(20, 20), 1))]
    export_coco(Store(str(write_out(tmp_path / "out", done, labels=['l"\n']))), tmp_path / "r.json")
    truth, _ = load(tmp_path / "r.json")
    assert truth.loadImgs(1)[0]["file_name"] == uri and truth.loadCats(1)[0]["name"] == 'l"\n'


def test_without_objects_the_results_are_an_empty_list(tmp_path):
    done = [Done(Unit("/a.png"), Instances.none(Size(5, 5)))]
    out = write_out(tmp_path / "out", done, labels=["cell"])
    assert export_coco(Store(str(out)), tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text()) == []


def test_what_cannot_be_exported_is_refused_and_leaves_no_half_file(tmp_path):
    with pytest.raises(OutputError, match=r"no job\.json there"):
        export_coco(Store(str(tmp_path)), tmp_path / "r.json")
    semantic = write_out(tmp_path / "semantic", [], labels=LABELS, task="semantic")
    with pytest.raises(ConfigError, match="have no scores; leave it out"):
        export_coco(Store(str(semantic)), tmp_path / "r.json", min_score=0.5)
    with pytest.raises(ConfigError, match="local files only"):
        export_coco(Store(str(semantic)), "s3://bucket/r.json")
    out = write_out(tmp_path / "out", found(), labels=LABELS)
    damaged = sorted((out / "objects").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(OutputError, match=f"{damaged.name} cannot be read"):
        export_coco(Store(str(out)), tmp_path / "r.json")
    assert not list(tmp_path.glob("*.json")) and not list(tmp_path.glob(".*.tmp"))
