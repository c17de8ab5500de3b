"""Every number of ours is pycocotools' own, to the last bit, however the images are cut into shards."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rayseg.errors import DatasetError
from rayseg.metrics.coco_ap import ApScores, ap_scores, curves, in_order, limits_up_to, match_rows
from rayseg.metrics.coco_match import Matches
from rayseg.metrics.mask_ap import box_ap, mask_ap

THEIRS = {"mask": "segm", "box": "bbox"}
OURS = {"mask": mask_ap, "box": box_ap}


def pycocotools(truth, rows, kind, limits=(1, 10, 100)) -> COCOeval:
    """Their evaluation of the same rows; a row has the mask or the box alone, so that its area is that of what is compared."""
    keep = {"mask": "segmentation", "box": "bbox"}[kind]
    rows = [{k: copy.copy(row[k]) for k in ("image_id", "category_id", "score", keep)} for row in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO()
        theirs.dataset = copy.deepcopy(truth)
        theirs.createIndex()
        evaluation = COCOeval(theirs, theirs.loadRes(rows), THEIRS[kind])
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def twelve(scores: ApScores) -> list[float]:
    """In the order in which pycocotools prints them; -1 stands for nothing to find."""
    found = [scores.ap, scores.ap50, scores.ap75, scores.ap_small, scores.ap_medium, scores.ap_large]
    found += [*scores.recall_at.values(), scores.ar_small, scores.ar_medium, scores.ar_large]
    return [-1.0 if math.isnan(v) else v for v in found]


def noisy_scene(seed, *, n_images=4, n_classes=3, side=160):
    """Images with objects of all three sizes, crowds and wrong areas, some empty; detections that jitter, miss, double and
    tie in score, of random images and classes besides."""
    rng = np.random.default_rng(seed)
    images = [{"id": int(i), "height": side, "width": side + 20, "file_name": f"{i}.png"} for i in rng.permutation(50)[:n_images]]
    categories = [{"id": int(c), "name": f"class {c}"} for c in rng.permutation(20)[:n_classes]]
    annotations, rows = [], []

    def draw(y, x, height, width):
        mask = np.zeros((side, side + 20), np.uint8)
        mask[max(y, 0) : max(y + height, 1), max(x, 0) : max(x + width, 1)] = 1
        if rng.random() < 0.3:
            mask[rng.integers(0, side, 30), rng.integers(0, side, 30)] ^= 1
        rle = coco_mask.encode(np.asfortranarray(mask))
        return {"segmentation": rle, "bbox": coco_mask.toBbox(rle).tolist(), "area": float(coco_mask.area(rle))}

    for image in images:
        for _ in range(rng.integers(0, 7) if rng.random() < 0.8 else 0):
            category = categories[rng.integers(0, n_classes - 1)]["id"]  # the last one is never there
            y, x = rng.integers(0, side - 30, 2)
            height, width = (int(v) for v in rng.choice([6, 20, 31, 32, 33, 60, 96, 120], 2))
            shape = draw(y, x, height, width)
            if rng.random() < 0.1:
                shape["area"] = float(rng.choice([1024, 9216, 0, 1e5]))
            crowd = int(rng.random() < 0.2)
            row = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category, "iscrowd": crowd, **shape}
            annotations.append(row)
            for _ in range(rng.integers(0, 4)):
                dy, dx, dh, dw = rng.integers(-4, 5, 4) if rng.random() < 0.7 else (0, 0, 0, 0)
                found = draw(y + dy, x + dx, height + dh, width + dw)
                given_class = category if rng.random() < 0.9 else categories[rng.integers(0, n_classes)]["id"]
                score = float(rng.integers(0, 8)) / 8 if rng.random() < 0.5 else float(np.float32(rng.random()))
                rows.append({"image_id": image["id"], "category_id": given_class, "score": score, **found})
        for _ in range(rng.integers(0, 3)):
            found = draw(*rng.integers(0, side - 30, 2), 10, 40)
            category = categories[rng.integers(0, n_classes)]["id"]
            rows.append({"image_id": image["id"], "category_id": category, "score": float(rng.integers(0, 8)) / 8, **found})
    order = rng.permutation(len(rows))
    return {"images": images, "categories": categories, "annotations": annotations}, [rows[i] for i in order]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 10, 100), (1, 2, 3), (2, 5, 300)]), st.sampled_from(["mask", "box"]))
def test_precision_and_recall_are_bit_for_bit_those_of_pycocotools(seed, limits, kind):
    truth, rows = noisy_scene(seed)
    if not rows:
        return  # pycocotools cannot load an empty list
    theirs = pycocotools(truth, rows, kind, limits)
    matches = match_rows(truth, rows, kind=kind, limit=limits[-1])
    precision, recall = curves(matches, in_order(c["id"] for c in truth["categories"]), limits)
    np.testing.assert_array_equal(precision, theirs.eval["precision"])
    np.testing.assert_array_equal(recall, theirs.eval["recall"])


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["mask", "box"]))
def test_the_twelve_printed_numbers_are_the_same_to_the_last_bit(seed, kind):
    truth, rows = noisy_scene(seed)
    if not rows:
        return
    theirs = pycocotools(truth, rows, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.summarize()
    assert twelve(OURS[kind](truth, rows)) == theirs.stats.tolist()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from(["mask", "box"]))
def test_any_cut_into_shards_in_any_order_gives_the_same_scores(seed, n_shards, kind):
    truth, rows = noisy_scene(seed, n_images=6)
    whole = OURS[kind](truth, rows)
    rng = np.random.default_rng(seed)
    shard_of = {image["id"]: int(rng.integers(0, n_shards)) for image in truth["images"]}
    parts = []
    for shard in rng.permutation(n_shards).tolist():
        images = [i for i in truth["images"] if shard_of[i["id"]] == shard]
        mine = truth | {"images": images, "annotations": [a for a in truth["annotations"] if shard_of[a["image_id"]] == shard]}
        parts.append(match_rows(mine, [r for r in rows if shard_of[r["image_id"]] == shard], kind=kind, limit=100))
    categories = [c["id"] for c in truth["categories"]]
    joined = ap_scores(Matches.join([Matches(100), *parts]), categories)
    np.testing.assert_equal(joined, whole)  # NaN equals NaN here
    np.testing.assert_equal(ap_scores(sum(parts, start=Matches(100)), categories), whole)


def test_the_boxes_of_a_real_pair_of_files_score_as_pycocotools_says(shared_dir):
    folder = shared_dir / "data/rs_terrain_sahi/coco_evaluate"
    truth, rows = (json.loads((folder / name).read_text()) for name in ("dataset.json", "result.json"))
    theirs = pycocotools(truth, rows, "box")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.summarize()
    ours = box_ap(truth, rows)
    assert twelve(ours) == theirs.stats.tolist()
    assert ours.ap == pytest.approx(0.0719540636)
    for k, category in enumerate(theirs.params.catIds):
        curve = theirs.eval["precision"][:, :, k, 0, -1]
        wanted = curve[curve > -1].mean() if (curve > -1).any() else math.nan
        assert ours.per_class[category].ap == pytest.approx(wanted, nan_ok=True)
    assert ours.per_class[2].objects == sum(a["category_id"] == 2 for a in truth["annotations"])


def test_polygons_crowd_runs_and_a_real_file_score_as_pycocotools_says(shared_dir):
    truth = json.loads((shared_dir / "data/coco_ccby/annotations/instances_val2017.json").read_text())
    rng, rows = np.random.default_rng(0), []
    for row in truth["annotations"]:
        other = {i["id"]: i for i in truth["images"]}[row["image_id"]]
        source = COCO()
        source.imgs = {row["image_id"]: other}
        mask = source.annToMask(row)
        rolled = np.roll(mask, rng.integers(-3, 4, 2), axis=(0, 1))
        rle = coco_mask.encode(np.asfortranarray(rolled))
        found = {"segmentation": rle, "bbox": coco_mask.toBbox(rle).tolist(), "score": float(rng.integers(0, 20)) / 20}
        rows += [{"image_id": row["image_id"], "category_id": row["category_id"], **found}] * int(rng.integers(0, 3))
    for kind in ("mask", "box"):
        theirs = pycocotools(truth, rows, kind)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs.summarize()
        ours = twelve(OURS[kind](truth, rows))
        assert ours == theirs.stats.tolist() and 0.2 < ours[0] < 0.95


def test_an_image_scored_twice_or_with_another_limit_is_refused():
    truth, rows = noisy_scene(1)
    once = match_rows(truth, rows, kind="box", limit=100)
    with pytest.raises(ValueError, match="images were scored twice, such as"):
        once + once
    with pytest.raises(ValueError, match=r"one limit of objects an image, got \[10, 100\]"):
        once + Matches(10)
    with pytest.raises(ValueError, match="matched with at most 100 objects an image, asked for scores with 300"):
        ap_scores(once, [c["id"] for c in truth["categories"]], max_dets=(300,))


def test_limits_end_with_the_one_that_was_asked_for():
    assert [limits_up_to(n) for n in (1, 5, 10, 50, 100, 300)] == [(1,), (1, 5), (1, 10), (1, 10, 50), (1, 10, 100), (1, 10, 300)]


@pytest.mark.parametrize("box", [[1, 2, 3], [0, 0, math.nan, 4], [0, 0, -1, 4], "box", None])
def test_a_box_that_is_none_is_refused(box):
    truth = {"images": [{"id": 1, "height": 9, "width": 9}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    row = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": box}
    with pytest.raises(DatasetError, match="detection 0 has the box"):
        box_ap(truth, [row])


def test_ids_may_be_text_and_a_box_is_taken_from_the_mask_where_there_is_none():
    rle = coco_mask.encode(np.asfortranarray(np.pad(np.ones((3, 4), np.uint8), 2)))
    truth = {
        "images": [{"id": "a.png", "height": 7, "width": 8}],
        "categories": [{"id": "cat", "name": "cat"}],
        "annotations": [{"id": 1, "image_id": "a.png", "category_id": "cat", "segmentation": rle}],
    }
    row = {"image_id": "a.png", "category_id": "cat", "score": 0.5, "bbox": [2, 2, 4, 3]}
    assert box_ap(truth, [row]).per_class["cat"].ap == pytest.approx(1.0)
    with pytest.raises(DatasetError, match="two images or two categories of the ground truth share an id"):
        box_ap(truth | {"images": truth["images"] * 2}, [row])
