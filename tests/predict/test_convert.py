"""Programs become ONNX once, mean the same, and what does not convert says why and is not tried again."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rayseg.errors import BackendError
from rayseg.predict.backends.choose import open_backend
from rayseg.predict.convert import converted as store
from rayseg.predict.convert.converted import FAILED, PIECES, PROGRAM, converted
from rayseg.predict.convert.onnx_file import OnnxFile, OutOfTime
from rayseg.predict.convert.rewrite import Pooling, norms, reworded
from rayseg.predict.model_dir import load_model_dir

DOUBLE, FLOAT = "0.a_f64", "0.a_f32"


def operator(kind, *, made, given=(), shape=(-1, 1), **attributes):
    """One operator as inference.json writes it."""
    kinds = {bool: "0.a_bool", float: DOUBLE, int: "0.a_i32", str: "0.a_str"}
    written = [{"N": name, "AT": _written(value, kinds)} for name, value in attributes.items()]
    result = {"%": made, "TT": {"#": "0.t_dtensor", "D": [{"#": "0.t_f32"}, list(shape), "NCHW", [], 0]}}
    return {"#": f"1.{kind}", "A": written, "I": [{"%": i} for i in given], "O": [result], "OA": []}


def _written(value, kinds):
    if isinstance(value, list):
        return {"#": "0.a_array", "D": [_written(each, kinds) for each in value]}
    return {"#": kinds[type(value)], "D": value}


def program(*operators):
    return {"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": [{"ops": list(operators)}]}]}}


def kinds(document):
    return [each["#"] for each in document["program"]["regions"][0]["blocks"][0]["ops"]]


def test_rewording_leaves_the_original_alone_and_turns_doubles_into_floats():
    before = program(
        operator("data", made=1, shape=(-1, 4, -1, -1)),
        operator("group_norm", made=2, given=[1], epsilon=0.125),
        operator("bilinear_interp", made=3, given=[2], scale=[2.0, 2.0]),
        operator("full", made=4, value=3.0),
    )
    untouched = copy.deepcopy(before)
    after, poolings = reworded(before)
    assert before == untouched and poolings == ()
    text = [json.dumps(each) for each in after["program"]["regions"][0]["blocks"][0]["ops"]]
    assert [DOUBLE in each for each in text] == [False, False, False, True]  # `full` is read as it should be
    assert text[1].count(FLOAT) == 1 and text[2].count(FLOAT) == 2
    assert [(norm.kind, norm.epsilon) for norm in norms(before)] == [("group_norm", 0.125)]


@pytest.mark.parametrize(
    "given, made, expected",
    [((-1, 1), (-1, 1), ["1.data", "1.full", "1.full_like"]), ((-1, 7), (-1, 1), ["1.data", "1.full_batch_size_like"])],
    ids=["same shape", "another shape"],
)
def test_a_constant_like_a_tensor_becomes_one_the_converter_knows(given, made, expected):
    like = operator("full_batch_size_like", made=5, given=[4], shape=made, value=2.0, input_dim_idx=0, output_dim_idx=0, dtype=0)
    after, _ = reworded(program(operator("data", made=4, shape=given), like))
    assert kinds(after) == expected
    if len(expected) == 3:
        _, constant, last = after["program"]["regions"][0]["blocks"][0]["ops"]
        assert last["I"] == [{"%": 4}, {"%": constant["O"][0]["%"]}] and constant["O"][0]["%"] > 5


def test_poolings_of_any_size_are_put_aside_and_others_are_not():
    def pool(made, given, shape, adaptive):
        options = {"adaptive": adaptive, "pooling_type": "avg", "data_format": "NCHW", "global_pooling": False}
        return operator("pool2d", made=made, given=[given], shape=shape, **options)

    free, fixed = (-1, 4, -1, -1), (-1, 4, 8, 8)
    document = program(
        operator("data", made=1, shape=free),
        operator("data", made=2, shape=fixed),
        pool(3, 1, free, adaptive=False),
        pool(4, 1, (-1, 4, 1, 1), adaptive=True),
        pool(5, 1, (-1, 4, 3, 2), adaptive=True),
        pool(6, 2, (-1, 4, 3, 2), adaptive=True),
    )
    after, poolings = reworded(document)
    assert poolings == (Pooling(place=2, rows=3, columns=2),)
    flags = [{a["N"]: a["AT"]["D"] for a in each["A"]} for each in after["program"]["regions"][0]["blocks"][0]["ops"][2:]]
    assert [each["global_pooling"] for each in flags] == [False, True, True, False]
    assert [each["adaptive"] for each in flags] == [False, False, False, True]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    for package in ("paddle2onnx", "onnx"):
        pytest.importorskip(package)
    monkeypatch.setenv("RAYSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def spec(model_dirs):
    return load_model_dir(model_dirs["semantic", "lean"])


@pytest.fixture
def broken(model_dirs, tmp_path):
    """A model with an operator that the converter ends its process over."""
    directory = tmp_path / "broken"
    directory.mkdir()
    source = model_dirs["semantic", "lean"]
    for file in source.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    text = (source / "inference.json").read_text().replace('"1.relu"', '"1.no_such_operator"')
    (directory / "inference.json").write_text(text)
    return replace(load_model_dir(source), path=str(directory), fingerprint="broken")


def no_more(*_args, **_options):
    raise AssertionError("converted again")


def test_a_program_is_converted_once(cache, spec, monkeypatch):
    before = {file.name: file.read_bytes() for file in Path(spec.path).iterdir()}
    first = converted(spec)
    monkeypatch.setattr(store, "write_onnx", no_more)
    assert converted(spec) == first
    (piece,) = first.pieces
    assert piece.kind == "onnx" and piece.path.is_relative_to(cache) and piece.inputs == spec.inputs
    assert first.outputs == piece.outputs and len(first.outputs) == 1
    assert {file.name: file.read_bytes() for file in Path(spec.path).iterdir()} == before


def test_a_damaged_file_is_made_again(cache, spec, monkeypatch):
    made = []

    def write(program, params, path, *, timeout_s):
        made.append(path)
        path.write_bytes(b"whole")
        return OnnxFile(("x",), ("y",))

    monkeypatch.setattr(store, "write_onnx", write)
    (piece,) = converted(spec).pieces
    piece.path.write_bytes(b"cut")
    assert converted(spec).pieces[0].path.read_bytes() == b"whole" and len(made) == 2


def test_a_crash_of_the_converter_is_an_error_and_remembered(cache, broken, monkeypatch):
    with pytest.raises(
        BackendError, match=r"does not convert to ONNX: .*Use backend auto or paddle; this is remembered in"
    ) as first:
        converted(broken)
    monkeypatch.setattr(store, "write_onnx", no_more)
    with pytest.raises(BackendError) as second:
        converted(broken)
    assert str(second.value) == str(first.value)
    (failed,) = cache.rglob(FAILED)
    assert not list(cache.rglob(PROGRAM)) and str(failed) in str(second.value)


def test_a_converter_that_takes_too_long_is_stopped_and_tried_again_the_next_time(cache, spec):
    with pytest.raises(OutOfTime, match=r"inference.json to ONNX took longer than 0 s and was stopped.*try again when") as error:
        converted(spec, timeout_s=0.2)
    assert "remembered" not in str(error.value) and not list(cache.rglob(FAILED))
    assert converted(spec).pieces[0].path.is_file()


def test_pieces_that_take_too_long_are_tried_again_the_next_time(cache, spec, monkeypatch):
    tried = []

    def refused(*_args, **_options):
        raise BackendError("no operator for it")

    def stopped(*_args, **_options):
        tried.append(1)
        raise OutOfTime("took longer than 0 s")

    monkeypatch.setattr(store, "write_onnx", refused)
    monkeypatch.setattr(store, "write_pieces", stopped)
    for _ in range(2):
        with pytest.raises(OutOfTime, match=r"no operator for it. In pieces: took longer than 0 s. .*try again when"):
            converted(spec)
    assert len(tried) == 2 and not list(cache.rglob(FAILED)) and not list(cache.rglob(PIECES))


def test_a_whole_program_that_takes_too_long_is_not_kept_in_pieces(cache, spec, monkeypatch):
    def stopped(*_args, **_options):
        raise OutOfTime("took longer than 0 s")

    monkeypatch.setattr(store, "write_onnx", stopped)
    monkeypatch.setattr(store, "write_pieces", no_more)
    with pytest.raises(OutOfTime):
        converted(spec)


def test_two_processes_at_once_make_one_file(cache, spec):
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stdout)\n"
        "from rayseg.predict.model_dir import load_model_dir\n"
        "from rayseg.predict.convert.converted import converted\n"
        "print('at', converted(load_model_dir(sys.argv[1])).pieces[0].path)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, spec.path], stdout=subprocess.PIPE, text=True, cwd=Path(store.__file__).parents[3]
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(said).count("converted to ONNX") == 1
    assert len({line for text in said for line in text.splitlines() if line.startswith("at ")}) == 1


def test_a_cache_that_cannot_be_written_to_is_replaced_by_temporary_files(cache, spec, monkeypatch, tmp_path, caplog):
    cache.write_text("not a folder")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with caplog.at_level(logging.WARNING):
        (piece,) = converted(spec).pieces
    assert piece.path.is_relative_to(tmp_path / "temporary") and piece.path.is_file()
    assert len(caplog.records) == 1 and "set RAYSEG_CACHE to a folder with room" in caplog.text


def test_a_missing_converter_is_named_with_its_extra(spec, monkeypatch):
    monkeypatch.setattr(store, "find_spec", lambda name: None if name == "paddle2onnx" else object())
    with pytest.raises(BackendError, match=r"converted by paddle2onnx, not installed here: pip install 'rayseg\[onnxruntime\]'"):
        converted(spec)


@pytest.fixture(scope="module")
def tricky(tmp_path_factory):
    """A network of what the converter gets wrong by itself, its program, and the program as ONNX."""
    for package in ("paddle2onnx", "onnx"):
        pytest.importorskip(package)
    import paddle
    from paddle import nn
    from paddle.nn import functional

    from rayseg.predict.convert.onnx_file import write_onnx

    class Tricky(nn.Layer):
        def __init__(self):
            super().__init__()
            self.norm = nn.GroupNorm(2, 4, epsilon=0.25)
            self.other = nn.LayerNorm(4, epsilon=2**-10)

        def forward(self, x):
            y = self.other(x.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])
            y = self.norm(functional.pad(y, [1, 1, 1, 1], value=0.5))
            y = functional.interpolate(functional.leaky_relu(y, 0.3), scale_factor=2, mode="bilinear")
            pooled = functional.adaptive_avg_pool2d(y, (3, 2)) + 0
            inverse = 160.0 / (3 + x[:, :1, 0, 0].abs())
            strips, start = y[:, :, :0], paddle.zeros([1], dtype="int64")
            while start < y.shape[2]:
                strips = paddle.concat([strips, y[:, :, start : start + 4] * 2], axis=2)
                start = start + 4
            return pooled, inverse, strips

    paddle.seed(3)
    network = Tricky()
    network.eval()
    folder = tmp_path_factory.mktemp("tricky")
    spec = [paddle.static.InputSpec([None, 4, None, None], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(network, input_spec=spec, full_graph=True), str(folder / "inference"))
    names = write_onnx(folder / "inference.json", folder / "inference.pdiparams", folder / "tricky.onnx")
    return network, folder / "tricky.onnx", names


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("shape", [(1, 4, 7, 9), (2, 4, 16, 5)])
def test_what_the_converter_gets_wrong_by_itself_is_right(tricky, engine, shape):
    pytest.importorskip(engine)
    import paddle

    from rayseg.predict.backends.onnxruntime import OnnxRuntime
    from rayseg.predict.backends.openvino import OpenVino

    network, path, names = tricky
    picture = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if engine == "openvino":
        backend = OpenVino(path, threads=1)
    else:
        backend = OnnxRuntime("onnxruntime", path, providers=["CPUExecutionProvider"], threads=1, batches=False)
    found = backend.run({"x": picture})
    expected = [tensor.numpy() for tensor in network(paddle.to_tensor(picture))]
    assert names.inputs == ("x",) and len(names.outputs) == 3
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def masks_to_labels(tmp_path_factory):
    """Masks that vote for classes, and a gate: the network, and its program as ONNX."""
    for package in ("paddle2onnx", "onnx"):
        pytest.importorskip(package)
    import paddle
    from paddle import nn
    from paddle.nn import functional

    from rayseg.predict.convert.onnx_file import write_onnx

    class MasksToLabels(nn.Layer):
        def __init__(self):
            super().__init__()
            self.votes = self.create_parameter([1, 4, 3])
            self.votes.set_value(np.float32([[[0.1, 0.2, 0.7], [0.7, 0.1, 0.2], [0.1, 0.6, 0.1], [0.1, 0.1, 0.0]]]))

        def forward(self, x):
            scores = paddle.matmul(self.votes, functional.sigmoid(x).flatten(2)).reshape([-1, 4, 16, 24])
            return scores.argmax(1, dtype="int32"), x * functional.sigmoid(x)

    network = MasksToLabels()
    network.eval()
    folder = tmp_path_factory.mktemp("masks")
    spec = [paddle.static.InputSpec([None, 3, 16, 24], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(network, input_spec=spec, full_graph=True), str(folder / "inference"))
    write_onnx(folder / "inference.json", folder / "inference.pdiparams", folder / "masks.onnx")
    return network, folder / "masks.onnx"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_largest_of_very_small_sigmoids_is_found(masks_to_labels, engine):
    pytest.importorskip(engine)
    import paddle

    from rayseg.predict.backends.onnxruntime import OnnxRuntime
    from rayseg.predict.backends.openvino import OpenVino

    network, path = masks_to_labels
    logits = np.random.default_rng(5).uniform(-60, 20, (1, 3, 16, 24)).astype(np.float32)
    logits[..., :12] -= 25  # here no mask is larger than 0.007, most are far below a float's last bit of 0.5
    if engine == "openvino":
        backend = OpenVino(path, threads=1)
    else:
        backend = OnnxRuntime("onnxruntime", path, providers=["CPUExecutionProvider"], threads=1, batches=False)
    labels, gated = backend.run({"x": logits})
    wanted, wanted_gated = (tensor.numpy() for tensor in network(paddle.to_tensor(logits)))
    assert len(np.unique(wanted[..., :12])) == 3
    np.testing.assert_array_equal(labels, wanted)
    np.testing.assert_allclose(gated, wanted_gated, rtol=1e-4, atol=1e-5)


def test_sigmoids_that_nobody_ranks_stay_as_they_are(masks_to_labels):
    import onnx

    kinds = [node.op_type for node in onnx.load(masks_to_labels[1]).graph.node]
    assert kinds.count("Sigmoid") == 1 and kinds.count("Reciprocal") == 1


def test_wrong_epsilons_are_mended_and_missing_ones_refused(tricky):
    import onnx

    from rayseg.predict.convert.mend import mend
    from rayseg.predict.convert.rewrite import Norm

    model = onnx.load(tricky[1])
    right = [Norm("group_norm", 0.25), Norm("layer_norm", 2**-10)]
    assert mend(model, (), right) == 0
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = -1.0
    assert mend(model, (), right) == 2 and mend(model, (), right) == 0
    with pytest.raises(
        BackendError, match="the program has 2 normalisations that become LayerNormalization, the converted one 1"
    ):
        mend(model, (), [*right, right[1]])


def test_an_engine_asked_for_by_name_says_what_does_not_convert(cache, broken):
    pytest.importorskip("onnxruntime")
    with pytest.raises(BackendError, match="inference.json does not convert to ONNX: .*no_such_operator|unsupported"):
        open_backend(broken, "onnxruntime", device="cpu", threads=1)
