"""An engine is trusted when its numbers are the plain engine's; otherwise the plain one runs and the log says why."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from rayseg.errors import BackendError
from rayseg.predict.backends import choose
from rayseg.predict.backends.choose import fastest_trusted, open_backend
from rayseg.predict.backends.fake import FakeBackend, fake_spec
from rayseg.predict.backends.probe import deviation
from rayseg.predict.backends.second_look import distrust
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor

SEMANTIC = fake_spec("semantic", labels=("a", "b", "c", "d"))
INSTANCE = fake_spec()
LEAN = replace(INSTANCE, flavour="lean", inputs=("image",))


class Scripted:
    """An engine that answers with what it was given, changed or not."""

    batches = True

    def __init__(self, outputs, name="scripted"):
        self.name, self.outputs = name, outputs

    def run(self, inputs):
        if isinstance(self.outputs, Exception):
            raise self.outputs
        return [np.copy(output) for output in self.outputs]


def outputs_of(spec):
    from rayseg.predict.backends.probe import probe_image
    from rayseg.predict.execute import feed

    return FakeBackend(spec).run(feed(spec, [probe_image(spec)]))


def lean_outputs(count=60):
    random = np.random.default_rng(0)
    corners = random.uniform(0, 80, (count, 2))
    bbox = np.column_stack(
        [
            random.integers(0, 3, count),
            random.uniform(0.05, 1, count),
            corners,
            corners + random.uniform(2, 40, (count, 2)),
        ]
    ).astype(np.float32)
    coefficients = random.normal(size=(count, 8)).astype(np.float32)
    return [bbox, np.asarray([count], np.int32), coefficients, random.normal(size=(1, 8, 24, 32)).astype(np.float32)]


def changed(outputs, which, change):
    copies = [np.copy(output) for output in outputs]
    copies[which] = change(copies[which])
    return copies


def test_an_engine_agrees_with_itself():
    for spec, outputs in ((SEMANTIC, outputs_of(SEMANTIC)), (INSTANCE, outputs_of(INSTANCE)), (LEAN, lean_outputs())):
        assert deviation(spec, Scripted(outputs), Scripted(outputs)) is None


def test_the_order_of_equal_objects_does_not_matter():
    outputs = lean_outputs()
    turned = [outputs[0][::-1], outputs[1], outputs[2][::-1], outputs[3]]
    assert deviation(LEAN, Scripted(turned), Scripted(outputs)) is None


def test_last_bits_do_not_matter():
    outputs = lean_outputs()
    near = [outputs[0] * np.float32(1 + 1e-6), outputs[1], outputs[2], outputs[3] + np.float32(1e-5)]
    near[0][:, 0] = outputs[0][:, 0]
    assert deviation(LEAN, Scripted(near), Scripted(outputs)) is None


def test_objects_at_the_score_cut_may_be_in_or_out():
    outputs = lean_outputs()
    outputs[0][:30, 1] = 0.01
    fewer = [outputs[0][30:], np.asarray([30], np.int32), outputs[2][30:], outputs[3]]
    nothing = [np.zeros((0, 6), np.float32), np.asarray([0], np.int32), outputs[2][:0], outputs[3]]
    only_at_the_cut = [outputs[0][:30], np.asarray([30], np.int32), outputs[2][:30], outputs[3]]
    assert deviation(LEAN, Scripted(fewer), Scripted(outputs)) is None
    assert deviation(LEAN, Scripted(nothing), Scripted(only_at_the_cut)) is None


def twins():
    """Sixty objects, every two in one place with one score and unlike masks; and the same with each two changed about."""
    bbox, count, coefficients, prototypes = lean_outputs()
    bbox[1::2] = bbox[::2]
    swapped = coefficients.reshape(30, 2, 8)[:, ::-1].reshape(60, 8).copy()
    return [bbox, count, coefficients, prototypes], [bbox, count, swapped, prototypes]


def test_a_second_look_takes_objects_in_one_place_for_what_their_masks_say():
    outputs, swapped = twins()
    assert "have another mask" in deviation(LEAN, Scripted(swapped), Scripted(outputs))
    assert distrust(LEAN, Scripted(swapped), Scripted(outputs)) is None


def test_a_second_look_excuses_pixels_that_the_plain_engine_changes_itself():
    (labels,) = outputs_of(SEMANTIC)

    class Unstable(Scripted):
        """Says something else of the top rows with every run of another input."""

        def run(self, inputs):
            (out,) = super().run(inputs)
            (image,) = (array for array in inputs.values() if array.ndim == 4)
            first = self.__dict__.setdefault("first", image)
            if not np.array_equal(first, image):
                out[:, :5] = (out[:, :5] + 1) % 3
            return [out]

    other = np.copy(labels)
    other[:, :5] = (other[:, :5] + 1) % 3
    assert "of the pixels have another class" in distrust(SEMANTIC, Scripted([other]), Scripted([labels]))
    assert distrust(SEMANTIC, Scripted([other]), Unstable([labels])) is None


@pytest.mark.parametrize(
    "spec, change, message",
    [
        (LEAN, lambda o: changed(o, 3, lambda p: p + 0.5), "of the objects have another mask"),
        (LEAN, lambda o: changed(o, 0, lambda b: b + np.float32([0, 0, 3, 0, 3, 0])), "objects have no counterpart"),
        (LEAN, lambda o: changed(o, 0, lambda b: b * np.float32([1, 0.9, 1, 1, 1, 1])), "objects have no counterpart"),
        (
            LEAN,
            lambda o: changed(o, 0, lambda b: np.column_stack([(b[:, 0] + 1) % 3, b[:, 1:]])),
            "objects have no counterpart",
        ),
        (
            LEAN,
            lambda o: [o[0][:30], np.asarray([30], np.int32), o[2][:30], o[3]],
            "of 30 and 60 objects have no counterpart",
        ),
        (INSTANCE, lambda o: changed(o, 2, np.zeros_like), "of the objects have another mask"),
        (SEMANTIC, lambda o: changed(o, 0, lambda m: 3 - m), "of the pixels have another class"),
    ],
)
def test_a_deviating_engine_is_found_out(spec, change, message):
    outputs = lean_outputs() if spec is LEAN else outputs_of(spec)
    assert message in deviation(spec, Scripted(change(outputs)), Scripted(outputs))
    assert message in distrust(spec, Scripted(change(outputs)), Scripted(outputs))


def test_an_engine_that_gives_no_numbers_is_found_out():
    outputs = lean_outputs()
    with pytest.raises(BackendError, match="not finite numbers"):
        deviation(LEAN, Scripted(changed(outputs, 3, lambda p: p * np.nan)), Scripted(outputs))


@pytest.mark.parametrize(
    "fast, message",
    [
        (lambda: Scripted([3 - outputs_of(SEMANTIC)[0]]), "of the pixels have another class"),
        (
            lambda: Scripted(RuntimeError("C++ page\nnot support [pir::ArrayAttribute]")),
            "not support [pir::ArrayAttribute]",
        ),
        (lambda: (_ for _ in ()).throw(BackendError("could not load the program")), "could not load the program"),
        (lambda: Scripted([np.zeros((1, 2, 2), np.int32)]), "gave a label map of (1, 2, 2)"),
    ],
    ids=["wrong", "fails to run", "fails to load", "wrong shape"],
)
def test_a_bad_fast_engine_is_replaced_with_one_line_in_the_log(fast, message, caplog):
    sure = Scripted(outputs_of(SEMANTIC), "sure")
    with caplog.at_level(logging.INFO):
        assert fastest_trusted(SEMANTIC, fast, lambda: sure) is sure
    assert len(caplog.records) == 1 and "fake-semantic: using the plain engine" in caplog.text
    assert message in caplog.text


def test_a_good_fast_engine_is_used_in_silence(caplog):
    fast, sure = Scripted(outputs_of(SEMANTIC), "fast"), Scripted(outputs_of(SEMANTIC), "sure")
    with caplog.at_level(logging.INFO):
        assert fastest_trusted(SEMANTIC, lambda: fast, lambda: sure) is fast
    assert not caplog.records


def test_an_engine_asked_for_by_name_is_not_replaced(monkeypatch, model_dirs):
    spec = load_model_dir(model_dirs["semantic", "lean"])
    wrong = Scripted([np.full((1, 96, 128), 4, np.uint8)])
    monkeypatch.setattr(choose, "onednn_cpu", lambda spec, **_: wrong)
    with pytest.raises(BackendError, match=r"paddle-onednn gives wrong results for my-semantic: .*Use backend auto or paddle"):
        open_backend(spec, "paddle-onednn", device="cpu", threads=1)


@pytest.mark.parametrize(
    "name, device, message",
    [
        ("tensorrt", "cpu", "backend 'tensorrt' is unknown; known: auto, paddle"),
        ("auto", "tpu:0", "device 'tpu:0' is unknown; expected cpu or gpu:0"),
        ("auto", "gpu", "device 'gpu' is unknown"),
        ("paddle-onednn", "gpu:0", "runs on CPUs only"),
    ],
)
def test_what_no_engine_can_do_is_refused(model_dirs, name, device, message):
    spec = load_model_dir(model_dirs["instance", "lean"])
    with pytest.raises(BackendError, match=message):
        open_backend(spec, name, device=device, threads=1)


def test_a_paddle_without_gpus_says_so(model_dirs):
    import paddle

    if paddle.is_compiled_with_cuda():
        pytest.skip("this Paddle has GPU support")
    with pytest.raises(BackendError, match="built without GPU support; install paddlepaddle-gpu, or use device cpu"):
        Predictor(load_model_dir(model_dirs["instance", "lean"]), device="gpu:0")


def test_labels_that_do_not_fit_are_found_when_the_model_is_loaded():
    """Where the program does not tell how many classes it has, the probe image does."""
    spec = replace(SEMANTIC, labels=("a", "b"))
    with pytest.raises(BackendError, match="gave class ids 0 to 3, it has 2 labels"):
        Predictor(spec, Scripted(outputs_of(SEMANTIC)))


def test_broken_weights_are_found_when_the_model_is_loaded():
    with pytest.raises(BackendError, match="not finite numbers"):
        Predictor(LEAN, Scripted(changed(lean_outputs(), 2, lambda c: c * np.inf)))


@pytest.mark.parametrize("task", ["instance", "semantic"])
@pytest.mark.parametrize("flavour", ["lean", "paddlex"])
def test_onednn_and_eager_give_what_the_plain_engine_gives(model_dirs, task, flavour):
    spec = load_model_dir(model_dirs[task, flavour])
    engines = [open_backend(spec, name, device="cpu", threads=1) for name in ("paddle", "paddle-onednn", "eager")]
    assert [engine.name for engine in engines] == ["paddle", "paddle-onednn", "eager"]
    assert all(deviation(spec, engine, engines[0]) is None for engine in engines)


def test_auto_takes_onednn_on_a_cpu(model_dirs):
    assert Predictor(load_model_dir(model_dirs["semantic", "lean"]), threads=1).backend_name == "paddle-onednn"


def test_a_directory_that_cannot_be_written_to_is_enough(model_dirs, tmp_path):
    import shutil

    directory = tmp_path / "model"
    shutil.copytree(model_dirs["semantic", "lean"], directory)
    before = sorted(directory.rglob("*"))
    directory.chmod(0o555)
    try:
        Predictor(load_model_dir(directory), threads=1)
        assert sorted(directory.rglob("*")) == before
    finally:
        directory.chmod(0o755)
