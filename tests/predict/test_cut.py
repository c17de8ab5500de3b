"""A program in pieces computes what the whole computes; where it is cut, and what a piece holds."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from rayseg.errors import BackendError, ModelError
from rayseg.geometry import Size
from rayseg.predict.backends.choose import open_backend
from rayseg.predict.backends.paddle_inference import plain_cpu
from rayseg.predict.backends.piecewise import Piecewise
from rayseg.predict.backends.probe import deviation
from rayseg.predict.convert.converted import converted
from rayseg.predict.convert.cut import HEAVY, cut, parameter_names, write_parts
from rayseg.predict.convert.graph import Graph, kind, main_block
from rayseg.predict.convert.pieces import Converted, Piece, write_pieces
from rayseg.predict.execute import feed
from rayseg.predict.export import export_model
from rayseg.predict.model_dir import load_model_dir, model_files
from rayseg.predict.params_file import record_spans
from rayseg.predict.prepare import prepare
from tests.models.test_mask_rcnn import tiny

LABELS = ["round", "long", "bent"]
SMALL = Size(96, 128)
R_CNN = [(kind, flavour) for kind in ("c4", "fpn", "cascade") for flavour in ("lean", "paddlex")]


class Branches(nn.Layer):
    """Convolutions around what does not convert: lists, a branch that holds a convolution, loops, an array a loop fills."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = (nn.Conv2D(3 if i == 0 else 4, 4, 3, padding=1) for i in range(3))
        self.unused_by_most = nn.Conv2D(4, 2, 1)

    def forward(self, x: paddle.Tensor, boxes: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        y = nn.functional.relu(self.first(x))
        side = paddle.shape(y)[2:].astype("float32")
        parts, back, _ = paddle.vision.ops.distribute_fpn_proposals(
            boxes, 2, 3, 2, 8, rois_num=paddle.to_tensor([1], dtype="int32") * boxes.shape[0]
        )
        area = paddle.gather(paddle.concat(parts), back.flatten()).prod(1)
        if y.mean() > 0:
            z = y * 2 + self.inner(y)
        else:
            z = y - 1
        count = paddle.zeros([1], "int32")
        while count < 3:
            z = z + 1
            count = count + 1
        rows = []
        for i in range(x.shape[0]):
            rows.append(z[i : i + 1] * (i + 1))  # noqa: PERF401 - a list the program fills in a loop is the point
        halves = paddle.split(self.last(paddle.concat(rows)), 2, axis=1)
        return self.unused_by_most(paddle.concat(halves[::-1], axis=1)), area * side[0], side, x


@pytest.fixture(scope="module")
def branches(tmp_path_factory) -> Path:
    """`Branches`, exported."""
    paddle.seed(3)
    path = tmp_path_factory.mktemp("branches") / "inference"
    spec = [InputSpec([None, 3, None, None], "float32", "x"), InputSpec([None, 4], "float32", "boxes")]
    paddle.jit.save(paddle.jit.to_static(Branches(), input_spec=spec, full_graph=True), str(path))
    return path.with_suffix(".json")


@pytest.fixture(scope="module")
def r_cnn(tmp_path_factory):
    """(kind, flavour, certainty) -> exported tiny network, made once."""
    root, made = tmp_path_factory.mktemp("r_cnn"), {}

    def export(kind: str, flavour: str, certainty: float = 3.0) -> Path:
        if (kind, flavour, certainty) not in made:
            network = tiny(kind, certainty=certainty)
            network.preprocess = replace(network.preprocess, resize=SMALL)
            out = root / kind / flavour / str(certainty)
            made[kind, flavour, certainty] = export_model(network, out, name=kind, labels=LABELS, flavour=flavour)
        return made[kind, flavour, certainty]

    return export


def all_in_paddle(program: Path, folder: Path) -> Converted:
    """Every piece a Paddle program, those that convert too."""
    whole = cut(json.loads(program.read_bytes()))
    folders = write_parts(program, program.with_suffix(".pdiparams"), whole.parts, folder)
    pieces = [Piece("paddle", own, part.inputs, part.outputs) for part, own in zip(whole.parts, folders, strict=True)]
    return Converted(tuple(pieces), whole.outputs)


def never(path: Path):
    raise AssertionError(f"{path} is no ONNX file")


def picture(spec, seed: int = 0):
    random = np.random.default_rng(seed)
    return prepare(spec, random.integers(0, 256, (90, 120, 3), dtype=np.uint8))


def run_whole(program: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    layer = paddle.jit.load(str(program.with_suffix("")))
    layer.eval()
    found = layer(*(paddle.to_tensor(value) for value in inputs.values()))
    return [tensor.numpy() for tensor in found]


@pytest.mark.parametrize("mean", [0.5, -5.0], ids=["one branch", "the other"])
def test_pieces_in_order_compute_what_the_whole_computes(branches, tmp_path, mean):
    random = np.random.default_rng(0)
    x = (random.normal(size=(2, 3, 9, 11)) + mean).astype(np.float32)
    boxes = np.float32([[0, 0, 4, 4], [1, 1, 40, 40], [0, 0, 3, 5]])
    pieces = Piecewise("pieces", all_in_paddle(branches, tmp_path), never, threads=1)
    found, wanted = pieces.run({"x": x, "boxes": boxes}), run_whole(branches, {"x": x, "boxes": boxes})
    assert len(found) == len(wanted) == 4
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[3], x)


def test_the_hand_made_program_is_cut_where_it_should_be(branches):
    parts = cut(json.loads(branches.read_bytes())).parts
    assert [part.converts for part in parts] == [True, False, True]
    kinds = [Counter(map(kind, main_block(part.document))) for part in parts]
    assert [count["conv2d"] for count in kinds] == [1, 0, 2]
    assert kinds[1]["while"] == 2 and kinds[1]["if"] == kinds[1]["distribute_fpn_proposals"] == 1
    assert kinds[1]["create_array"] == kinds[1]["array_to_tensor"] == 1
    assert len(parts[1].parameters) == 2, "the convolution inside the branch stays with it"


def test_every_operator_lands_in_exactly_one_part(branches, r_cnn):
    for program in (branches, *(r_cnn(*which) / "inference.json" for which in R_CNN)):
        document = json.loads(program.read_bytes())
        graph = Graph(document)
        parts = [Graph(part.document) for part in cut(document).parts]
        where = Counter(value for part in parts for i in computed(part) for value in part.makes(i))
        for i in computed(graph):
            for value in graph.makes(i):
                assert where[value] == 1 or (graph.repeated[i] and where[value] > 1), (i, graph.operators[i]["#"])


def computed(graph: Graph) -> list[int]:
    """Operators but inputs, outputs and parameters."""
    return [i for i, operator in enumerate(graph.operators) if kind(operator) not in ("data", "fetch", "p")]


def test_a_value_is_made_before_it_is_taken_and_none_is_given_for_nothing(r_cnn):
    for which in R_CNN:
        whole = cut(json.loads((r_cnn(*which) / "inference.json").read_bytes()))
        there = {"image", "im_shape", "scale_factor"}
        for part in whole.parts:
            assert set(part.inputs) <= there
            assert not set(part.outputs) & there
            there |= set(part.outputs)
        assert set(whole.outputs) <= there
        taken = {name for part in whole.parts for name in part.inputs} | set(whole.outputs)
        assert there - {"image", "im_shape", "scale_factor"} <= taken


def test_parts_hold_all_parameters_and_no_others(branches, tmp_path):
    document = json.loads(branches.read_bytes())
    parts = cut(document).parts
    assert sorted(name for part in parts for name in part.parameters) == list(parameter_names(document))
    params = branches.with_suffix(".pdiparams")
    bytes_of = {
        name: params.read_bytes()[start:stop]
        for name, (start, stop) in zip(parameter_names(document), record_spans(params), strict=True)
    }
    for part, folder in zip(parts, write_parts(branches, params, parts, tmp_path), strict=True):
        written = folder / "inference.pdiparams"
        found = written.read_bytes() if written.exists() else b""
        assert found == b"".join(bytes_of[name] for name in part.parameters)


def test_what_is_cheap_is_left_to_paddle_where_only_paddle_needs_it(r_cnn):
    """Decoding, ranking and anchors decide which objects there are."""
    parts = cut(json.loads((r_cnn("fpn", "lean") / "inference.json").read_bytes())).parts
    assert [part.converts for part in parts] == [True, False, True, False, True]
    for part in parts:
        kinds = set(map(kind, main_block(part.document)))
        assert part.converts == bool(kinds & HEAVY)
        if part.converts:
            assert not kinds & {"exp", "softmax", "meshgrid", "argsort", "roi_align"}


def test_a_program_that_needs_no_cut_is_one_part(model_dirs):
    for flavour in ("lean", "paddlex"):
        program = model_dirs["semantic", flavour] / "inference.json"
        document = json.loads(program.read_bytes())
        whole = cut(document)
        (part,) = whole.parts
        assert part.converts and part.inputs == ("x",) and len(part.outputs) == 1
        assert part.parameters == parameter_names(document)


def test_cutting_leaves_the_program_as_it_was(branches):
    document = json.loads(branches.read_bytes())
    cut(document)
    assert document == json.loads(branches.read_bytes())


@pytest.mark.parametrize("which", R_CNN, ids="-".join)
def test_an_r_cnn_in_pieces_gives_the_bits_of_the_whole(r_cnn, tmp_path, which):
    spec = load_model_dir(r_cnn(*which))
    inputs = feed(spec, [picture(spec)])
    pieces = Piecewise("pieces", all_in_paddle(model_files(Path(spec.path))[0], tmp_path), never, threads=1)
    wanted = plain_cpu(spec, threads=1).run(inputs)
    assert len(wanted[0]) > 5
    for _ in range(2):
        for one, two in zip(pieces.run(inputs), wanted, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def engine(request) -> str:
    for package in (request.param, "paddle2onnx", "onnx"):
        pytest.importorskip(package)
    return request.param


@pytest.fixture(scope="module")
def in_engine(r_cnn, tmp_path_factory):
    """(engine, kind, flavour, certainty) -> a tiny network in pieces, loaded into an engine on one thread; converted once."""
    written: dict[tuple, Converted] = {}

    def load(engine: str, *which, least_score: float = 0.0):
        from rayseg.predict.backends.onnxruntime import OnnxRuntime
        from rayseg.predict.backends.openvino import OpenVino

        def open_onnx(path: Path):
            if engine == "openvino":
                return OpenVino(path, threads=1)
            return OnnxRuntime(engine, path, providers=["CPUExecutionProvider"], threads=1, batches=False)

        if which not in written:
            program, params, _ = model_files(r_cnn(*which))
            written[which] = write_pieces(program, params, tmp_path_factory.mktemp("pieces"))
        return load_model_dir(r_cnn(*which)), Piecewise(engine, written[which], open_onnx, threads=1, least_score=least_score)

    return load


@pytest.mark.parametrize("which", [("fpn", "lean"), ("cascade", "paddlex")], ids="-".join)
def test_an_r_cnn_in_pieces_of_another_engine_finds_the_same_objects(in_engine, engine, which):
    spec, pieces = in_engine(engine, *which)
    sure = plain_cpu(spec, threads=1)
    assert deviation(spec, pieces, sure) is None
    inputs = feed(spec, [picture(spec)])
    found, wanted = pieces.run(inputs), sure.run(inputs)
    assert len(wanted[0]) > 5
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("flavour", ["lean", "paddlex"])
def test_pieces_run_the_mask_head_for_objects_above_the_least_score_only(in_engine, engine, flavour):
    spec, pieces = in_engine(engine, "fpn", flavour)
    inputs = feed(spec, [picture(spec)])
    whole = pieces.run(inputs)
    least = float(np.median(whole[0][:, 1]))
    spared = in_engine(engine, "fpn", flavour, least_score=least)[1].run(inputs)
    above = whole[0][:, 1] > least
    kept = spared[0][:, 1] > least  # one that equals it may be there still
    assert 2 < above.sum() == kept.sum() and len(spared[0]) <= above.sum() + 1 < len(whole[0])
    np.testing.assert_array_equal(spared[0][kept], whole[0][above])
    np.testing.assert_allclose(spared[2][kept], whole[2][above], rtol=1e-5, atol=1e-6)


def test_where_nothing_is_found_pieces_find_nothing(in_engine, engine):
    spec, pieces = in_engine(engine, "fpn", "lean", 0.0)
    inputs = feed(spec, [picture(spec)])
    found = pieces.run(inputs)
    assert [array.shape[0] for array in found] == [0, 1, 0]
    for one, two in zip(found, plain_cpu(spec, threads=1).run(inputs), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_piece_without_rows_gives_none(in_engine, engine):
    _, pieces = in_engine(engine, "fpn", "lean")
    heads = [n for n, piece in enumerate(pieces._pieces) if piece.kind == "onnx" and "image" not in piece.inputs]
    for number, shapes in zip(heads, ([(0, 8 * 7 * 7)], [(0, 8, 14, 14), (0,)]), strict=True):
        names = pieces._pieces[number].inputs
        dtypes = (np.float32, np.int64)
        given = {name: np.zeros(shape, dtype) for name, shape, dtype in zip(names, shapes, dtypes, strict=False)}
        assert all(len(array) == 0 for array in pieces._engines[number].run(given))


def test_images_of_other_sizes_and_batches_run_in_the_same_pieces(in_engine, engine):
    spec, pieces = in_engine(engine, "fpn", "lean")
    sure, random = plain_cpu(spec, threads=1), np.random.default_rng(1)
    for count, height, width in ((1, 64, 96), (2, 96, 64), (1, 128, 160)):
        inputs = {
            "image": random.normal(size=(count, 3, height, width)).astype(np.float32),
            "im_shape": np.float32([[height, width]] * count),
        }
        for one, two in zip(pieces.run(inputs), sure.run(inputs), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-3)


def test_pieces_are_kept_and_a_damaged_one_is_made_again(r_cnn, engine, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSEG_CACHE", str(tmp_path))
    spec = load_model_dir(r_cnn("fpn", "lean"))
    made = converted(spec)
    assert {piece.kind for piece in made.pieces} == {"onnx", "paddle"}
    before = {piece.path: piece.path.stat().st_mtime_ns for piece in made.pieces}
    assert converted(spec) == made
    assert {piece.path: piece.path.stat().st_mtime_ns for piece in made.pieces} == before
    backend = open_backend(spec, engine, device="cpu", threads=1)  # compares itself with the plain engine
    assert isinstance(backend, Piecewise)
    damaged = next(piece.path for piece in made.pieces if piece.kind == "onnx")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    open_backend(spec, engine, device="cpu", threads=1)
    assert damaged.stat().st_mtime_ns != before[damaged]


def test_what_cannot_be_cut_is_refused(tmp_path, branches):
    with pytest.raises(BackendError, match=r"inference.pdmodel: only programs in inference.json can be cut"):
        write_pieces(tmp_path / "inference.pdmodel", tmp_path / "inference.pdiparams", tmp_path)
    with pytest.raises(ModelError, match="not a Paddle program in its JSON form"):
        cut({"program": {}})
    document = json.loads(branches.read_bytes())
    operators = main_block(document)
    operators.remove(next(operator for operator in operators if kind(operator) == "relu"))
    with pytest.raises(ModelError, match="uses value .*, which nothing before it makes"):
        cut(document)


def test_parameters_of_another_program_are_refused(branches, model_dirs, tmp_path):
    with pytest.raises(BackendError, match="holds .* tensors, the program wants"):
        write_pieces(branches, model_dirs["semantic", "lean"] / "inference.pdiparams", tmp_path)
