"""Evaluating measures what a predictor finds, by the path a job predicts on."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rayseg.errors import ConfigError, DatasetError
from rayseg.evaluation.model import evaluate_model, score_images, scoring_for
from rayseg.evaluation.scoring import finish_evaluation
from rayseg.metrics.mask_ap import box_ap, mask_ap
from rayseg.metrics.mean_iou import ConfusionMatrix
from tests.evaluation.builders import RECTANGLES, coco_set, knowing, semantic_set

CLASSES = 5


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(1)
    sizes = [(40, 60), (64, 64), (33, 65), (40, 60)]
    return semantic_set(tmp_path, [rng.integers(0, CLASSES, size) for size in sizes])


def test_what_is_scored_is_what_the_predictor_predicts(tmp_path, model_dirs, pictures):
    """On images of many sizes: the rows that a user would make of predict() himself score the same."""
    from rayseg.predict.model_dir import load_model_dir
    from rayseg.predict.predictor import Predictor

    truth = coco_set(tmp_path, images=3, name="long")
    predictor = Predictor(load_model_dir(model_dirs["instance", "lean"]))
    rows = []
    for entry, sample in zip(truth.images, truth, strict=True):
        (result,) = predictor.predict([sample.image], threshold=0.0)
        for mask, box, score, label in zip(
            result.masks, result.boxes_xyxy.tolist(), result.scores, result.class_ids, strict=True
        ):
            if predictor.spec.labels[label] == "long":
                bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                row = {"image_id": entry.image_id, "category_id": 9, "score": float(score), "bbox": bbox}
                rows.append(row | {"segmentation": mask.to_coco()})
    found = evaluate_model(model_dirs["instance", "lean"], truth)
    assert rows
    np.testing.assert_equal(found.mask, mask_ap(truth.ground_truth, rows))
    np.testing.assert_equal(found.box, box_ap(truth.ground_truth, rows))
    assert found.unknown == ("round", "bent") and found.images == 3


def test_a_network_in_memory_scores_as_its_export_does(tmp_path, instance_network, semantic_network, model_dirs, pairs):
    truth = coco_set(tmp_path, images=2, name="long")
    mine = evaluate_model(instance_network, truth, labels=["round", "long", "bent"])
    exported = evaluate_model(model_dirs["instance", "lean"], truth, backend="eager")
    assert mine.metrics() == pytest.approx(exported.metrics(), abs=1e-6)
    names = ["sky", "land", "sea", "town", "road"]
    mine = evaluate_model(semantic_network, pairs, labels=names)
    exported = evaluate_model(model_dirs["semantic", "lean"], pairs, backend="eager")
    assert np.abs(mine.confusion.counts - exported.confusion.counts).sum() <= 0.002 * mine.confusion.counts.sum()
    assert mine.labels == tuple(names)


def test_pixels_are_counted_as_the_predictor_sees_them(model_dirs, pairs):
    from rayseg.predict.model_dir import load_model_dir
    from rayseg.predict.predictor import Predictor

    predictor = Predictor(load_model_dir(model_dirs["semantic", "lean"]))
    counts = ConfusionMatrix.empty(CLASSES)
    for sample in pairs:
        counts += ConfusionMatrix.of(predictor.predict([sample.image])[0].labels, sample.labels, num_classes=CLASSES)
    assert (evaluate_model(predictor, pairs).confusion.counts == counts.counts).all()


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_shards_add_up_to_the_whole(tmp_path, shards):
    truth = coco_set(tmp_path, images=5, empty=2)
    predictor = knowing(lambda brightness: brightness % 4)
    scoring = scoring_for(predictor.spec, truth)
    parts = [score_images(predictor, truth, range(rank, 7, shards), scoring) for rank in reversed(range(shards))]
    assert finish_evaluation(scoring, parts).to_json() == evaluate_model(predictor, truth).to_json()


def test_everything_found_scores_one_and_missed_objects_cost_their_share(tmp_path):
    truth = coco_set(tmp_path)
    assert evaluate_model(knowing(), truth).mask.ap == pytest.approx(1)
    assert evaluate_model(knowing(), truth).box.ap == pytest.approx(1)
    assert evaluate_model(knowing(lambda _: 2), truth).mask.ap50 == pytest.approx(67 / 101, abs=0.011)
    assert evaluate_model(knowing(lambda _: 0), truth).mask.ap == 0
    assert evaluate_model(knowing(), truth, min_score=0.75).mask.recall_at[100] == pytest.approx(2 / 3)
    assert evaluate_model(knowing(), truth, max_dets=(1,)).mask.ar == pytest.approx(1 / 3)


def test_objects_in_an_image_that_has_none_are_wrong(tmp_path):
    truth = coco_set(tmp_path, images=1, empty=1)
    clean, noisy = (evaluate_model(knowing(lambda b, n=n: 3 if b == 0 else n), truth).mask for n in (0, 3))
    assert clean.ap == pytest.approx(1) and noisy.ap < 0.9


def test_progress_is_told_batch_by_batch(tmp_path):
    seen = []
    truth = coco_set(tmp_path, images=5)
    evaluate_model(knowing(), truth, batch_size=2, report=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_numbers_go_out_under_paddlex_names_and_ours_and_nan_as_null(tmp_path, model_dirs, pairs):
    truth = coco_set(tmp_path)
    found = json.loads(json.dumps(evaluate_model(knowing(), truth).to_json(), allow_nan=False))
    assert found["metrics"] == {"AP": pytest.approx(1.0)}
    assert found["scores"]["ap_large"] is None and found["scores"]["box_ap50"] == pytest.approx(1.0)
    assert found["scores"]["ar_1"] == pytest.approx(1 / 3)
    (row,) = found["classes"]
    assert (row["id"], row["name"], row["objects"]) == (9, "box", len(RECTANGLES)) and row["box_ap"] == pytest.approx(1.0)
    evaluation = evaluate_model(model_dirs["semantic", "lean"], pairs)
    found = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    scores = evaluation.scores
    wanted = {"mIoU": scores.miou_paddleseg, "Acc": scores.accuracy, "Kappa": scores.kappa, "Dice": scores.dice_paddleseg}
    assert found["metrics"] == pytest.approx(wanted)
    assert found["scores"]["miou"] == scores.miou
    assert [row["name"] for row in found["classes"]] == ["sky", "land", "sea", "town", "road"]
    assert sum(map(sum, found["confusion"])) == sum(row["pixels"] for row in found["classes"])


def test_the_text_shows_every_class_and_a_dash_for_what_has_no_value(tmp_path):
    text = evaluate_model(knowing(), coco_set(tmp_path)).to_text()
    assert text.startswith("1 images, mask AP 1.0000, box AP 1.0000")
    assert text.splitlines()[-1].split() == ["box", *["1.0000"] * 4, "-", "-", "1.0000", "3"]


def test_flat_metrics_leave_out_what_has_no_value(tmp_path):
    found = evaluate_model(knowing(), coco_set(tmp_path)).metrics()
    assert "ap_large" not in found and found["ap"] == pytest.approx(1) and not any(math.isnan(v) for v in found.values())


def test_what_cannot_be_scored_is_refused(tmp_path, instance_network, pairs):
    truth = coco_set(tmp_path / "one")
    with pytest.raises(ConfigError, match="a network in memory has no class names"):
        evaluate_model(instance_network, truth)
    with pytest.raises(ConfigError, match="labels are for networks in memory"):
        evaluate_model(knowing(), truth, labels=["box"])
    with pytest.raises(ConfigError, match="knows is a model for instance segmentation, the data set is for semantic"):
        evaluate_model(knowing(), pairs)
    with pytest.raises(DatasetError, match="the model finds pear, the truth has box: no common class"):
        evaluate_model(knowing(labels=("pear",)), truth)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        evaluate_model(knowing(), truth, batch_size=0)
    (tmp_path / "one/0.png").unlink()
    with pytest.raises(DatasetError, match=r"0\.png: image 100 of the annotations is not there"):
        evaluate_model(knowing(), truth)


def test_semantic_models_refuse_a_score_threshold_and_other_classes(tmp_path, model_dirs, pairs):
    with pytest.raises(ConfigError, match=r"min_score 0.5 is set, but pixels of a semantic model have no scores"):
        evaluate_model(model_dirs["semantic", "lean"], pairs, min_score=0.5)
    more = semantic_set(tmp_path / "more", [np.full((40, 40), 7)])
    with pytest.raises(DatasetError, match=r"0\.png: label map holds class 7, outside the 5 classes"):
        evaluate_model(model_dirs["semantic", "lean"], more)
    with pytest.raises(DatasetError, match="tells 5 classes apart, the data set has 8"):
        evaluate_model(model_dirs["semantic", "lean"], semantic_set(tmp_path / "eight", [np.zeros((40, 40))], num_classes=8))
