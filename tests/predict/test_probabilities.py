"""Programs that give the probabilities of all classes: the label map in them, their size, and who refuses the flavour."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from rayseg.errors import BackendError, ConfigError, ModelError
from rayseg.geometry import Size
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.backends.probe import deviation
from rayseg.predict.export import export_model
from rayseg.predict.families import finish
from rayseg.predict.families.label_map import probabilities
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.predict.prepare import prepare
from rayseg.predict.raw import Raw
from rayseg.tiling.grid import Grid
from rayseg.tiling.labels import blended_bands
from rayseg.tiling.tile_labels import read_probabilities, tile_labels_table
from tests.predict.conftest import CLASSES, LABELS


@pytest.fixture(scope="module")
def exported(semantic_network, tmp_path_factory):
    """A directory of the same network as model_dirs["semantic", "lean"]."""
    return export_model(
        semantic_network, tmp_path_factory.mktemp("m") / "p", name="my-semantic", labels=CLASSES, flavour="probabilities"
    )


def test_the_likeliest_classes_are_the_label_map_of_the_lean_program(exported, model_dirs, pictures):
    given, lean = (Predictor(load_model_dir(path), "paddle", threads=1) for path in (exported, model_dirs["semantic", "lean"]))
    images = [prepare(given.spec, picture) for picture in pictures]
    raws = given.run(images, batch_size=4)
    different = near = 0
    for raw, wanted in zip(raws, lean.predict(pictures), strict=True):
        found = probabilities(given.spec, raw)
        assert found.dtype == np.uint8 and found.shape == (len(CLASSES), *raw.original.hw)
        labels = finish(given.spec, raw).labels
        assert (labels == found.argmax(axis=0)).all() and labels.dtype == np.uint8
        # Rounding can hide a lead of less than one 255th, and that only.
        top = np.sort(found.astype(int), axis=0)
        tie = top[-1] - top[-2] <= 1
        assert (labels == wanted.labels)[~tie].all()
        assert np.abs(found.sum(axis=0, dtype=int) - 255).max() <= len(CLASSES) / 2
        different += int((labels != wanted.labels).sum())
        near += int(tie.sum())
    assert different <= near < 0.02 * sum(image.original.pixels for image in images)


def test_a_directory_says_what_it_gives(exported):
    spec = load_model_dir(exported)
    assert (spec.task, spec.family, spec.flavour, spec.any_batch) == ("semantic", "label_map", "probabilities", True)
    assert spec.labels == tuple(CLASSES) and spec.fixed_input is None


@pytest.mark.parametrize("fast", ["paddle-onednn", "eager"])
def test_the_other_engines_find_the_same_classes(exported, fast):
    spec = load_model_dir(exported)
    one, two = (Predictor(spec, backend, threads=1)._backend for backend in (fast, "paddle"))
    assert deviation(spec, one, two) is None


def test_at_another_size_each_class_is_resized_and_the_labels_as_ever():
    spec = fake_spec("semantic", labels=("a", "b", "c"), output="probabilities", size=Size(6, 8))
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    (raw,) = Predictor(spec).run([prepare(spec, picture)])
    given = raw.arrays["probabilities"]
    assert given.shape == (3, 6, 8)
    found = probabilities(spec, raw)
    wanted = np.stack([cv2.resize(one.astype(np.float32), (40, 24), interpolation=cv2.INTER_LINEAR) for one in given])
    assert found.shape == (3, 24, 40) and np.abs(found - wanted).max() <= 1
    nearest = cv2.resize(given.argmax(axis=0).astype(np.uint8), (40, 24), interpolation=cv2.INTER_NEAREST)
    assert (finish(spec, raw).labels == nearest).all()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 19, 100, 255, 256])
def test_the_likeliest_class_of_a_fake_is_its_label_at_every_brightness(count):
    names = [f"c{i}" for i in range(count)]
    spec = fake_spec("semantic", labels=names, output="probabilities")
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    predictor = Predictor(spec)
    (raw,) = predictor.run([prepare(spec, grey)])
    found = probabilities(spec, raw)
    top = np.sort(found, axis=0)
    assert count == 1 or (top[-1] > top[-2]).all()
    (labels,) = Predictor(fake_spec("semantic", labels=names)).predict([grey])
    assert (found.argmax(axis=0) == labels.labels).all()
    assert (finish(spec, raw).labels == labels.labels).all()
    assert np.abs(found.sum(axis=0, dtype=int) - 255).max() <= 1


def test_a_fake_says_of_each_pixel_the_same_wherever_it_lies():
    spec = fake_spec("semantic", output="probabilities")
    picture = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    whole, part = Predictor(spec).run([prepare(spec, picture), prepare(spec, np.ascontiguousarray(picture[3:, 5:]))])
    assert (probabilities(spec, whole)[:, 3:, 5:] == probabilities(spec, part)).all()


def test_models_without_probabilities_are_told_so(model_dirs):
    spec = load_model_dir(model_dirs["semantic", "lean"])
    raw = Raw({"labels": np.zeros((4, 4), np.uint8)}, Size(4, 4), Size(4, 4), Size(4, 4))
    with pytest.raises(ModelError, match="my-semantic was exported as lean and gives no probabilities"):
        probabilities(spec, raw)


def test_who_has_no_probabilities_refuses_to_be_exported_with_them(instance_network, semantic_network, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="PPYOLOESeg finds objects and has no probabilities of classes"):
        export_model(instance_network, tmp_path / "i", name="x", labels=LABELS, flavour="probabilities")
    monkeypatch.setattr(semantic_network, "num_classes", 257)
    with pytest.raises(ModelError, match="257 classes: a byte each is too coarse"):
        export_model(semantic_network, tmp_path / "s", name="x", labels=CLASSES, flavour="probabilities")
    assert list(tmp_path.iterdir()) == []


def test_a_fake_of_objects_has_none_either():
    for path in ("fake:instance?output=probabilities", f"fake:semantic?output=probabilities&labels={',' * 256}"):
        with pytest.raises(ModelError, match="output=probabilities is for fake:semantic with at most 256 labels"):
            load_model_dir(path)
    with pytest.raises(ModelError, match="expected labels or probabilities"):
        load_model_dir("fake:semantic?output=logits")


def test_outputs_that_do_not_fit_are_refused():
    spec = fake_spec("semantic", output="probabilities")
    predictor = Predictor(spec)
    four = replace(spec, labels=("a", "b", "c", "d"))
    predictor.spec = four
    with pytest.raises(BackendError, match=r"gave probabilities uint8 \(1, 3, 5, 7\), expected uint8 \(1, 4, 5, 7\)"):
        predictor.run([prepare(four, np.zeros((5, 7, 3), np.uint8))])


def test_scores_that_are_no_logits_are_shared_out():
    import paddle

    from rayseg.models.network import SemanticNetwork
    from rayseg.models.semantic.maskformer import MaskFormer

    scores = paddle.to_tensor(np.random.default_rng(2).random((1, 4, 3, 3), dtype=np.float32))
    assert (MaskFormer.to_probabilities(scores * 0) == 0).all()
    shared = MaskFormer.to_probabilities(scores).numpy()
    np.testing.assert_allclose(shared, scores.numpy() / scores.numpy().sum(axis=1, keepdims=True), rtol=1e-6)
    assert not np.allclose(shared, SemanticNetwork.to_probabilities(scores).numpy(), atol=1e-2)


def test_settings_know_the_flavour():
    from rayseg.config.sections import ExportSettings

    assert ExportSettings(flavour="probabilities").flavour == "probabilities"
    with pytest.raises(ConfigError, match="flavour"):
        ExportSettings(flavour="softmax")


def test_tiles_of_a_scene_blended_from_what_was_stored_are_the_map_of_the_whole_scene():
    picture = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    predictor = Predictor(fake_spec("semantic", output="probabilities"))
    grid = Grid(Size(50, 70), tile_px=24, overlap_px=7)
    tiles = [np.ascontiguousarray(picture[tile.window.slices]) for tile in grid]
    raws = predictor.run([prepare(predictor.spec, tile) for tile in tiles])
    rows = [tile_labels_table(grid, i, probabilities=probabilities(predictor.spec, raw)) for i, raw in enumerate(raws)]
    bands = blended_bands(grid, (read_probabilities(row, grid, 3) for row in rows), n_classes=3)
    (whole,) = Predictor(fake_spec("semantic")).predict([picture])
    assert (np.concatenate([band.labels for band in bands]) == whole.labels).all()
