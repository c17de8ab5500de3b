"""ONNX Runtime and OpenVINO give what the plain engine gives, and what no engine can do is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rayseg.errors import BackendError
from rayseg.predict.backends import choose
from rayseg.predict.backends.choose import candidates, open_backend
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.backends.paddle_inference import plain_cpu
from rayseg.predict.backends.probe import deviation, probe_image
from rayseg.predict.execute import feed
from rayseg.predict.families import finish
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor

pytestmark = pytest.mark.usefixtures("own_cache")
ENGINES = ("onnxruntime", "openvino")


def opened(spec, engine, **options):
    for package in choose.ENGINES[engine].packages:
        pytest.importorskip(package)
    return open_backend(spec, engine, device="cpu", threads=1, **options)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", ["instance", "semantic"])
@pytest.mark.parametrize("flavour", ["lean", "paddlex"])
def test_an_engine_gives_what_the_plain_engine_gives(model_dirs, task, flavour, engine):
    spec = load_model_dir(model_dirs[task, flavour])
    backend = opened(spec, engine, check=False)
    assert backend.name == engine and not backend.batches
    assert deviation(spec, backend, plain_cpu(spec, threads=1)) is None


@pytest.mark.parametrize("engine", ENGINES)
def test_no_more_boxes_are_looked_at_than_the_program_looks_at(engine):
    """The demo model suppresses among its 1,000 best boxes of 5,376; of the made-up picture 248 are left of those, 300 of all."""
    spec = load_model_dir(Path(__file__).parents[2] / "demo" / "model")
    mine, theirs = (
        Predictor(spec, backend).run([probe_image(spec)])[0].arrays["bbox"]
        for backend in (opened(spec, engine, check=False), plain_cpu(spec, threads=1))
    )
    assert len(mine) == len(theirs) < 300


@pytest.mark.parametrize("engine", ENGINES)
def test_pictures_of_any_size_have_the_plain_engines_labels(model_dirs, pictures, engine):
    """The network pools to grids of 2 x 2 and 4 x 4, whatever the size."""
    spec = load_model_dir(model_dirs["semantic", "lean"])
    mine = Predictor(spec, opened(spec, engine)).predict(pictures)
    theirs = Predictor(spec, "paddle", threads=1).predict(pictures)
    for one, other in zip(mine, theirs, strict=True):
        assert one.labels.shape == other.labels.shape
        assert np.mean(one.labels != other.labels) < 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_input_gives_the_same_bits_and_earlier_outputs_stay(model_dirs, engine):
    spec = load_model_dir(model_dirs["instance", "lean"])
    backend = opened(spec, engine, check=False)
    inputs = feed(spec, [probe_image(spec)])
    first = backend.run(inputs)
    kept = [np.copy(output) for output in first]
    other = backend.run({**inputs, "image": inputs["image"][..., ::-1]})
    again = backend.run(inputs)
    assert any(not np.array_equal(a, b) for a, b in zip(kept, other, strict=True))
    for a, b, c in zip(first, kept, again, strict=True):
        assert np.array_equal(a, b) and np.array_equal(b, c)
        assert c.flags.owndata or c.base is not None


def test_openvino_computes_in_fp32_unless_told_otherwise(model_dirs):
    """Its own default is bf16 on CPUs that have it."""
    spec = load_model_dir(model_dirs["semantic", "lean"])
    assert opened(spec, "openvino", check=False).precision == "f32"


def test_openvino_in_bf16_is_near_and_another(model_dirs, pictures):
    spec = load_model_dir(model_dirs["semantic", "lean"])
    try:
        backend = opened(spec, "openvino", precision="bf16")
    except BackendError as error:
        pytest.skip(str(error))
    exact = opened(spec, "openvino")
    images = [Predictor(spec, each).run([probe_image(spec)])[0] for each in (backend, exact)]
    labels = [finish(spec, raw).labels for raw in images]
    assert backend.precision == "bf16"
    assert np.mean(labels[0] != labels[1]) < 0.2


def test_candidates_begin_with_the_sure_one(model_dirs):
    for engine in ENGINES:
        for package in choose.ENGINES[engine].packages:
            pytest.importorskip(package)
    spec = load_model_dir(model_dirs["instance", "lean"])
    assert candidates(spec, device="cpu") == ("paddle", "paddle-onednn", "onnxruntime", "openvino")
    assert candidates(spec, device="cpu", precision="bf16") == ("paddle-onednn", "openvino")
    assert candidates(spec, device="cpu", precision="fp16") == ()
    assert candidates(spec, device="gpu:1")[0] == "paddle" and "openvino" not in candidates(spec, device="gpu:1")
    assert candidates(fake_spec(), device="cpu") == ("fake",)


def test_an_engine_whose_package_is_missing_is_no_candidate_and_names_its_extra(model_dirs, monkeypatch):
    real = choose.find_spec
    monkeypatch.setattr(choose, "find_spec", lambda name: None if name == "openvino" else real(name))
    spec = load_model_dir(model_dirs["instance", "lean"])
    assert "openvino" not in candidates(spec, device="cpu")
    with pytest.raises(
        BackendError, match=r"backend openvino needs openvino, not installed here: pip install 'rayseg\[openvino\]'"
    ):
        open_backend(spec, "openvino", device="cpu", threads=1)


@pytest.mark.parametrize(
    "name, device, precision, message",
    [
        ("paddle", "cpu", "bf16", "backend paddle computes in fp32 on cpu, not in bf16.*with backend paddle-onednn or openvino"),
        ("onnxruntime", "cpu", "bf16", "with backend paddle-onednn or openvino; fp32 with any"),
        ("onnxruntime", "gpu:0", "fp16", "computes in fp32 on gpu:0, not in fp16.*with backend paddle-tensorrt"),
        ("auto", "cpu", "fp16", "On cpu, fp16 is to be had with backend nothing; fp32 with any"),
        ("paddle-tensorrt", "cpu", "fp32", "backend paddle-tensorrt runs on GPUs only, but the device is cpu"),
        ("openvino", "gpu:0", "fp32", "backend openvino runs on CPUs only, but the device is gpu:0"),
        ("paddle", "cpu", "int8", "precision 'int8' is unknown; known: fp32, bf16, fp16"),
    ],
)
def test_combinations_that_cannot_be_had_are_refused(model_dirs, name, device, precision, message):
    spec = load_model_dir(model_dirs["instance", "lean"])
    with pytest.raises(BackendError, match=message):
        open_backend(spec, name, device=device, threads=1, precision=precision)


def test_a_fake_has_no_other_precision():
    with pytest.raises(BackendError, match="fake models compute nothing"):
        open_backend(fake_spec(), "fake", device="cpu", threads=1, precision="bf16")


def test_an_onnx_runtime_without_cuda_says_so(model_dirs):
    for package in choose.ENGINES["onnxruntime"].packages:
        pytest.importorskip(package)
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendError, match="this build has no CUDAExecutionProvider, asked for gpu:0; install onnxruntime-gpu"):
        open_backend(load_model_dir(model_dirs["instance", "lean"]), "onnxruntime", device="gpu:0", threads=1)
