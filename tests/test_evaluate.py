"""Evaluation measures what a network finds: everything found is 1, nothing found is 0."""

from __future__ import annotations

import json

import cv2
import numpy as np
import paddle
import pytest

from rayseg.datasets.coco import CocoInstances
from rayseg.evaluate import detect, evaluate
from rayseg.rle import encode

SIDE = 64
RECTANGLES = [(4, 4, 24, 20), (30, 8, 60, 28), (8, 36, 28, 60)]


class Knows:
    """A network that knows the rectangles: one prototype each, and it is sure."""

    def __init__(self, *, found: int = len(RECTANGLES)) -> None:
        self.found = found

    def forward_lean(self, image):
        assert image.shape == [1, 3, SIDE, SIDE]
        prototypes = np.full((1, len(RECTANGLES), SIDE // 4, SIDE // 4), -9.0, np.float32)
        for index, (x0, y0, x1, y1) in enumerate(RECTANGLES):
            prototypes[0, index, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = 9.0
        rows = [[0, 0.9 - index / 10, *box] for index, box in enumerate(RECTANGLES[: self.found])]
        return (
            paddle.to_tensor(np.asarray(rows, np.float32).reshape(-1, 6)),
            paddle.to_tensor(np.asarray([self.found], np.int32)),
            paddle.to_tensor(np.eye(len(RECTANGLES), dtype=np.float32)[: self.found]),
            paddle.to_tensor(prototypes),
        )


@pytest.fixture
def dataset(tmp_path) -> CocoInstances:
    annotations = []
    for index, (x0, y0, x1, y1) in enumerate(RECTANGLES):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[y0:y1, x0:x1] = 1
        found = encode(mask).to_coco()
        segmentation = {"size": found["size"], "counts": found["counts"].decode()}
        annotations.append({"id": index + 1, "image_id": 1, "category_id": 9, "segmentation": segmentation, "iscrowd": 0})
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIDE, "width": SIDE}],
        "categories": [{"id": 9, "name": "box"}],
        "annotations": annotations,
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    return CocoInstances(tmp_path / "set.json", tmp_path)


def test_a_network_that_finds_everything_scores_one(dataset):
    assert evaluate(Knows(), dataset, input_px=SIDE).ap50 == pytest.approx(1)


def test_objects_not_found_cost_their_share(dataset):
    assert evaluate(Knows(found=2), dataset, input_px=SIDE).ap50 == pytest.approx(67 / 101, abs=0.011)


def test_nothing_found_scores_zero(dataset):
    assert evaluate(Knows(found=0), dataset, input_px=SIDE).ap == 0


def test_the_threshold_leaves_objects_out(dataset):
    assert len(detect(Knows(), dataset[0].image, input_px=SIDE, score_threshold=0.75)) == 2


def test_masks_come_at_the_size_of_the_image():
    rows = detect(Knows(), np.zeros((100, 30, 3), np.uint8), input_px=SIDE)
    assert [row["segmentation"]["size"] for row in rows] == [[100, 30]] * 3


def test_boxes_outside_the_image_are_no_objects():
    class Astray(Knows):
        def forward_lean(self, image):
            rows, *rest = super().forward_lean(image)
            rows[1, 2:] = paddle.to_tensor([SIDE + 1.0, 0.0, SIDE + 9.0, 9.0])
            return rows, *rest

    scores = [row["score"] for row in detect(Astray(), np.zeros((SIDE, SIDE, 3), np.uint8), input_px=SIDE)]
    assert scores == pytest.approx([0.9, 0.7])
