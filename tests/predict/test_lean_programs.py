"""PaddleX's programs that end before their masks find what the whole programs find, and other programs are left alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from rayseg import rle
from rayseg.predict.backends import choose
from rayseg.predict.backends.choose import open_backend
from rayseg.predict.backends.paddle_inference import PaddleInference, plain_cpu
from rayseg.predict.convert.changed import paddle_program
from rayseg.predict.convert.graph import kind, main_block
from rayseg.predict.convert.lean import ends_with_masks, without_masks
from rayseg.predict.execute import execute, feed
from rayseg.predict.export import export_model
from rayseg.predict.families import finish
from rayseg.predict.model_dir import PROGRAM_FILES, load_model_dir, model_files
from rayseg.predict.prepare import prepare
from tests.models import test_mask_rcnn, test_mask_rtdetr

LABELS = ["round", "long", "bent"]


@pytest.fixture(scope="module")
def directories(model_dirs, tmp_path_factory) -> dict[str, Path]:
    """family -> a directory in PaddleX's form"""
    root = tmp_path_factory.mktemp("paddlex")
    made = {"mask_rtdetr": test_mask_rtdetr.tiny(), "rcnn": test_mask_rcnn.tiny("fpn")}
    found = {
        name: export_model(network, root / name, name=name, labels=LABELS, flavour="paddlex") for name, network in made.items()
    }
    return {**found, "ppyoloe_seg": model_dirs["instance", "paddlex"]}


def document(folder: Path) -> dict:
    return json.loads((folder / PROGRAM_FILES[0]).read_bytes())


def lean_in_paddle(spec) -> PaddleInference:
    """The program without masks, run by the plain engine."""
    from paddle.inference import Config

    program, params, _ = model_files(Path(spec.path))
    with paddle_program(program, lean=True) as changed:
        assert changed != program
        config = Config(str(changed), str(params))
        config.disable_glog_info()
        config.disable_gpu()
        config.disable_mkldnn()
        config.set_cpu_math_library_num_threads(1)
        return PaddleInference("lean", config, batches=False)


@pytest.mark.parametrize("family", ["ppyoloe_seg", "mask_rtdetr"])
def test_a_program_without_its_masks_finds_the_same_objects(directories, pictures, family):
    spec = load_model_dir(directories[family])
    assert ends_with_masks(spec)
    whole, lean = plain_cpu(spec, threads=1), lean_in_paddle(spec)
    for picture in pictures[:3]:
        image = prepare(spec, picture)
        (full,), (small,) = execute(spec, whole, [image]), execute(spec, lean, [image])
        assert "bits" in full.arrays and "bits" not in small.arrays
        wanted, found = finish(spec, full, threshold=0.0), finish(spec, small, threshold=0.0)
        assert len(found) == len(wanted) > 10
        assert np.array_equal(found.class_ids, wanted.class_ids) and np.array_equal(found.scores, wanted.scores)
        np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, rtol=1e-5, atol=1e-3)
        differing = sum(
            np.count_nonzero(rle.decode(one) != rle.decode(other)) for one, other in zip(found.masks, wanted.masks, strict=True)
        )
        assert differing <= 1e-4 * len(found) * picture.shape[0] * picture.shape[1]


@pytest.mark.parametrize("engine", ["paddle-onednn", "onnxruntime", "openvino"])
@pytest.mark.parametrize("family", ["ppyoloe_seg", "mask_rtdetr"])
def test_engines_but_the_plain_one_make_no_masks_of_full_size(directories, pictures, tmp_path, monkeypatch, family, engine):
    for package in choose.ENGINES[engine].packages:
        pytest.importorskip(package)
    monkeypatch.setenv("RAYSEG_CACHE", str(tmp_path))
    spec = load_model_dir(directories[family])
    inputs = feed(spec, [prepare(spec, pictures[0])])
    assert len(plain_cpu(spec, threads=1).run(inputs)) == 3
    outputs = open_backend(spec, engine, device="cpu", threads=1).run(inputs)  # compared with the plain engine on opening
    assert len(outputs) == 4 and outputs[3].ndim == 4 and outputs[3].shape[2] < spec.fixed_input.height


def test_the_parameters_stay_all_of_them(directories):
    for family in ("ppyoloe_seg", "mask_rtdetr"):
        before = document(directories[family])
        kept = copy.deepcopy(before)
        after = without_masks(before)
        assert before == kept
        names = [[op["A"][3] for op in main_block(each) if op["#"] == "p"] for each in (before, after)]
        assert names[0] == names[1]
        assert len(main_block(after)) < len(main_block(before))


def test_masks_that_are_no_sums_of_prototypes_stay(directories, model_dirs):
    assert without_masks(document(directories["rcnn"])) is None
    assert not ends_with_masks(load_model_dir(directories["rcnn"]))
    for task in ("instance", "semantic"):
        assert without_masks(document(model_dirs[task, "lean"])) is None
        assert not ends_with_masks(load_model_dir(model_dirs[task, "lean"]))


def test_a_program_written_in_another_way_is_left_alone(directories):
    opaque = document(directories["ppyoloe_seg"])
    flat = [operator for operator in main_block(opaque) if kind(operator) == "flatten"][-1]
    flat["#"] = "1.tanh"
    assert without_masks(opaque) is None
    torn = document(directories["ppyoloe_seg"])
    del main_block(torn)[len(main_block(torn)) // 2]
    assert without_masks(torn) is None
