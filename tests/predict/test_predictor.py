"""From images to results in one process: batches change nothing, both flavours agree, order is kept."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg import rle
from rayseg.geometry import Size
from rayseg.predict import predictor as predictor_module
from rayseg.predict.backends.fake import FakeBackend, fake_spec
from rayseg.predict.execute import execute
from rayseg.predict.families import finish
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.predict.prepare import prepare
from rayseg.results import Instances

KEPT = 0.1


@pytest.fixture(scope="module")
def predictors(model_dirs) -> dict[tuple[str, str, str], Predictor]:
    return {
        (task, flavour, backend): Predictor(load_model_dir(model_dirs[task, flavour]), backend, threads=1)
        for task, flavour in model_dirs
        for backend in ("paddle", "paddle-onednn")
    }


def assert_same(found, wanted) -> None:
    """Bit for bit."""
    if not isinstance(wanted, Instances):
        np.testing.assert_array_equal(found.labels, wanted.labels)
        return
    assert found.masks == wanted.masks
    for name in ("boxes_xyxy", "scores", "class_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@pytest.mark.parametrize("backend", ["paddle", "paddle-onednn"])
@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_no_result_depends_on_its_batch_mates(predictors, pictures, task, backend):
    predictor = predictors[task, "lean", backend]
    alone = [predictor.predict([picture], KEPT)[0] for picture in pictures]
    random = np.random.default_rng(0)
    for batch_size in (2, 3, 8):
        order = random.permutation(np.repeat(np.arange(len(pictures)), 2))
        together = predictor.predict([pictures[i] for i in order], KEPT, batch_size=batch_size)
        for i, found in zip(order, together, strict=True):
            assert_same(found, alone[i])


@pytest.mark.parametrize("backend", ["paddle", "paddle-onednn"])
def test_the_program_itself_keeps_images_of_a_batch_apart(predictors, pictures, backend):
    """Given a batch after all, it gives what it gives alone, but for last bits."""
    predictor = predictors["instance", "lean", backend]
    images = [prepare(predictor.spec, picture) for picture in pictures]
    together = execute(predictor.spec, predictor._backend, images)
    for image, found in zip(images, together, strict=True):
        (wanted,) = execute(predictor.spec, predictor._backend, [image])
        for name, array in wanted.arrays.items():
            np.testing.assert_allclose(found.arrays[name], array, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_both_flavours_give_the_same_result(predictors, pictures, task):
    lean = predictors[task, "lean", "paddle"].predict(pictures, KEPT)
    whole = predictors[task, "paddlex", "paddle"].predict(pictures, KEPT)
    if task == "semantic":
        for a, b in zip(lean, whole, strict=True):
            assert_same(a, b)
        return
    differing, total = 0, 0
    for a, b in zip(lean, whole, strict=True):
        assert len(a) == len(b) > 50
        np.testing.assert_array_equal(a.class_ids, b.class_ids)
        np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-4)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
        for x, y in zip(a.masks, b.masks, strict=True):
            differing += np.count_nonzero(rle.decode(x) != rle.decode(y))
            total += x.area
    assert total > 100_000
    assert differing <= 1e-5 * total  # a pixel whose value is 0.5 to the last bit; none in this data


def test_every_picture_has_objects_that_are_partly_mask(predictors, pictures):
    """The fixture would prove little with full or empty boxes."""
    for found in predictors["instance", "lean", "paddle"].predict(pictures, KEPT):
        areas = np.asarray([mask.area for mask in found.masks])
        boxes = np.prod(found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2], axis=1)
        share = areas / np.maximum(boxes, 1)
        assert ((share > 0.2) & (share < 0.8)).sum() > 20


def test_running_and_finishing_apart_is_predicting(predictors, pictures):
    predictor = predictors["instance", "lean", "paddle"]
    raws = predictor.run([prepare(predictor.spec, picture) for picture in pictures], min_score=KEPT)
    for raw, wanted in zip(raws, predictor.predict(pictures, KEPT), strict=True):
        assert_same(finish(predictor.spec, raw, KEPT), wanted)


def test_a_raw_owns_small_arrays(predictors, pictures):
    predictor = predictors["instance", "lean", "paddle"]
    (raw,) = predictor.run([prepare(predictor.spec, pictures[2])])
    assert all(array.flags.c_contiguous for array in raw.arrays.values())
    assert sum(array.nbytes for array in raw.arrays.values()) < 50_000


def test_nothing_in_gives_nothing_out(predictors):
    assert predictors["instance", "lean", "paddle"].predict([]) == []


class Watching(FakeBackend):
    """Notes the shape of every batch."""

    def __init__(self, spec):
        super().__init__(spec)
        self.shapes = []

    def run(self, inputs):
        self.shapes.append(inputs["image"].shape)
        return super().run(inputs)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=20),
    st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_images_of_one_size_share_batches_and_order_is_kept(sizes, batch_size):
    spec = fake_spec("semantic", labels=tuple(map(str, range(256))))
    backend = Watching(spec)
    predictor = Predictor(spec, backend)
    backend.shapes.clear()
    pictures = [np.full((h, w, 3), i, np.uint8) for i, (h, w) in enumerate(sizes)]
    found = predictor.predict(pictures, batch_size=batch_size)
    assert [(f.labels.shape, int(f.labels[0, 0])) for f in found] == [(size, i) for i, size in enumerate(sizes)]
    assert all(shape[0] <= batch_size for shape in backend.shapes)
    changes = sum(a[2:] != b[2:] for a, b in pairwise(backend.shapes))
    assert changes == max(0, len(set(sizes)) - 1), "each size in one go, so that the engine plans it once"


def test_a_batch_is_limited_by_pixels_too(monkeypatch):
    monkeypatch.setattr(predictor_module, "MAX_BATCH_PIXELS", 100)
    spec = fake_spec("semantic")
    backend = Watching(spec)
    predictor = Predictor(spec, backend)
    backend.shapes.clear()
    predictor.predict([np.zeros((5, 8, 3), np.uint8)] * 3 + [np.zeros((20, 20, 3), np.uint8)] * 5)
    assert backend.shapes[-1] == (1, 3, 20, 20)
    predictor.predict([np.zeros((5, 8, 3), np.uint8)] * 40)
    assert max(shape[0] for shape in backend.shapes) == 2


def test_a_program_for_one_image_gets_one_image():
    spec = fake_spec("instance", size=Size(8, 8))
    backend = Watching(spec)
    Predictor(spec, backend).predict([np.zeros((8, 8, 3), np.uint8)] * 20)
    assert {shape[0] for shape in backend.shapes} == {1}


def test_a_batch_of_none_is_a_mistake():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Predictor(fake_spec()).run([], batch_size=0)
