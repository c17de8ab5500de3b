"""The model that is shipped is as small and as good as its papers say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayseg.config.load import build, read_yaml
from rayseg.datasets.coco import CocoInstances
from rayseg.metrics.mask_ap import mask_ap
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.training.instance import MAX_DETS, InstanceRun

DEMO = Path(__file__).parents[2] / "demo"


def test_the_recorded_settings_are_those_of_the_settings_file():
    recorded = json.loads((DEMO / "metrics.json").read_text())["settings"]
    recorded["zoom"] = tuple(recorded["zoom"])
    assert InstanceRun(**recorded) == build(InstanceRun, read_yaml(DEMO / "train.yaml"))


def test_the_last_score_of_the_log_is_the_recorded_one():
    events = [json.loads(line) for line in (DEMO / "train.log.jsonl").read_text().splitlines()]
    last = [event for event in events if event["event"] == "evaluated"][-1]
    metrics = json.loads((DEMO / "metrics.json").read_text())
    assert (last["epoch"], last["step"]) == (metrics["best_epoch"], metrics["steps"])
    # The log leaves out objects scored below 0.05.
    assert last["ap50"] == pytest.approx(metrics["val_mask_ap"]["ap50"], abs=0.002)


def test_the_model_and_its_images_are_small_enough_to_ship():
    assert sum(file.stat().st_size for file in (DEMO / "model").iterdir()) <= 10_000_000
    assert sum(file.stat().st_size for file in (DEMO / "images").iterdir()) <= 4_000_000
    assert len(list((DEMO / "images").glob("*.png"))) == 16


@pytest.mark.slow
def test_the_model_finds_the_nuclei_of_the_demo_images():
    dataset = CocoInstances(DEMO / "instances.json", DEMO / "images")
    predictor = Predictor(load_model_dir(DEMO / "model"))
    found = []
    for entry, sample in zip(dataset.images, dataset, strict=True):
        (result,) = predictor.predict([sample.image], threshold=0.05)
        for score, mask in zip(result.scores.tolist(), result.masks, strict=True):
            row = {"image_id": entry.image_id, "category_id": 1, "score": score, "segmentation": mask.to_coco()}
            found.append(row)
    assert mask_ap(dataset.ground_truth, found, max_dets=MAX_DETS).ap50 == pytest.approx(0.64, abs=0.01)
