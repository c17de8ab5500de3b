"""The whole of training on a small painted set: files in, weights and a measured score out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from rayseg.config.load import build, read_yaml
from rayseg.datasets.coco import CocoInstances
from rayseg.errors import DatasetError
from rayseg.evaluation.model import evaluate_model
from rayseg.rle import encode
from rayseg.training.instance import MAX_DETS, InstanceRun, build_model, digest, train_instances, trained_model

SMALL = InstanceRun(
    epochs=2, width_mult=0.125, num_protos=8, proto_channels=16, input_px=64, crop_px=64, batch_size=2, evaluate_every=1
)


@pytest.fixture
def painted(tmp_path) -> CocoInstances:
    """Four pictures with two bright squares each."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in range(4):
        picture = np.full((64, 64, 3), 20, np.uint8)
        for x0 in (4, 36):
            y0 = int(rng.integers(0, 40))
            mask = np.zeros((64, 64), np.uint8)
            mask[y0 : y0 + 20, x0 : x0 + 20] = 1
            picture[mask > 0] = 200
            found = encode(mask).to_coco()
            segmentation = {"size": found["size"], "counts": found["counts"].decode()}
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image_id, "category_id": 1, "segmentation": segmentation})
        cv2.imwrite(str(tmp_path / f"{image_id}.png"), picture)
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": 64, "width": 64})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    return CocoInstances(tmp_path / "set.json", tmp_path)


def test_a_run_leaves_weights_the_network_loads_and_a_report_of_itself(tmp_path, painted):
    events = []
    result = train_instances(SMALL, train_set=painted, val_set=painted, folder=tmp_path / "run", report=events.append)
    assert result["epochs"] == 2 and result["steps"] == 2 * 8
    assert result["settings"]["seed"] == SMALL.seed
    assert set(result["val_mask_ap"]) == {"ap", "ap50", "ap75"}
    assert [e["epoch"] for e in events if e["event"] == "evaluated"] == [1, 2]
    model = trained_model(SMALL, tmp_path / "run" / result["weights"], num_classes=1)
    again = evaluate_model(model, painted, labels=painted.labels, max_dets=MAX_DETS)
    assert round(again.mask.ap, 4) == result["val_mask_ap"]["ap"]
    json.dumps(result)


def test_the_demo_model_is_described_by_its_settings():
    file = Path(__file__).parents[2] / "demo" / "train.yaml"
    run = build(InstanceRun, read_yaml(file))
    numbers = sum(int(p.size) for p in build_model(run, num_classes=1).parameters())
    assert 4 * numbers <= 10_000_000  # bytes that are shipped


def test_sets_with_other_classes_are_refused(tmp_path, painted):
    content = painted.ground_truth | {"categories": [{"id": 1, "name": "circle"}]}
    (tmp_path / "other.json").write_text(json.dumps(content))
    other = CocoInstances(tmp_path / "other.json", tmp_path)
    with pytest.raises(DatasetError, match=r"training classes \('square',\) differ from validation classes \('circle',\)"):
        train_instances(SMALL, train_set=painted, val_set=other, folder=tmp_path / "run", report=print)


def test_a_digest_changes_with_pixels_masks_and_classes(painted):
    samples = list(painted)
    first = samples[0]
    changed = [
        replace(first, image=255 - first.image),
        replace(first, masks=first.masks[::-1]),
        replace(first, classes=first.classes + 1),
        replace(first, name="other"),
    ]
    assert digest(samples) == digest(list(painted))
    assert len({digest(samples), *(digest([one, *samples[1:]]) for one in changed)}) == 5
