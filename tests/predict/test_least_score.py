"""Objects below the job's threshold can be left out of suppression: those above it are the same, whatever engine runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rayseg.predict.backends import choose
from rayseg.predict.backends.choose import open_backend
from rayseg.predict.backends.paddle_inference import plain_cpu
from rayseg.predict.convert.changed import paddle_program
from rayseg.predict.convert.least_score import drops_early, onnx_program, raise_in_paddle
from rayseg.predict.execute import execute, feed
from rayseg.predict.families import finish
from rayseg.predict.model_dir import PROGRAM_FILES, load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.predict.prepare import prepare

pytestmark = pytest.mark.usefixtures("own_cache")
ENGINES = ("paddle-onednn", "onnxruntime", "openvino")


def middle_score(spec, image):
    """A score that about half of the objects of an image exceed."""
    (raw,) = execute(spec, plain_cpu(spec, threads=1), [image])
    return float(np.median(raw.arrays["bbox"][:, 1]))


def alike(mine, theirs):
    """The same objects; OpenVINO gives them in no order."""
    assert len(mine) == len(theirs)
    first, second = (np.lexsort((*each.boxes_xyxy.T, each.scores)) for each in (mine, theirs))
    for name in ("scores", "boxes_xyxy", "class_ids"):
        assert np.array_equal(getattr(mine, name)[first], getattr(theirs, name)[second]), name
    assert [mine.masks[i] for i in first] == [theirs.masks[i] for i in second]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("flavour", ["lean", "paddlex"])
def test_what_is_above_is_the_same_to_the_last_bit_and_what_is_below_is_gone(model_dirs, pictures, flavour, engine):
    for package in choose.ENGINES[engine].packages:
        pytest.importorskip(package)
    spec = load_model_dir(model_dirs["instance", flavour])
    image = prepare(spec, pictures[2])
    least = middle_score(spec, image)
    whole, spared = (open_backend(spec, engine, device="cpu", threads=1, least_score=score, check=False) for score in (0, least))
    (all_of_it,), (some,) = execute(spec, whole, [image]), execute(spec, spared, [image])
    assert len(all_of_it.arrays["bbox"]) > len(some.arrays["bbox"]) > 5
    alike(finish(spec, some, threshold=least), finish(spec, all_of_it, threshold=least))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("flavour", ["lean", "paddlex"])
def test_an_image_with_nothing_above_has_no_objects(model_dirs, pictures, flavour, engine):
    for package in choose.ENGINES[engine].packages:
        pytest.importorskip(package)
    spec = load_model_dir(model_dirs["instance", flavour])
    backend = open_backend(spec, engine, device="cpu", threads=1, least_score=2.0, check=False)  # no score exceeds it
    for picture in pictures[:2]:
        (raw,) = execute(spec, backend, [prepare(spec, picture)])
        assert len(raw.arrays["bbox"]) == len(finish(spec, raw, threshold=0.0)) == 0


def test_an_engine_is_compared_with_all_its_objects_and_then_spared_them(model_dirs, pictures):
    spec = load_model_dir(model_dirs["instance", "lean"])
    image = prepare(spec, pictures[0])
    inputs, least = feed(spec, [image]), middle_score(spec, image)
    rows = {
        (name, score): len(open_backend(spec, name, device="cpu", threads=1, least_score=score).run(inputs)[0])
        for name in ("auto", "paddle-onednn", "paddle")
        for score in (0, least)
    }
    for name in ("auto", "paddle-onednn"):
        assert 0 < rows[name, least] < rows[name, 0]
    assert rows["paddle", least] == rows["paddle", 0]


def test_a_predictor_that_was_spared_objects_says_so(model_dirs, pictures):
    spec = load_model_dir(model_dirs["instance", "lean"])
    for engine in ("paddle", "paddle-onednn"):
        (raw,) = Predictor(spec, engine, threads=1, least_score=0.7).run([prepare(spec, pictures[0])])
        assert raw.min_score == 0.7 and (raw.arrays["bbox"][:, 1] > 0.7).all()
        with pytest.raises(ValueError, match="threshold 0.5 is below 0.7"):
            finish(spec, raw, threshold=0.5)


def test_a_program_with_a_higher_threshold_of_its_own_keeps_it(model_dirs):
    program = model_dirs["instance", "lean"] / PROGRAM_FILES[0]
    document = json.loads(program.read_bytes())
    before = json.dumps(document)
    assert raise_in_paddle(document, 1e-6) == 0 and json.dumps(document) == before
    assert raise_in_paddle(document, 0.5) == 1 and json.dumps(document) != before
    assert raise_in_paddle(document, 0.5) == 0


def test_files_stay_as_they_are_and_a_changed_copy_goes(model_dirs):
    program = model_dirs["instance", "lean"] / PROGRAM_FILES[0]
    before = program.read_bytes()
    with paddle_program(program, least_score=0.5) as changed:
        assert changed != program and changed.read_bytes() != before
    assert not changed.exists() and program.read_bytes() == before
    for least, path in ((0.0, program), (0.5, model_dirs["semantic", "lean"] / PROGRAM_FILES[0])):
        with paddle_program(path, least_score=least) as same:
            assert same == path


def test_what_suppresses_nothing_is_left_alone(model_dirs, tmp_path):
    assert drops_early(load_model_dir(model_dirs["instance", "lean"]))
    assert not drops_early(load_model_dir(model_dirs["semantic", "lean"]))
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    path = Path(tmp_path, "model.onnx")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:])), str(path))
    assert onnx_program(path, 0.5) == path
